"""Servers on this machine for the tests of downloads."""

import http.server
import socketserver
import threading
import time
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


class Raw(socketserver.BaseRequestHandler):
    """Reads a request, sends ``parts`` as they are, ``pause`` seconds apart, and hangs up."""

    parts, pause = (), 0.0

    def handle(self):
        self.request.settimeout(10)
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.request.recv(4096)
            if not more:
                return
            data += more
        try:
            for part in self.parts:
                self.request.sendall(part)
                time.sleep(self.pause)
        except OSError:
            pass  # the client hung up, as it should


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *args):
        pass  # a client that hangs up is what these tests are about


@contextmanager
def serving(handler):
    """Address of a server with this handler, up for the block."""
    with _Server(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=partial(httpd.serve_forever, poll_interval=0.02))
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()


def answering(*parts: bytes, pause: float = 0.0):
    """A handler that sends these bytes, whatever it is asked."""
    return type("Answer", (Raw,), {"parts": parts, "pause": pause})


def folder(path):
    """A handler that serves the files of ``path``."""
    return partial(Files, directory=path)
