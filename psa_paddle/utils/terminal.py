"""Text on a terminal: which characters it can show, and how many columns they take."""

from __future__ import annotations

import re
import sys
import unicodedata

# What a line may end behind: a space, or a character that is two columns wide; a mark stays with what it follows.
PIECES = re.compile(r"\s+|(?:[\u2e80-\u9fff\uf900-\ufaff]|[^\s\u2e80-\uffef]+)[\u3001-\u301b\uff01-\uff1f]*|.")


def printable() -> None:
    """Let stdout and stderr take every text: an ASCII terminal shows \\u4e00 instead of nothing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(1 + (unicodedata.east_asian_width(one) in "WF") for one in text)


def padded(text: str, width: int) -> str:
    """The text with spaces behind it, ``width`` columns in all."""
    return text + " " * (width - columns(text))


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most ``width`` columns."""
    lines = [""]
    for piece in PIECES.findall(" ".join(text.split())):
        if lines[-1] and columns(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece if lines[-1] or piece.strip() else ""
    return [line.rstrip() for line in lines]
