"""What reaches Gradio, and what does not."""

import asyncio
import json

import pytest

from psa_paddle.web.gate import JOIN_BYTES, POLICY, ROUTES, Gate, named_files
from psa_paddle.web.limits import MIB, Limits
from psa_paddle.web.uploads import Uploads

UPLOAD, JOIN = "/gradio_api/upload", "/gradio_api/queue/join"


@pytest.fixture
def uploads():
    uploads = Uploads()
    yield uploads
    uploads.close()


class Inside:
    """What stands behind the gate: reads all, and says so."""

    def __init__(self):
        self.bodies, self.wait = [], None

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        if self.wait is not None:
            await self.wait.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


async def call(gate, method, path, body=b"", **headers):
    """(status, headers, text) of a request; the body comes in pieces."""
    pieces = [body[i : i + 1000] for i in range(0, len(body), 1000)] or [b""]
    sent = []

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    named = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": named, "query_string": b""}
    await gate(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(m.get("body", b"") for m in sent[1:]).decode()


def one(gate, *request, **headers):
    return asyncio.run(call(gate, *request, **headers))


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/gradio_api/file=/etc/passwd"), ("GET", "/gradio_api/file=../../etc/passwd"),
        ("GET", "/gradio_api/file=http://localhost/"), ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://localhost/"), ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/predict"), ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/component_server"), ("GET", "/monitoring"), ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/file=/etc/passwd\n/"), ("PUT", "/gradio_api/upload"), ("GET", "/gradio_api/upload"),
        ("GET", "//gradio_api/file=/etc/passwd"), ("DELETE", "/"), ("GET", "/gradio_api/heartbeat/a/../../file=x"),
    ],
)  # fmt: skip
def test_only_what_the_page_needs_is_there(uploads, method, path):
    inside = Inside()
    assert one(Gate(inside, uploads, Limits()), method, path)[0] == 404 and not inside.bodies


def test_what_the_page_needs_comes_with_its_policy(uploads):
    gate = Gate(Inside(), uploads, Limits())
    for method, path in (("GET", "/"), ("GET", "/assets/a-b.js"), ("GET", "/gradio_api/heartbeat/abc"), ("HEAD", "/")):
        status, headers, text = one(gate, method, path)
        assert (status, text) == (200, "inside") and headers[b"content-security-policy"] == POLICY.encode()
        assert headers[b"x-content-type-options"] == b"nosniff"
    assert "default-src 'self'" in POLICY and "http" not in POLICY and "*" not in POLICY
    assert set(ROUTES) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize(
    "length, status", [(None, 411), ("x", 411), ("-1", 411), (2 << 30, 413), (3 * MIB, 413), (1000, 200)]
)
def test_an_upload_says_its_length_before_anything_is_read(uploads, length, status):
    inside = Inside()
    headers = {} if length is None else {"content_length": length}
    got = one(Gate(inside, uploads, Limits(upload_bytes=2 * MIB)), "POST", UPLOAD, b"x" * 1000, **headers)
    assert got[0] == status and len(inside.bodies) == (status == 200)
    assert status != 413 or got[2] == "A file may have 2 MiB at most."
    chinese = one(Gate(inside, uploads, Limits()), "POST", UPLOAD, content_length=9 << 30, accept_language="zh-CN,en")
    assert chinese[2] == "文件最大 200 MiB。"


def test_uploads_together_are_bounded(uploads):
    (uploads.arriving / "a").write_bytes(bytes(1000))
    limits = Limits(upload_bytes=1500, stored_bytes=1500)
    assert one(Gate(Inside(), uploads, limits), "POST", UPLOAD, content_length=600)[0] == 503
    assert one(Gate(Inside(), uploads, limits), "POST", UPLOAD, content_length=500)[0] == 200


def test_few_uploads_at_once(uploads):
    async def three():
        inside = Inside()
        gate, inside.wait = Gate(inside, uploads, Limits(uploads=2)), asyncio.Event()
        slow = [asyncio.create_task(call(gate, "POST", UPLOAD, content_length=0)) for _ in range(2)]
        await asyncio.sleep(0.01)
        refused = await call(gate, "POST", UPLOAD, content_length=0)
        inside.wait.set()
        done = [(await task)[0] for task in slow]
        return refused, done, (await call(gate, "POST", UPLOAD, content_length=0))[0]

    refused, done, later = asyncio.run(three())
    assert refused[0] == 503 and "try again" in refused[2] and done == [200, 200] and later == 200


def test_an_upload_that_never_ends_is_ended(uploads, monkeypatch):
    monkeypatch.setattr("psa_paddle.web.gate.UPLOAD_SECONDS", 0.01)

    async def hang():
        inside = Inside()
        gate, inside.wait = Gate(inside, uploads, Limits(uploads=1)), asyncio.Event()
        with pytest.raises(IndexError):  # no answer
            await call(gate, "POST", UPLOAD, content_length=0)
        inside.wait.set()
        return (await call(gate, "POST", UPLOAD, content_length=0))[0]

    assert asyncio.run(hang()) == 200


@pytest.mark.parametrize(
    "data, status",
    [
        ({"data": ["What is this?"]}, 200),
        ({"data": [{"path": "{here}", "meta": {"_type": "gradio.FileData"}}]}, 200),
        ({"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]}, 403),
        ({"data": [{"path": "{folder}/../../../etc/passwd"}]}, 403),
        ({"data": [[{"a": {"path": "http://localhost/x"}}]]}, 403),
        ({"data": [{"path": ["{here}"]}]}, 403),
        ({"data": ["x" * JOIN_BYTES]}, 413),
        ("nothing", 400),
    ],
)
def test_a_call_names_uploaded_files_alone(uploads, data, status):
    here, inside = uploads.arriving / "a.mp4", Inside()
    here.write_bytes(b"1")
    text = "{" if data == "nothing" else json.dumps(data)
    text = text.replace("{here}", str(here)).replace("{folder}", str(uploads.arriving))
    assert one(Gate(inside, uploads, Limits()), "POST", JOIN, text.encode())[0] == status
    assert inside.bodies == [text.encode()] * (status == 200)


def test_the_language_is_known_before_any_other_script(uploads):
    async def inside(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"32")]})
        for piece in (b"<html><he", b"ad><script>1</script></head>"):
            await send(
                {"type": "http.response.body", "body": piece, "more_body": piece != b"ad><script>1</script></head>"}
            )

    status, headers, text = one(Gate(inside, uploads, Limits()), "GET", "/")
    assert (
        status == 200
        and text.startswith("<html><head><script>\nconst asked")
        and text.endswith("<script>1</script></head>")
    )
    assert headers[b"content-length"] == str(len(text)).encode() and b"content-security-policy" in headers


def test_a_deep_call_is_refused(uploads):
    assert one(Gate(Inside(), uploads, Limits()), "POST", JOIN, b"[" * 100_000)[0] == 400
    assert list(named_files({"path": {"path": 1}, "b": [{"path": 2}]})) == [{"path": 1}, 1, 2]
