"""What a refusal says, and under which name it speaks of its input."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

MAX_NAME = 200  # characters of a name in a sentence


class MediaError(ValueError):
    """An input that cannot be used, with what to do about it."""


def refusal(name: str, error: Exception) -> Exception:
    """The sentence for what a decoder raised; a refusal, and a lack of memory, as they are."""
    if isinstance(error, (MediaError, MemoryError)):
        return error
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return MediaError(f"{name} cannot be decoded ({shown(words.splitlines()[0]).rstrip('.')}); it may be truncated.")


def shown(source) -> str:
    """A path or URL as a sentence may print it: without user name, password and query, on one line, not too long."""
    text = str(source)
    if "://" in text:
        text = _without_secrets(text)
    text = text.encode("utf-8", "backslashreplace").decode()
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = MAX_NAME // 2
    return text if len(text) <= MAX_NAME else f"{text[:half]}...{text[-half:]}"


def _without_secrets(url: str) -> str:
    try:
        urlsplit(url).port  # noqa: B018
    except ValueError:  # a password with a slash in it reads as a port: nothing after it can be told apart
        return re.sub(r"(?s)://.*", "://***", url)
    url = re.sub(r"(?s)(?<=://)[^/?#]*@", "***@", url)
    return re.sub(r"(?s)\?.*", "?...", url)
