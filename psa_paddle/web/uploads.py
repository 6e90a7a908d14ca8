"""Files that visitors send: a private folder, each read once, and what they show."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from ..integrations.language.answering.messages import Looking
from ..integrations.language.answering.reports import Report
from ..utils.media import Clip, MediaError, load_image, load_video
from ..utils.media.animations import is_animation
from ..utils.media.kinds import HEAD_BYTES, kind_of
from ..utils.media.sampling import FACTOR

MOST_EDGE = 4096  # pixels of a picture's longer side that are kept; models look at fewer


class NotHere(ValueError):
    """A file that was not uploaded to this page, or is gone."""


@dataclass(frozen=True)
class Medium:
    """What a visitor shows: its name, and a clip or a picture."""

    name: str
    shown: Clip | Image.Image

    @property
    def kind(self) -> str:
        """``"video"`` or ``"image"``."""
        return "video" if isinstance(self.shown, Clip) else "image"

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self.shown.frames.nbytes if isinstance(self.shown, Clip) else 3 * self.shown.width * self.shown.height

    def part(self) -> dict:
        """As a part of a message."""
        return {"type": self.kind, self.kind: self.shown}


class Uploads:
    """A folder that only this user can read; gone, with all that is in it, after ``close``.

    arriving: where the server writes files; two visitors who send the same file find one file there.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="psa_paddle_web_")).resolve()  # mode 0700
        self.arriving, self._taken = self.folder / "arriving", self.folder / "taken"
        self.arriving.mkdir(mode=0o700)
        self._taken.mkdir(mode=0o700)

    def stored_bytes(self) -> int:
        """Bytes of all files in the folder; a file under two names counts once."""
        sizes = {}
        for path in self._files():
            try:
                status = path.lstat()
            except FileNotFoundError:  # removed meanwhile
                continue
            sizes[status.st_ino] = status.st_size
        return sum(sizes.values())

    def _files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self.folder):
            yield from (Path(folder, name) for name in names)

    def holds(self, path: object) -> bool:
        """Whether this names a file that was uploaded here."""
        try:
            found = Path(str(path))
            return (
                isinstance(path, str)
                and found.is_absolute()
                and found.resolve(strict=True).is_relative_to(self.arriving)
                and found.is_file()
            )
        except (OSError, ValueError, RuntimeError):
            return False

    def take(self, path: object) -> Path:
        """A name of our own for an uploaded file, which stays when the other one goes; ``drop`` it after reading.

        Raises:
            NotHere: no file that was uploaded here.
        """
        mine = self._taken / secrets.token_hex(8)
        try:
            if not self.holds(path):
                raise NotHere("this file was not uploaded here, or is gone; upload it again.")
            os.link(str(path), mine, follow_symlinks=False)
        except OSError:
            raise NotHere("this file is gone; upload it again.") from None
        return mine

    def drop(self, mine: Path) -> None:
        """Remove a name that ``take`` made."""
        mine.unlink(missing_ok=True)

    def sweep(self, older_than: float) -> None:
        """Remove files of which nothing came for so many seconds, half uploads too, and empty folders.

        A file is not removed when it was read: another visitor may have sent the same.
        """
        before = time.time() - older_than
        for folder, _, names in os.walk(self.arriving, topdown=False):
            for name in names:
                self._remove_if_older(Path(folder, name), before)
            if Path(folder) != self.arriving:
                try:
                    if Path(folder).stat().st_mtime <= before:
                        os.rmdir(folder)
                except OSError:  # not empty, or gone
                    pass

    @staticmethod
    def _remove_if_older(path: Path, before: float) -> None:
        try:
            if path.lstat().st_mtime <= before:
                path.unlink()
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def called(path: Path, name: str) -> Iterator[None]:
    """Refusals inside speak of a file by the name that its sender knows, not by its place on this disk."""
    try:
        yield
    except MediaError as error:
        raise MediaError(str(error).replace(str(path), name)) from None


def read_medium(path: Path, name: str, looking: Looking, most_seconds: float, report: Report) -> Medium:
    """What a file shows, whatever its name says.

    Raises:
        MediaError: neither picture nor video, damaged, or longer than ``most_seconds``.
    """
    with called(path, name):
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            still = kind_of(head).family == "image" and not is_animation(file)
        report("media", 0, 1)
        if still:
            image = load_image(path)
            image.thumbnail((MOST_EDGE, MOST_EDGE))
            return Medium(name, image)
        sampling = looking.fps, looking.frame_pixels, looking.max_frames
        factor, progress = looking.factor or FACTOR, partial(report, "media")
        return Medium(name, load_video(path, *sampling, factor=factor, max_seconds=most_seconds, progress=progress))
