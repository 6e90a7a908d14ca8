"""Which tokens of a clip a language model reads: those that bring something new to their place.

Training-free, after Efficient Video Sampling (arXiv 2510.14624), which compares pixels where this compares what the
vision tower made of them. A frame here is one temporal patch (two frames of the clip), a place is one merged token.
"""

from __future__ import annotations

import math
from numbers import Real

import numpy as np
import paddle

from ...config import GOLDEN

AUTO = "auto"
# Cosine below which a token counts as new; chosen on validation clips of the demo model's world, see docs/lab-notes.md.
SAME = 0.95
# Frames after which a place stays in any case: else nothing in a still scene has its time, and what is there at some
# second is not found.
EVERY = 8


def check_video_tokens(value) -> float | str | None:
    """``value`` as ``"auto"``, as the share of tokens that stay, a ``float``, or None: all of them.

    Raises:
        TypeError, ValueError: neither ``"auto"`` nor a number above 0 and up to 1.
    """
    if value is None or (isinstance(value, str) and value == AUTO):
        return value
    if isinstance(value, (str, bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(
            f"video_tokens must be 'auto' or the share of video tokens that stay, such as 0.5, got {value!r}."
        )
    if not 0 < value <= 1:
        raise ValueError(f"video_tokens must be 'auto' or above 0 and at most 1, got {value}.")
    return float(value)


def choose(tokens: paddle.Tensor, how: float | str) -> np.ndarray:
    """Which tokens of a clip stay, bool [frames, places]: the whole first frame, each place in turn every eighth frame,
    and of the others

    with ``"auto"`` those whose cosine with the last token that stayed of their place is below ``SAME``, so that slow
    changes add up; with a share those least like their place a frame earlier, so many that the share of the clip's
    tokens is met, of equals the earlier. What stays in turn is at most half of a share, which the first frame may
    exceed.

    tokens: [frames, places, hidden], of any floating dtype; one that is no number stays.
    """
    unit = paddle.nn.functional.normalize(tokens.astype("float32"), axis=-1)
    return _new(unit) if how == AUTO else _least_similar(unit, float(how))


def _in_turn(frames: int, places: int, every: int) -> np.ndarray:
    """Bool [frames, places]: the first frame, and of each place every so many frames one; each has nearly as many, and
    they lie apart."""
    turn = np.arange(places) * GOLDEN % 2**32 * every >> 32
    kept = (np.arange(frames)[:, None] + turn) % every == 0
    kept[0] = True
    return kept


def _new(unit: paddle.Tensor) -> np.ndarray:
    last, kept = unit[0], []
    for frame, always in zip(unit, paddle.to_tensor(_in_turn(*unit.shape[:2], EVERY)), strict=True):
        kept.append(always | paddle.logical_not((frame * last).sum(-1) >= SAME))
        last = paddle.where(kept[-1].unsqueeze(-1), frame, last)
    return paddle.stack(kept).numpy()


def _least_similar(unit: paddle.Tensor, share: float) -> np.ndarray:
    frames, places, _ = unit.shape
    order = np.full((frames, places), -2.0, np.float32)
    order[1:] = np.nan_to_num((unit[1:] * unit[:-1]).sum(-1).numpy(), nan=-2.0)
    order[_in_turn(frames, places, max(EVERY, math.ceil(2 / share)))] = -3.0
    order[0] = -4.0
    kept = np.zeros(order.size, bool)
    kept[np.argsort(order.ravel(), kind="stable")[: max(places, round(share * order.size))]] = True
    return kept.reshape(order.shape)
