"""What a file is, by its first bytes."""

from __future__ import annotations

import codecs
from typing import NamedTuple

HEAD_BYTES = 4096
TS_PACKET = 188


class Kind(NamedTuple):
    """family: image, video, sound, other, or unknown; name: what to call it, with its article."""

    family: str
    name: str


UNKNOWN = Kind("unknown", "no file that is known here")
STARTS = (
    (0, b"\xff\xd8\xff", Kind("image", "a JPEG picture")),
    (0, b"\x89PNG\r\n\x1a\n", Kind("image", "a PNG picture")),
    (0, b"GIF8", Kind("image", "a GIF picture")),
    (8, b"WEBP", Kind("image", "a WebP picture")),
    (0, b"II*\0", Kind("image", "a TIFF picture")),
    (0, b"MM\0*", Kind("image", "a TIFF picture")),
    (8, b"AVI ", Kind("video", "an AVI video")),
    (0, b"\x1a\x45\xdf\xa3", Kind("video", "a Matroska or WebM video")),
    (0, b"FLV\x01", Kind("video", "an FLV video")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Kind("video", "an ASF or WMV video")),
    (8, b"WAVE", Kind("sound", "a WAV sound file")),
    (0, b"ID3", Kind("sound", "an MP3 sound file")),
    (0, b"fLaC", Kind("sound", "a FLAC sound file")),
    (0, b"%PDF", Kind("other", "a PDF document")),
    (0, b"%!PS", Kind("other", "a PostScript document")),
    (0, b"PK\x03\x04", Kind("other", "a ZIP archive or an office document")),
    (0, b"\x1f\x8b", Kind("other", "a gzip archive")),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("other", "a 7z archive")),
    (0, b"Rar!", Kind("other", "a RAR archive")),
    (0, b"#EXTM3U", Kind("other", "a playlist (HLS)")),
    (0, b"version https://git-lfs", Kind("other", "a Git LFS pointer (run 'git lfs pull')")),
)
HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<!--")
BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF", b"avis": "AVIF"}


def kind_of(head: bytes) -> Kind:
    """The kind of a file that begins with ``head``, its first ``HEAD_BYTES`` bytes or fewer."""
    for at, start, kind in STARTS:
        if head[at:].startswith(start) and (at == 0 or head.startswith(b"RIFF")):
            return kind
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"M4A ", b"M4B "):
            return Kind("sound", "an M4A sound file")
        return (
            Kind("image", f"a picture in {BRANDS[brand]}") if brand in BRANDS else Kind("video", "an MP4 or MOV video")
        )
    if head[:1] == b"\x47" and head[TS_PACKET : TS_PACKET + 1] == b"\x47":
        return Kind("video", "an MPEG-TS video")
    return _kind_of_text(head)


def _kind_of_text(head: bytes) -> Kind:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(HTML):
        return Kind("other", "a web page (HTML)")
    if text.startswith((b"<?xml", b"<svg")):
        return Kind("other", "an SVG drawing" if b"<svg" in text else "an XML file")
    if not head or any(byte < 9 for byte in head):
        return UNKNOWN
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return UNKNOWN
    return Kind("other", "a text file")
