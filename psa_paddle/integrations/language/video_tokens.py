"""Which tokens of a clip a language model reads: those that bring something new to their place.

Training-free, after Efficient Video Sampling (arXiv 2510.14624), which compares pixels where this compares what the
vision tower made of them. A frame here is one temporal patch (two frames of the clip), a place is one merged token.
"""

from __future__ import annotations

import math
from numbers import Real

import numpy as np
import paddle

AUTO = "auto"
# Cosine below which a token counts as new; chosen on validation clips of the demo model's world, see docs/lab-notes.md.
SAME = 0.95
# Without whole frames the answer to what is there at some second is lost in still scenes: nothing has its time.
WHOLE_EVERY = 8


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
    """Which tokens of a clip stay, bool [frames, places]: every eighth frame whole, from the first on, and of the others

    with ``"auto"`` those whose cosine with the last token that stayed of their place is below ``SAME``, so that slow
    changes add up; with a share those least like their place a frame earlier, so many that the share of the clip's
    tokens is met, of equals the earlier. Whole frames take at most half of a share: fewer stay of a smaller one, but
    always the first.

    tokens: [frames, places, hidden], of any floating dtype; one that is no number stays.
    """
    unit = paddle.nn.functional.normalize(tokens.astype("float32"), axis=-1)
    return _new(unit) if how == AUTO else _least_similar(unit, float(how))


def _new(unit: paddle.Tensor) -> np.ndarray:
    last, kept = unit[0], []
    for i, frame in enumerate(unit):
        same = (frame * last).sum(-1) >= SAME
        kept.append(paddle.logical_not(same) if i % WHOLE_EVERY else paddle.ones_like(same))
        last = paddle.where(kept[-1].unsqueeze(-1), frame, last)
    return paddle.stack(kept).numpy()


def _least_similar(unit: paddle.Tensor, share: float) -> np.ndarray:
    frames, places, _ = unit.shape
    order = np.full((frames, places), -2.0, np.float32)  # whole frames come before all others
    order[1:] = np.nan_to_num((unit[1:] * unit[:-1]).sum(-1).numpy(), nan=-1.5)
    order[:: max(WHOLE_EVERY, math.ceil(2 / share))] = -2.0
    kept = np.zeros(order.size, bool)
    kept[np.argsort(order.ravel(), kind="stable")[: max(places, round(share * order.size))]] = True
    return kept.reshape(order.shape)
