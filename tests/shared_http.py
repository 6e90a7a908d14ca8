"""Servers on this machine for the tests of downloads."""

import http.server
import threading
from contextlib import contextmanager
from functools import partial


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a line on stderr for each request."""

    def log_message(self, *args):
        pass


class Stream(http.server.BaseHTTPRequestHandler):
    """Answers with ``mebibytes`` of zeros, announced or not; sends only the announcement when ``body`` is False."""

    mebibytes, announced, body = 8, True, True

    def do_GET(self):
        self.send_response(200)
        if self.announced:
            self.send_header("Content-Length", str(self.mebibytes << 20))
        self.end_headers()
        try:
            for _ in range(self.mebibytes if self.body else 0):
                self.wfile.write(bytes(1 << 20))
        except OSError:
            pass  # the client hung up, as it should

    def log_message(self, *args):
        pass


@contextmanager
def serving(handler):
    """Address of a server with this handler, up for the block."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()


def folder(path):
    """A handler that serves the files of ``path``."""
    return partial(Files, directory=path)
