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


class Address(str):
    """http://host:port of ``server``."""

    server = None


@contextmanager
def serving(handler):
    """``Address`` of a server with this handler, up for the block."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        httpd.reached, httpd.leave = threading.Event(), threading.Event()
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            address = Address(f"http://127.0.0.1:{httpd.server_port}")
            address.server = httpd
            yield address
        finally:
            httpd.shutdown()
            thread.join()


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as Hugging Face's hub does for one revision of a repository, whose files are in ``folder``."""

    folder = None

    def do_HEAD(self):
        name = self.path.split("?")[0].rpartition("/resolve/main/")[2]
        file = self.folder / name
        self.data = file.read_bytes() if file.is_file() else None
        self.send_response(404 if self.data is None else 200)
        self.send_header("X-Repo-Commit", "0" * 40)
        if self.data is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(self.data or b"")))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.data or b"")

    def log_message(self, *args):
        pass


class Stalled(http.server.BaseHTTPRequestHandler):
    """Takes a request, says so by ``reached`` of the address's ``server``, and answers when ``leave`` is set."""

    def do_GET(self):
        self.server.reached.set()
        self.server.leave.wait(30)

    def log_message(self, *args):
        pass


def folder(path):
    """A handler that serves the files of ``path``."""
    return partial(Files, directory=path)
