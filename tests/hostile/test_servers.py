"""Downloads: what a server may do wrong, the limits in size and time, and what is never printed or left."""

import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shared_http import Stream, answering, folder, serving

from psa_paddle.utils.media import MediaError, downloads, load_image, load_video

DEMO = Path(__file__).parents[2] / "demo"
JPEG = (DEMO / "sample.jpg").read_bytes()
OK = b"HTTP/1.1 200 OK\r\n"
HTML = b"<!doctype html><title>Sign in</title>" + b" " * 500


def sized(body: bytes, length=None) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def chunked(body: bytes, end=b"0\r\n\r\n") -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n%s" % (len(body), body, end)


def pixels(image) -> np.ndarray:
    return np.asarray(image)


ANSWERED = {
    "a length": (OK + sized(JPEG),),
    "no length": (OK + b"\r\n" + JPEG,),
    "Content-Length: abc": (OK + b"Content-Length: abc\r\n\r\n" + JPEG,),
    "an empty Content-Length": (OK + b"Content-Length: \r\n\r\n" + JPEG,),
    "chunks": (OK + chunked(JPEG),),
    "a byte at a time": (OK + sized(JPEG[:0], len(JPEG)), *(JPEG[i : i + 1] for i in range(50)), JPEG[50:]),
    "gzip": (OK + b"Content-Encoding: gzip\r\n" + sized(gzip.compress(JPEG)),),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\n" + JPEG,),
    "text/html for a JPEG": (OK + b"Content-Type: text/html\r\n" + sized(JPEG),),
    "no reason": (b"HTTP/1.1 200\r\n" + sized(JPEG),),
    "a cookie and a length twice": (OK + b"Set-Cookie: a=b\r\nContent-Length: %d\r\n" % len(JPEG) + sized(JPEG),),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_answers(name):
    with serving(answering(*ANSWERED[name])) as address:
        assert np.array_equal(pixels(load_image(f"{address}/a.jpg")), pixels(Image.open(DEMO / "sample.jpg")))


@pytest.mark.parametrize(
    "path", ["", "/", "/..", "/a/..", "/a/../", "/.", "/%2e%2e", "/%00", "/" + "n" * 300 + ".jpg", "/长.jpg",
             "/a?b=/../c", "/a b.jpg", "/a%20b.jpg", "//a", "/a#../b"],
)  # fmt: skip
def test_any_path_is_fine(path):
    """The end of a URL is no file name here."""
    with serving(answering(OK + sized(JPEG))) as address:
        assert load_image(address + path).size == (224, 168)


def test_redirects_are_followed():
    with serving(answering(OK + sized(JPEG))) as there:
        hop = b"HTTP/1.1 302 Found\r\nLocation: %s/x\r\n" % there.encode()
        with serving(answering(hop + sized(b""))) as here:
            assert load_image(f"{here}/a.jpg").size == (224, 168)


def test_clip_over_http():
    with serving(folder(DEMO)) as address:
        clip = load_video(f"{address}/sample.mp4", fps=0.5)
    assert np.array_equal(clip.frames, load_video(DEMO / "sample.mp4", fps=0.5).frames)


REFUSED = {
    "404": ((b"HTTP/1.1 404 Not Found\r\n" + sized(b"gone"),), "answered 404 Not Found; check the address"),
    "500": ((b"HTTP/1.1 500 Oops\r\n" + sized(HTML),), "answered 500 Oops"),
    "401": ((b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n" + sized(b""),), "answered 401 Unauthorized"),
    "a reason with a line's worth of colour": ((b"HTTP/1.1 404 \x1b[31mred\r\n" + sized(b""),), r"404 \\x1b\[31mred"),
    "a reason of 5,000 bytes": ((b"HTTP/1.1 404 " + b"x" * 5000 + b"\r\n" + sized(b""),), "answered 404 xxx"),
    "an empty file": ((OK + sized(b""),), "answered with an empty file"),
    "204": ((b"HTTP/1.1 204 No Content\r\n\r\n",), "answered with an empty file"),
    "a web page": ((OK + sized(HTML),), r"is a web page \(HTML\), not a"),
    "a web page of another type": ((OK + b"Content-Type: video/mp4\r\n" + sized(HTML),), r"is a web page \(HTML\)"),
    "less than announced": ((OK + sized(JPEG[:500], len(JPEG)),), "could not be downloaded"),
    "a chunk cut off": ((OK + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n" + JPEG[:500],), "could not be downloaded"),
    "no last chunk": ((OK + chunked(JPEG[:500], b""),), "could not be downloaded"),
    "a chunk size of text": ((OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + JPEG,), "could not be downloaded"),
    "gzip that is none": ((OK + b"Content-Encoding: gzip\r\n" + sized(JPEG),), "could not be downloaded"),
    "two lengths": ((OK + b"Content-Length: 5\r\n" + sized(JPEG),), "could not be downloaded"),
    "nothing at all": ((), "could not be downloaded"),
    "no HTTP": ((b"SSH-2.0-OpenSSH_9.0\r\n",), "could not be downloaded"),
    "a header without end": ((OK + b"X: " + b"y" * 100_000,), "could not be downloaded"),
    "a thousand headers": ((OK + b"X: y\r\n" * 1000 + sized(JPEG),), "could not be downloaded"),
    "a redirect to itself": ((b"HTTP/1.1 302 Found\r\nLocation: /x\r\n" + sized(b""),), "could not be downloaded"),
    "a redirect to a file": ((b"HTTP/1.1 302 F\r\nLocation: file:///etc/passwd\r\n" + sized(b""),), "could not be"),
    "a redirect to nowhere": ((b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:9/\r\n" + sized(b""),), "could not be"),
    "a bomb": ((OK + b"Content-Encoding: gzip\r\n" + sized(gzip.compress(bytes(70 << 20), 1)),), "larger than 64 MiB"),
    "70 MiB": ((OK + sized(b"", 70 << 20),), "larger than 64 MiB"),
    "10**30 bytes": ((OK + sized(b"", 10**30),), "larger than 64 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, capfd):
    parts, words = REFUSED[name]
    with serving(answering(*parts)) as address:
        url = address.replace("://", "://user:se%2Fcret@") + "/a.jpg?token=secret"
        with pytest.raises(MediaError, match=words) as caught:
            load_image(url)
    sentence = str(caught.value)
    assert sentence.startswith("image ") and "\n" not in sentence and len(sentence) < 500
    assert_no_secret(caught)
    assert "127.0.0.1" in sentence and capfd.readouterr() == ("", "")


def assert_no_secret(caught) -> None:
    """Neither in the sentence nor in what a traceback would show before it."""
    error = caught.value
    assert "cret" not in str(error) and "user" not in str(error)
    assert error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@127.0.0.1:9/a.jpg",
        "http://user:secret@host@127.0.0.1:9/a.jpg",
        "http://user:sec/ret@127.0.0.1:9/a.jpg",
        "http://user:secret@/a.jpg",
        "http://user:secret@[::1/a.jpg",
        "http://user:secret@" + "a" * 300 + "/x",
        "HTTP://user:secret@127.0.0.1:9/a.jpg",
        "ftp://user:secret@host/a.jpg",
        "http://127.0.0.1:9/a.jpg?X-Amz-Signature=secret",
        "http://user:secret@127.0.0.1:99999/a.jpg",
    ],
)
def test_a_password_is_never_printed(url):
    with pytest.raises(MediaError) as caught:
        load_image(url)
    assert "secret" not in str(caught.value) and "ret@" not in str(caught.value)
    assert caught.value.__cause__ is None and (caught.value.__context__ is None or caught.value.__suppress_context__)


@pytest.mark.parametrize(
    "url", ["http://", "http:///a.jpg", "http://.../a", "http://a..b/c", "https://127.0.0.1:9/", "http://[]/"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(MediaError, match="could not be downloaded"):
        load_image(url)


@pytest.mark.parametrize("announced", [True, False])
def test_progress_of_a_download_in_bytes(announced):
    seen = []
    zeros = type("Zeros", (Stream,), {"mebibytes": 3, "announced": announced})
    with serving(zeros) as address, pytest.raises(MediaError, match="not an image file"):
        load_image(f"{address}/a.jpg", downloading=lambda done, total: seen.append((done, total)))
    counts = [done for done, _ in seen]
    assert len(counts) > 2 and counts == sorted(set(counts)) and counts[-1] == 3 << 20
    assert {total for _, total in seen} == {3 << 20 if announced else 0}
    seen.clear()
    with serving(folder(DEMO)) as address:
        load_video(f"{address}/sample.mp4", fps=0.2, downloading=lambda done, total: seen.append((done, total)))
    assert seen[-1] == ((DEMO / "sample.mp4").stat().st_size,) * 2


def test_size_limit_holds_while_downloading():
    """The limit does not rely on the server saying how much it sends."""
    with serving(type("Long", (Stream,), {"announced": False})) as address:
        with pytest.raises(MediaError, match="larger than 2 MiB"):
            load_image(f"{address}/x.jpg", max_bytes=2 << 20)


def dripping(body: bytes):
    return answering(OK + sized(b"", 10_000), *(body[i : i + 1] for i in range(len(body))), pause=0.05)


def test_a_byte_now_and_then_is_too_slow(monkeypatch):
    monkeypatch.setattr(downloads, "SLOW_TIME", 0.4)
    started = time.monotonic()
    with serving(dripping(JPEG[:100])) as address, pytest.raises(MediaError, match="less than 1 KiB a second"):
        load_image(f"{address}/a.jpg")
    assert time.monotonic() - started < 6


def test_a_download_ends_some_time(monkeypatch):
    monkeypatch.setattr(downloads, "TOTAL_TIME", 0.4)
    with serving(dripping(JPEG[:100])) as address, pytest.raises(MediaError, match="took longer than"):
        load_image(f"{address}/a.jpg")


def test_silence_ends_some_time(monkeypatch):
    monkeypatch.setattr(downloads, "SILENCE", 0.3)
    with serving(answering(OK + sized(JPEG[:500], len(JPEG)), pause=1)) as address:
        with pytest.raises(MediaError, match="could not be downloaded .ReadTimeout"):
            load_image(f"{address}/a.jpg")


def test_headers_that_trickle_end_some_time(monkeypatch):
    """Each byte begins a socket's timeout anew; the time for the headers does not."""
    monkeypatch.setattr(downloads, "HEADER_TIME", 0.4)
    header = OK + b"X: " + b"y" * 100
    started = time.monotonic()
    with serving(answering(*(header[i : i + 1] for i in range(len(header))), pause=0.05)) as address:
        with pytest.raises(MediaError, match="could not be downloaded"):
            load_image(f"{address}/a.jpg")
        assert time.monotonic() - started < 4


CHILD = "import sys; from psa_paddle.utils.media import load_video; load_video(sys.argv[1])"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_a_killed_download_leaves_nothing(how, tmp_path):
    sent, go_on = threading.Event(), threading.Event()

    class Slow(Stream):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(4 << 20))
            sent.set()
            go_on.wait(60)

    with serving(Slow) as address:
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, f"{address}/a.mp4"], env=environment, stderr=subprocess.PIPE
        )
        assert sent.wait(40)
        deadline = time.monotonic() + 30
        while not any("psa" in name or "/#" in name or "deleted" in name for name in open_names(child.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(how)
        child.wait(30)
        child.stderr.close()
        go_on.set()
    assert child.returncode != 0 and list(tmp_path.iterdir()) == []


def open_names(pid: int) -> list[str]:
    folder = Path(f"/proc/{pid}/fd")
    names = []
    for entry in folder.iterdir():
        try:
            names.append(os.readlink(entry))
        except OSError:
            continue
    return names


def test_a_full_disk_gets_a_sentence(monkeypatch):
    class Full:
        def write(self, chunk):
            raise OSError(28, "No space left on device")

    with serving(answering(OK + sized(JPEG))) as address:
        with pytest.raises(MediaError, match="could not be kept on this disk: No space left on device"):
            downloads.download(f"{address}/a.jpg", "image", 1 << 20, Full())
