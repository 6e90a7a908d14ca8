"""Open the file that a path or URL names."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .downloads import Progress, download
from .errors import MediaError, shown

IMAGE_BYTES = 64 << 20
VIDEO_BYTES = 2 << 30
NOT_FILES = (
    (stat.S_ISDIR, "{} is a folder; name a file in it."),
    (stat.S_ISFIFO, "{} is a pipe; write it to a file first."),
    (stat.S_ISSOCK, "{} is a socket; write what it sends to a file first."),
    (lambda mode: not stat.S_ISREG(mode), "{} is a device; name a file."),
)


def is_url(source) -> bool:
    """Whether a source is an address and no path."""
    return isinstance(source, str) and "://" in source


@contextmanager
def open_source(source, kind: str, max_bytes: int, progress: Progress | None = None):
    """The bytes of a local file or of a download, as a binary file that can seek; progress: see ``download``.

    A download has no name on this disk, so that nothing of it stays however the process ends.

    Raises:
        MediaError: missing, not a regular file, unreadable, empty; a download: see ``download``.
        TypeError: neither a path nor a URL.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"{kind} must be a path or an http(s) URL, got {type(source).__name__}.")
    if is_url(source):
        with tempfile.TemporaryFile(prefix="psa_paddle_") as file:
            download(str(source), kind, max_bytes, file, progress)
            yield file
        return
    with _open_local(source, kind) as file:
        yield file


def _open_local(source, kind: str):
    name = f"{kind} '{shown(source)}'"
    try:
        path = Path(source).expanduser()
        status = os.stat(path)
        for is_kind, words in NOT_FILES:
            if is_kind(status.st_mode):
                raise MediaError(words.format(name))
        if status.st_size == 0:
            raise MediaError(f"{name} is empty; it may not have been written completely.")
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError(f"{name} does not exist; check the path.") from None
    except OSError as error:
        raise MediaError(f"{name} cannot be opened: {error.strerror or error}.") from None
    except RuntimeError as error:  # ~ without a home
        raise MediaError(f"{name} cannot be found: {str(error).rstrip('.')}.") from None
    except MediaError:
        raise
    except ValueError:  # a zero byte
        raise MediaError(f"{name} is no path; it has a zero byte in it.") from None
