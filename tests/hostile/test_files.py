"""Names that lead to no file that can be read: one sentence, at once."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from shared_media import picture

from psa_paddle.utils.media import MediaError, load_image, load_video

LOADERS = {"image": load_image, "video": load_video}
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>" * 20


def fifo(folder: Path):
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def unix_socket(folder: Path):
    listener = socket.socket(socket.AF_UNIX)
    os.chdir(folder)  # a socket's path is short
    listener.bind("s")
    listener.close()
    return folder / "s"


def loop(folder: Path):
    (folder / "a.mp4").symlink_to(folder / "b.mp4")
    (folder / "b.mp4").symlink_to(folder / "a.mp4")
    return folder / "a.mp4"


def dangling(folder: Path):
    (folder / "a.mp4").symlink_to(folder / "gone.mp4")
    return folder / "a.mp4"


def holding(data: bytes, name="a.mp4"):
    def make(folder: Path):
        (folder / name).write_bytes(data)
        return folder / name

    return make


# name: (what makes it in a folder, words of the sentence)
REFUSED = {
    "missing": (lambda d: d / "no.mp4", "does not exist; check the path"),
    "folder": (lambda d: d, "is a folder; name a file in it"),
    "empty": (holding(b""), "is empty"),
    "pipe": (fifo, "is a pipe; write it to a file first"),
    "socket": (unix_socket, "is a socket"),
    "/dev/zero": (lambda d: "/dev/zero", "is a device; name a file"),
    "/dev/null": (lambda d: "/dev/null", "is a device; name a file"),
    "link to itself": (loop, "cannot be opened: Too many levels of symbolic links"),
    "link to nothing": (dangling, "does not exist"),
    "below a file": (lambda d: holding(b"x")(d) / "b.mp4", "does not exist"),
    "name over 255 bytes": (lambda d: d / ("长" * 100 + ".mp4"), "cannot be opened: File name too long"),
    "path over 4096 bytes": (lambda d: "a/" * 3000 + "b.mp4", "cannot be opened: File name too long"),
    "zero byte": (lambda d: "a\0b.mp4", "has a zero byte in it"),
    "nobody's home": (lambda d: "~nobody_of_that_name/a.mp4", "cannot be found: Could not determine home"),
    "line break in the name": (lambda d: "a\nb.mp4", r"'a\\nb.mp4' does not exist"),
    "name that is no text": (lambda d: os.fsdecode(b"\xff\xfe.mp4"), "does not exist"),
    "data: URL": (lambda d: "data:image/png;base64," + "A" * 100_000, "File name too long"),
    "file: URL": (lambda d: f"file://{d}/a.mp4", "is not http or https"),
    "ftp: URL": (lambda d: "ftp://host/v.mp4", "is not http or https"),
    "rtsp: URL": (lambda d: "rtsp://user:secret@camera/live", "is not http or https"),
    "HTML": (holding(HTML), r"is a web page \(HTML\), not a"),
    "HTML with a byte order mark": (holding(b"\xef\xbb\xbf\r\n" + HTML), r"is a web page \(HTML\), not a"),
    "text": (holding("不是视频\n".encode() * 50), "is a text file, not a"),
    "text with tabs": (holding(b"name\tvalue\n" * 50), "is a text file, not a"),
    "JSON": (holding(b'{"error": "no such key"}'), "is a text file, not a"),
    "XML": (holding(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'), "is an XML file, not a"),
    "SVG": (holding(b'<svg xmlns="http://www.w3.org/2000/svg"/>'), "is an SVG drawing, not a"),
    "PDF": (holding(b"%PDF-1.7\n" + bytes(100)), "is a PDF document, not a"),
    "PostScript": (holding(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "is a PostScript document, not a"),
    "ZIP": (holding(b"PK\x03\x04" + bytes(100)), "is a ZIP archive or an office document, not a"),
    "gzip": (holding(b"\x1f\x8b\x08" + bytes(100)), "is a gzip archive, not a"),
    "Git LFS pointer": (
        holding(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "is a Git LFS pointer .run 'git lfs pull'., not a",
    ),
    "MP3": (holding(b"ID3\x04" + bytes(100)), "is an MP3 sound file, not a"),
    "WAV": (holding(b"RIFF\x24\0\0\0WAVEfmt " + bytes(100)), "is a WAV sound file, not a"),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, words = REFUSED[name]
    source = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(MediaError, match=words) as caught:
        LOADERS[kind](source)
    sentence = str(caught.value)
    assert sentence.startswith(kind) and sentence.endswith(".") and "\n" not in sentence and len(sentence) < 400
    assert "secret" not in sentence and sentence.encode("utf-8")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("source", [7, None, b"a.mp4", ["a.mp4"], {}, object()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("kind", LOADERS)
def test_what_is_no_name(kind, source):
    with pytest.raises(TypeError, match=f"{kind} must be a path or an http"):
        LOADERS[kind](source)


@pytest.mark.parametrize(
    "pixels,error,words",
    [
        (np.zeros((4, 4, 3)), TypeError, "must be uint8"),
        (np.zeros((4, 4), np.uint16), TypeError, "must be uint8"),
        (np.zeros(4, np.uint8), MediaError, r"must be \[H, W\]"),
        (np.zeros((4, 4, 2), np.uint8), MediaError, r"must be \[H, W\]"),
        (np.zeros((3, 4, 4, 3), np.uint8), MediaError, r"must be \[H, W\]"),
        (np.zeros((0, 4, 3), np.uint8), MediaError, r"must be \[H, W\]"),
    ],
    ids=lambda x: f"{x.dtype} {list(x.shape)}" if isinstance(x, np.ndarray) else "",
)
def test_array_that_is_no_picture(pixels, error, words):
    with pytest.raises(error, match=words):
        load_image(pixels)


def test_a_film_is_no_picture_and_says_what_it_is():
    demo = Path(__file__).parents[2] / "demo"
    with pytest.raises(MediaError, match="is an MP4 or MOV video, not an image file; ask about it as a video"):
        load_image(demo / "sample.mp4")
    with pytest.raises(MediaError, match="is a JPEG picture that does not move; ask about it as an image"):
        load_video(demo / "sample.jpg")


@pytest.mark.parametrize("name", ["12:30.png", "a|b.png", "concat:a.png", "%d.png", "-i.png", " .png", "日本語.png"])
def test_names_with_a_meaning_elsewhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture().save(tmp_path / "x.png")
    Path("x.png").rename(name)
    assert load_image(name).size == (64, 48)


@pytest.mark.parametrize("name", ["12:30.mp4", "concat:a.mp4", "pipe:0", "%03d.mp4", "subfile,,start,0,end,9,,:a"])
def test_films_with_names_that_have_a_meaning_elsewhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes((Path(__file__).parents[2] / "demo" / "sample.mp4").read_bytes())
    assert load_video(name, fps=0.1).frames.shape == (2, 252, 336, 3)


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    picture().save(tmp_path / "a.png")
    assert load_image("~/a.png").size == (64, 48)
