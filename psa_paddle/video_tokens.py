"""Which tokens of a clip a language model reads: those that bring something new to their place.

Training-free, after Efficient Video Sampling (arXiv 2510.14624), which compares pixels where this compares what the
vision tower made of them. A frame here is one temporal patch (two frames of the clip), a place is one merged token.
"""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

AUTO = "auto"
# Cosine below which a token counts as new; chosen on validation clips of the demo model's world, see docs/lab-notes.md.
SAME = 0.95
# Frames after which a place stays in any case: else nothing in a still scene has its time, and what is there at some
# second is not found. With a share, of which what stays in turn is not to take too much, twice as many.
EVERY = 4
TOGETHER = 8192  # tokens compared at a time: the host waits once for so many, and their float32 copies stay small


def check_video_tokens(value) -> float | str | None:
    """``value`` as ``"auto"``, as the share of tokens that stay, a ``float``, or None: all of them.

    Raises:
        TypeError, ValueError: neither ``"auto"`` nor a number above 0 and up to 1.
    """
    if value is None or (isinstance(value, str) and value == AUTO):
        return value
    if isinstance(value, (str, bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(
            f"video_tokens must be 'auto' or the share of the video tokens that stay, such as 0.5, got {value!r}."
        )
    if not 0 < float(value) <= 1:
        raise ValueError(f"video_tokens must be 'auto' or above 0 and at most 1, got {value}.")
    return float(value)


def choose(tokens, how: float | str) -> np.ndarray:
    """Which tokens of a clip stay, bool [frames, places]: the whole first frame, each place in turn every few
    frames, and of the others

    with ``"auto"`` those whose cosine with the last token that stayed of their place is below ``SAME``, so that slow
    changes add up; with a share those least like their place a frame earlier, so many that the share of the clip's
    tokens is met, of equals the earlier. What stays in turn is at most half of a share, which the first frame may
    exceed.

    tokens: a tensor of Paddle or of torch [frames, places, hidden], of any floating dtype; one that is no number stays.
    """
    return _new(tokens) if how == AUTO else _least_similar(tokens, float(how))


def _in_turn(frames: int, places: int, every: int) -> np.ndarray:
    """Bool [frames, places]: the first frame, and of each place every so many frames one: every second place together,
    the others half as many frames later, so that what stays is the whole scene at half its resolution."""
    turn = np.arange(places) % 2 * (every // 2)
    kept = (np.arange(frames)[:, None] + turn) % every == 0
    kept[0] = True
    return kept


def _cosines(a, b) -> np.ndarray:
    """Of each token [..., hidden] and the other of its place, float32 [...]; -2 for one that is no number."""
    a, b = a.float(), b.float()
    lengths = ((a * a).sum(-1) * (b * b).sum(-1)) ** 0.5
    return np.nan_to_num(((a * b).sum(-1) / lengths).cpu().numpy(), nan=-2.0)


def _new(tokens) -> np.ndarray:
    frames, places, _ = tokens.shape
    kept, last = _in_turn(frames, places, EVERY), tokens[0] * 1
    for frame, row in zip(tokens, kept, strict=True):
        row |= _cosines(frame, last) < SAME
        new = np.flatnonzero(row)
        last[new] = frame[new]
    return kept


def _least_similar(tokens, share: float) -> np.ndarray:
    frames, places, _ = tokens.shape
    step = max(1, TOGETHER // places)
    pairs = [(tokens[i : i + step], tokens[i - 1 : i - 1 + step]) for i in range(1, frames, step)]
    cosines = [_cosines(later, earlier[: later.shape[0]]) for later, earlier in pairs]
    order = np.concatenate([np.full((1, places), -4.0, np.float32), *cosines])
    in_turn = _in_turn(frames, places, max(2 * EVERY, math.ceil(2 / share)))
    order[1:][in_turn[1:]] = -3.0
    kept = np.zeros(order.size, bool)
    kept[np.argsort(order.ravel(), kind="stable")[: max(places, round(share * order.size))]] = True
    return kept.reshape(order.shape)
