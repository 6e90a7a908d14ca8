"""Applying a token order to [B, H, L, D] tensors, and undoing it exactly."""

from __future__ import annotations

import numpy as np
import paddle


def gather_tokens(x, order):
    """Token ``order[i]`` of x at place i; any dtype.

    Args:
        x: [B, H, L, D].
        order: int64, [L] for all heads or [B, H, L].
    """
    if x.dtype == paddle.float16 and x.place.is_cpu_place():  # Paddle's CPU gather lacks it; any 16 bits will do
        return gather_tokens(x.contiguous().view("bfloat16"), order).view("float16")
    if order.ndim == 1:
        return paddle.gather(x, order, axis=2)
    b, h, length, d = x.shape
    first = (paddle.arange(b * h, dtype="int64") * length).reshape([b, h, 1])
    # Rows of one flat matrix: an index for each token, not for each number.
    return paddle.gather(x.reshape([-1, d]), (order + first).flatten(), axis=0).reshape([b, h, -1, d])


def with_text(order: np.ndarray, text_length: int, text_first: bool, text_last_in_order: bool) -> np.ndarray:
    """The order of all tokens, int64 [L], from that of the vision tokens alone; text keeps its own order."""
    vision = order + (text_length if text_first else 0)
    text = np.arange(text_length, dtype=np.int64) + (0 if text_first else len(order))
    parts = [text, vision] if text_first and not text_last_in_order else [vision, text]
    return np.concatenate(parts)


class Permutation:
    """One order for the queries and one for the keys and values.

    Args:
        q_order, kv_order: int64 tensors, [L] for all heads or [B, H, L]; token ``order[i]`` goes to place i.
    """

    def __init__(self, q_order, kv_order) -> None:
        self.q_order, self.kv_order = q_order, kv_order
        self._inverse = paddle.argsort(q_order, axis=-1)

    def permute(self, x):
        """x [B, H, L, D] in the order of the queries."""
        return gather_tokens(x, self.q_order)

    def permute_kv(self, x):
        """x [B, Hkv, L, D] in the order of the keys."""
        return gather_tokens(x, self.kv_order)

    def restore(self, out):
        """Undo ``permute``: [B, H, L, D] in the model's order, bitwise."""
        return gather_tokens(out, self._inverse)
