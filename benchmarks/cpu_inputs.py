"""Tensors for the CPU benchmarks (Paddle)."""

import numpy as np
import paddle


def video_qkv(length: int, heads: int, kv_heads: int, dim: int, seed: int = 0):
    """q [1, heads, length, dim], k and v [1, kv_heads, length, dim], float32: keys drift along the sequence with
    noise on top, queries look for keys near their own position, the first four keys are stronger (a sink)."""
    rng = np.random.default_rng(seed)
    knots = rng.standard_normal((kv_heads, max(2, length // 64), dim))
    at = np.linspace(0, knots.shape[1] - 1, length)
    low = np.minimum(at.astype(int), knots.shape[1] - 2)
    part = (at - low)[None, :, None]
    k = knots[:, low] * (1 - part) + knots[:, low + 1] * part + 0.5 * rng.standard_normal((kv_heads, length, dim))
    q = np.repeat(k, heads // kv_heads, 0) + 0.7 * rng.standard_normal((heads, length, dim))
    k[:, :4] *= 2
    v = rng.standard_normal((kv_heads, length, dim))
    return tuple(paddle.to_tensor(x[None].astype(np.float32)) for x in (q, k, v))
