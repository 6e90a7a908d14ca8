"""Clips: the frames that a viewer would see at evenly spread moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import numpy as np

from .animations import Animation, is_animation
from .complete import refuse_cut_off
from .downloads import Progress
from .errors import MediaError, refusal, shown
from .films import Film
from .kinds import HEAD_BYTES, kind_of
from .sampling import (
    DEFAULT_MAX_FRAMES,
    DEFAULT_VIDEO_PIXELS,
    FACTOR,
    FRAME_PAIR,
    check_sampling,
    fit_frame,
    frames_at,
    sample_times,
)
from .sources import VIDEO_BYTES, open_source


@dataclass
class Clip:
    """Frames uint8 [T, H, W, 3], T even, H and W multiples of ``factor``, the pixels a side of one vision token; fps:
    frames a second of these frames, evenly spaced from the first one on, as the model is told.

    Raises:
        TypeError, MediaError: frames or a rate that the model cannot take.
    """

    frames: np.ndarray
    fps: float
    factor: int = FACTOR

    def __post_init__(self) -> None:
        if not isinstance(self.frames, np.ndarray) or self.frames.dtype != np.uint8:
            raise TypeError("a clip's frames must be a uint8 array [T, H, W, 3].")
        shape = list(self.frames.shape)
        if (
            len(shape) != 4
            or shape[3] != 3
            or 0 in shape
            or shape[0] % FRAME_PAIR
            or any(n % self.factor for n in shape[1:3])
        ):
            wanted = f"[T, H, W, 3], T even, H and W multiples of {self.factor}"
            raise MediaError(f"a clip's frames must be {wanted}, got {shape}.")
        if isinstance(self.fps, bool) or not isinstance(self.fps, Real) or not 0 < self.fps < float("inf"):
            raise MediaError(f"a clip's fps must be a number above 0, got {self.fps!r}.")
        self.fps = float(self.fps)

    @property
    def times(self) -> list[float]:
        """Seconds from the start of the video at which each frame is seen."""
        return [i / self.fps for i in range(len(self.frames))]


def load_video(
    source,
    fps: float = 1.0,
    max_pixels: int = DEFAULT_VIDEO_PIXELS,
    max_frames: int = DEFAULT_MAX_FRAMES,
    max_bytes: int = VIDEO_BYTES,
    *,
    factor: int = FACTOR,
    max_seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    downloading: Progress | None = None,
) -> Clip:
    """Sample a video or an animated picture, a file or an http(s) URL, evenly in time: ``fps`` frames a second, at most
    ``max_frames``, each scaled so that it has at most ``max_pixels`` pixels and sides that are multiples
    of ``factor``, the pixels a side of one vision token of the model.

    max_seconds: the longest that is taken; progress: called with how many of these frames are read, and how many there
    are; downloading: with the bytes of a download that have come, and how many there will be, 0 where nobody knows.

    Raises:
        MediaError: settings that make no sense, or a file that is not a video, has no frames, is damaged, truncated or
            too long.
    """
    check_sampling(fps, max_frames, max_pixels, factor)
    with open_source(source, "video", max_bytes, downloading) as file:
        name = f"video '{shown(source)}'"
        kind = kind_of(file.read(HEAD_BYTES))
        file.seek(0)
        if kind.family in ("sound", "other"):
            raise MediaError(f"{name} is {kind.name}, not a video; MP4, MKV and WebM work.")
        try:
            refuse_cut_off(file, name)
            if kind.family == "image" and not is_animation(file):
                raise MediaError(f"{name} is {kind.name} that does not move; ask about it as an image.")
            with (Animation if kind.family == "image" else Film)(file, name) as film:
                _check_length(film, name, max_seconds)
                return _sample(film, name, float(fps), max_pixels, max_frames, factor, progress)
        except Exception as error:  # decoders raise whatever damaged bytes lead to
            raise refusal(name, error) from None


def _check_length(film, name: str, most: float | None) -> None:
    seconds = film.end - film.stamps[0]
    if most is not None and seconds > most:
        raise MediaError(f"{name} lasts {seconds:,.0f} s; at most {most:,.0f} s are taken here, so cut it first.")


def _sample(film, name: str, fps: float, max_pixels: int, max_frames: int, factor: int, progress) -> Clip:
    times = sample_times(film.stamps, film.end, fps, max_frames)
    numbers = np.array(frames_at(film.stamps, times))
    height, width = fit_frame(film.height, film.width, max_pixels, f"{name}: a frame", factor)
    frames = np.empty((len(times), height, width, 3), np.uint8)
    for number, picture in film.pictures(np.unique(numbers).tolist(), height, width):
        places = np.flatnonzero(numbers == number)
        frames[places] = picture
        if progress is not None:
            progress(int(places[-1]) + 1, len(times))
    interval = (film.end - film.stamps[0]) / len(times)
    return Clip(frames, 1.0 / interval, factor)
