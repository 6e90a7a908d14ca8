"""Files written whole or not at all; links, pipes and devices written through."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path


def as_path(path, name: str) -> Path:
    """The path, with ``~`` expanded.

    Raises:
        TypeError: not a path. ValueError: an empty one, one with a zero byte, or one that the system refuses.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {type(path).__name__}.")
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise ValueError(f"{name} {text!r} is not a path.")
    path = Path(os.path.expanduser(text))
    try:
        path.resolve().exists()
    except (OSError, RuntimeError) as error:  # a link that leads to itself, a name that is too long
        raise ValueError(f"{name} '{text[:100]}' cannot be used ({getattr(error, 'strerror', error)}).") from None
    return path


def check_file(path, name: str) -> Path:
    """The path of a file that ``write_text`` can write, made or not; name: what to call it in a refusal.

    Raises:
        TypeError, ValueError: not a path, a folder, in a folder that does not exist, or not writable.
    """
    path = as_path(path, name)
    if path.is_dir():
        raise ValueError(f"{name} '{path}' is a folder; name a file in it.")
    target = path if _is_stream(path) else path.resolve()
    if not target.parent.is_dir():
        raise ValueError(f"{name}: the folder of '{path}' does not exist; make it first.")
    needed = [target] if _is_stream(path) else [target.parent, *([target] if target.exists() else [])]
    if not all(os.access(place, os.W_OK) for place in needed):
        raise ValueError(f"{name} '{path}' is not writable; name another file.")
    return path


def check_folder(path, name: str) -> Path:
    """The path of a folder that exists and is writable, or that can be made; nothing is made yet.

    Raises:
        TypeError, ValueError: not a path, a file, or not writable.
    """
    path = as_path(path, name)
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ValueError(f"{name}: '{there}' is a file; name a folder.")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{name} '{path}' is not writable; name another folder.")
    return path


def _is_stream(path: Path) -> bool:
    """Whether it is a pipe, a device or the file behind stdout or stderr, which nothing may replace."""
    return path.exists() and (not path.is_file() or _standard_stream(path) is not None)


def _standard_stream(path: Path) -> int | None:
    """1 or 2 where the path is the very file that stdout or stderr go to."""
    for descriptor in (1, 2):
        try:
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except OSError:  # closed
            pass
    return None


@contextmanager
def replacing(path: Path):
    """A path beside ``path`` to write to, which takes its place at the end; after an error it is gone and ``path`` is
    what it was. A link stays a link, and what it leads to is replaced."""
    target = path.resolve()
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield part
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def write_text(path, text: str) -> None:
    """Write a file so that a reader never sees half of it, or write through a pipe, a device, stdout or stderr.

    Raises:
        OSError: it cannot be written; a file that was there is what it was.
    """
    path = Path(path)
    if not _is_stream(path):
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    descriptor = _standard_stream(path)
    with open(path if descriptor is None else os.dup(descriptor), "w", encoding="utf-8") as stream:
        stream.write(text)
