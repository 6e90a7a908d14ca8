"""Animated pictures (GIF, WebP, APNG, AVIF) as clips."""

from __future__ import annotations

import itertools

import numpy as np
from PIL import Image

from .errors import MediaError
from .images import MAX_PIXELS, to_rgb

FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
SHORTEST, INSTEAD = 0.01, 0.1  # browsers show a frame of at most 10 ms for 100 ms
MAX_WORK = 1 << 35  # pixels of all frames: minutes of decoding


def is_animation(file) -> bool:
    """Whether a picture has frames that follow each other."""
    try:
        return getattr(Image.open(file, formats=FORMATS), "is_animated", False)
    except Exception:  # decoders raise whatever damaged bytes lead to
        return False


class Animation:
    """An animated picture, with ``Film``'s attributes and methods.

    Raises:
        MediaError: too many pixels. Whatever Pillow raises: a file that is truncated.
    """

    def __init__(self, file, name: str):
        self._image, self._name = Image.open(file, formats=FORMATS), name
        self.width, self.height = self._image.size
        count = getattr(self._image, "n_frames", 1)
        if self.width * self.height > MAX_PIXELS or self.width * self.height * count > MAX_WORK:
            raise MediaError(f"{name} has {count} frames of {self.width}x{self.height}; scale it down first.")
        seconds = [self._seconds(number) for number in range(count)]
        ends = list(itertools.accumulate(seconds))
        self.stamps, self.end = np.array([0.0, *ends[:-1]]), ends[-1]

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self._image.close()

    def _seconds(self, number: int) -> float:
        self._image.seek(number)
        self._image.load()  # WebP knows a frame's duration only then
        seconds = float(self._image.info.get("duration", 0)) / 1000
        return seconds if seconds > SHORTEST else INSTEAD

    def pictures(self, numbers: list[int], height: int, width: int):
        """Yield (number, uint8 [height, width, 3]) of each frame of ``numbers``."""
        for number in numbers:
            self._image.seek(number)
            picture = to_rgb(self._image.copy(), self._name)
            yield number, np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
