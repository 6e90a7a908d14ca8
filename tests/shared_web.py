"""What the tests of the page share."""

import asyncio
import json
import secrets
import socket
from contextlib import aclosing

import requests
from shared_demo import ROOT

from psa_paddle.integrations.language.answering.messages import Looking

IMAGE = str(ROOT / "demo" / "sample.jpg")
LOOKING = Looking(fps=1.0, max_frames=4, frame_pixels=28 * 28 * 40)
TOKENS = 8  # most new ones


def views(generator, until=None):
    """All views of an answer; ``until(view)`` true: the visitor leaves there."""

    async def collect():
        seen = []
        async with aclosing(generator) as shown:
            async for view in shown:
                seen.append(view)
                if until is not None and until(view):
                    break
        return seen

    return asyncio.run(collect())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Visitor:
    """Somebody who opens the page without a browser, and calls what its buttons call."""

    def __init__(self, address: str):
        self.address, self.name = address.rstrip("/"), secrets.token_hex(6)
        self.http = requests.Session()
        self.http.trust_env = False
        config = self.http.get(f"{self.address}/config", timeout=20).json()
        ids = {c["props"].get("elem_id"): c["id"] for c in config["components"]}
        self._events = {tuple(target): d["id"] for d in config["dependencies"] for target in d["targets"]}
        self._ids = ids

    def upload(self, name: str, data) -> requests.Response:
        """Send a file."""
        return self.http.post(f"{self.address}/gradio_api/upload", files={"files": (name, data)}, timeout=60)

    def stay(self) -> socket.socket:
        """What an open page holds open; the visitor has left when it is closed."""
        host, port = self.address.removeprefix("http://").split(":")
        line = socket.create_connection((host, int(port)))
        line.sendall(f"GET /gradio_api/heartbeat/{self.name} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        line.recv(1)
        return line

    def join(self, element: str, event: str, data: list) -> requests.Response:
        """Ask for what an event of an element does."""
        body = {"data": data, "fn_index": self._events[self._ids[element], event], "session_hash": self.name}
        return self.http.post(f"{self.address}/gradio_api/queue/join", json=body, timeout=60)

    def messages(self, timeout=120):
        """What the server says about it, one by one."""
        where = f"{self.address}/gradio_api/queue/data"
        with self.http.get(where, params={"session_hash": self.name}, stream=True, timeout=timeout) as stream:
            for line in stream.iter_lines():
                if line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    yield message
                    if message["msg"] in ("process_completed", "close_stream", "unexpected_error"):
                        return

    def call(self, element: str, event: str, data: list) -> list:
        """The outputs of an event when it is done.

        Raises:
            RuntimeError: it was refused or failed.
        """
        answer = self.join(element, event, data)
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {answer.text}")
        last = list(self.messages())[-1]
        if not last.get("success"):
            raise RuntimeError(str(last))
        return last["output"]["data"]
