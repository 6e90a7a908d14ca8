"""Which moments of a clip are looked at, and at which size."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np

from .errors import MediaError

DEFAULT_VIDEO_PIXELS = 360 * 420
DEFAULT_MAX_FRAMES = 768
FACTOR = 28  # pixels a side of one merged vision token, of Qwen2.5-VL
MAX_ASPECT = 200
FRAME_PAIR = 2  # frames of one temporal patch
MAX_FPS = 1000


def check_sampling(fps: float, max_frames: int, max_pixels: int, factor: int = FACTOR) -> None:
    """Refuse sampling settings that leave no frame or no pixel."""
    if isinstance(fps, bool) or not isinstance(fps, Real) or not 0 < fps <= MAX_FPS:
        raise MediaError(f"fps must be a number above 0 and at most {MAX_FPS}, got {fps!r}.")
    if isinstance(max_frames, bool) or not isinstance(max_frames, Integral) or max_frames < FRAME_PAIR:
        raise MediaError(f"max_frames must be an integer of at least {FRAME_PAIR}, got {max_frames!r}.")
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, Integral) or max_pixels < factor**2:
        raise MediaError(f"max_pixels must be an integer of at least {factor**2}, got {max_pixels!r}.")


def check_aspect(height: int, width: int, name: str) -> None:
    """Refuse what Qwen2.5-VL's processor cannot scale: one side more than 200 times the other."""
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise MediaError(f"{name} is too thin ({width}x{height}); its sides may differ {MAX_ASPECT} times at most.")


def fit_frame(height: int, width: int, max_pixels: int, name: str = "a frame", factor: int = FACTOR) -> tuple[int, int]:
    """The nearest height and width in multiples of ``factor`` with at most ``max_pixels`` pixels and the same aspect,
    as Qwen2.5-VL's processor chooses them.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    check_aspect(height, width, name)
    fitted = [max(factor, round(side / factor) * factor) for side in (height, width)]
    if fitted[0] * fitted[1] > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        longest = max_pixels // factor // factor * factor  # where the other side cannot shrink below one token
        fitted = [min(longest, max(factor, int(side / shrink / factor) * factor)) for side in (height, width)]
    return fitted[0], fitted[1]


def sample_times(stamps, end: float, fps: float, max_frames: int) -> list[float]:
    """Moments to look at, in seconds: evenly spread from the first frame on, an even number of them, at least two.

    Even spacing in time is what Qwen2.5-VL's positions can express: the i-th pair of frames is told to the model as
    i times one interval. Where frames come unevenly, a moment shows the frame that a viewer would see at it.

    Args:
        stamps: seconds at which each frame appears, ascending; end: when the last one disappears.
        fps: moments a second wanted; no more are taken than the closest two frames ask for.
    """
    seconds = end - stamps[0]
    wanted = min(round(seconds * fps), max_frames) // FRAME_PAIR * FRAME_PAIR
    gaps = np.diff(stamps)
    gaps = gaps[gaps > 0]
    finest = math.ceil(seconds / gaps.min() / FRAME_PAIR - 1e-6) * FRAME_PAIR if len(gaps) else FRAME_PAIR
    count = max(FRAME_PAIR, min(wanted, finest))
    return [i * seconds / count for i in range(count)]


def frames_at(stamps, times) -> list[int]:
    """The number of the frame that is seen at each of ``times``, seconds after the first frame."""
    shown = np.searchsorted(np.asarray(stamps) - stamps[0], np.asarray(times) + 1e-6, side="right") - 1
    return shown.tolist()
