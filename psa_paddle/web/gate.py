"""What reaches Gradio: the routes that the page needs, uploads of a bounded size, no files but those sent here."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from .limits import Limits
from .uploads import Uploads
from .words import say

# Gradio has many more, some of which fetch addresses, run functions beside the queue, or take files without a bound.
ROUTES = {
    "GET": r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static|svelte)/.*"
    r"|/gradio_api/(startup-events|heartbeat/\w+|queue/data|upload_progress)",
    "HEAD": r"/",
    "POST": r"/gradio_api/(upload|queue/join|cancel|reset)",
}
UPLOAD, JOIN = "/gradio_api/upload", "/gradio_api/queue/join"
UPLOAD_SECONDS = 900.0  # for one file to come in
JOIN_BYTES = 256 << 10  # of a question and what goes with it
FORM_BYTES = 64 << 10  # of an upload's form around the file
# The page needs nothing from elsewhere, and whatever an answer says, the browser fetches nothing from there.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
}  # fmt: skip


# The browser's language, or the one that a link asks for, before any other script runs: Gradio puts its `head` in when
# its words were chosen.
LANGUAGE = b"""<head><script>
const asked = new URLSearchParams(location.search).get("lang");
const spoken = asked === "zh" ? "zh-CN" : asked === "en" ? "en" : navigator.language;
Object.defineProperty(navigator, "language", {get: () => spoken});
document.documentElement.lang = spoken;
</script>"""


class Gate:
    """An ASGI middleware."""

    def __init__(self, app, uploads: Uploads, limits: Limits):
        self._app, self._uploads, self._limits = app, uploads, limits
        self._arriving = 0

    async def __call__(self, scope, receive, send) -> None:
        """Hand a request on, or refuse it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http" or not re.fullmatch(ROUTES.get(scope["method"], ""), scope["path"]):
            return await self._refuse(404, "There is nothing here.", scope, receive, send)

        async def guarded(message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["path"] == "/" and scope["method"] == "GET":
            return await self._app(scope, receive, speaking(guarded))
        if scope["path"] == UPLOAD:
            return await self._upload(scope, receive, guarded)
        if scope["path"] == JOIN:
            return await self._join(scope, receive, guarded)
        await self._app(scope, receive, guarded)

    @staticmethod
    async def _refuse(status: int, words: str, scope, receive, send) -> None:
        if scope["type"] == "http":
            await PlainTextResponse(words, status)(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _upload(self, scope, receive, send) -> None:
        limits, headers = self._limits, Headers(scope=scope)
        length, language = headers.get("content-length", ""), headers.get("accept-language")
        refused = None
        if not length.isdecimal():
            refused = 411, "An upload has to say how long it is."
        elif int(length) > limits.upload_bytes + FORM_BYTES:
            refused = 413, say(language, "upload_too_large", mib=limits.upload_bytes >> 20)
        elif self._arriving >= limits.uploads or self._uploads.stored_bytes() + int(length) > limits.stored_bytes:
            refused = 503, say(language, "uploads_busy")
        if refused is not None:
            return await self._refuse(*refused, scope, receive, send)
        self._arriving += 1
        try:
            await asyncio.wait_for(self._app(scope, receive, send), UPLOAD_SECONDS)
        except asyncio.TimeoutError:  # the connection ends without an answer
            pass
        finally:
            self._arriving -= 1

    async def _join(self, scope, receive, send) -> None:
        """A call of one of the page's functions: files in it have to be uploaded ones."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > JOIN_BYTES:
                return await self._refuse(413, "This is too long for a question.", scope, receive, send)
        try:
            named = list(named_files(json.loads(body)))
        except (ValueError, RecursionError):
            return await self._refuse(400, "This is no call of the page.", scope, receive, send)
        if not all(self._uploads.holds(path) for path in named):
            return await self._refuse(403, "Only files that were uploaded here can be shown.", scope, receive, send)
        sent = False

        async def replay():
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)


def speaking(send):
    """A ``send`` that puts ``LANGUAGE`` where the head of an HTML page begins."""
    start, body = {}, b""

    async def edited(message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
            return
        body += message.get("body", b"")
        if not message.get("more_body", False):
            body = body.replace(b"<head>", LANGUAGE, 1)
            MutableHeaders(scope=start)["content-length"] = str(len(body))
            await send(start)
            await send({"type": "http.response.body", "body": body})

    return edited


def named_files(data) -> Iterator[object]:
    """The path of everything in a call that Gradio could take for a file."""
    if isinstance(data, dict):
        if "path" in data:
            yield data["path"]
        for value in data.values():
            yield from named_files(value)
    elif isinstance(data, list):
        for value in data:
            yield from named_files(value)
