"""Whether a file ends before its own structure says."""

from __future__ import annotations

import os

from .errors import MediaError

EBML = b"\x1a\x45\xdf\xa3"
BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"free", b"skip", b"wide", b"styp", b"sidx", b"meta", b"uuid")
SEGMENT = b"\x18\x53\x80\x67"


def refuse_cut_off(file, name: str) -> None:
    """Refuse an MP4, MOV, Matroska, WebM, AVI or WebP file that ends too early; a decoder would play the rest.

    Leaves the file at its start.

    Raises:
        MediaError: the file is shorter than it says.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    cut = False
    if head[4:8] == b"ftyp":
        cut = _end_of_boxes(file, size) > size
    elif head.startswith(EBML):
        cut = _end_of_segment(file) > size
    elif head.startswith(b"RIFF"):
        length = int.from_bytes(head[4:8], "little")
        cut = 0 < length < 0xFFFFFFFF and 8 + length > size
    file.seek(0)
    if cut:
        raise MediaError(f"{name} is truncated: the file ends before its own index says; copy it again.")


def _end_of_boxes(file, size: int) -> int:
    """Where the last box at the top of an MP4 ends (ISO/IEC 14496-12, 4.2)."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length == 0 or head[4:8] not in BOXES:  # the box reaches to the end of the file, or is none
            return size
        at += max(length, 8)
    return at


def _end_of_segment(file) -> int:
    """Where a Matroska file's segment ends (RFC 8794, RFC 9559); 0 where its size is not known, as in a recording."""
    file.seek(len(EBML))
    length, _ = _variable_integer(file)
    file.seek(length, os.SEEK_CUR)
    if file.read(len(SEGMENT)) != SEGMENT:
        return 0
    length, width = _variable_integer(file)
    unknown = (1 << 7 * width) - 1
    return 0 if length == unknown else file.tell() + length


def _variable_integer(file) -> tuple[int, int]:
    """EBML's number of one to eight bytes, and how many bytes it took; 0 bytes at the end of the file."""
    first = file.read(1)
    if not first or not first[0]:
        return 0, 1
    width = 9 - first[0].bit_length()
    rest = file.read(width - 1)
    return int.from_bytes(bytes([first[0] ^ 1 << 8 - width]) + rest, "big"), width
