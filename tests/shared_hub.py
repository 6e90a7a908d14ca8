"""A model hub and a server that stalls, on this machine."""

import http.server
import threading
from pathlib import Path


class _Silent(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass


def hub(folder):
    """A handler that answers as Hugging Face's hub does for one revision of a repository, made of a folder's files."""

    class Hub(_Silent):
        def do_HEAD(self):
            name = self.path.split("?")[0].rpartition("/resolve/main/")[2]
            file = Path(folder) / name
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

    return Hub


class Stall:
    """``handler`` takes a request, which sets ``reached``, and answers nothing until ``leave`` is set."""

    def __init__(self):
        reached, leave = threading.Event(), threading.Event()

        class Stalled(_Silent):
            def do_GET(self):
                reached.set()
                leave.wait(30)

        self.handler, self.reached, self.leave = Stalled, reached, leave
