"""Where the last rows of a call look: exact attention weights, and no more than a few rows of them at once."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F

from .attend import MASKED


@paddle.no_grad()
def key_mass(q, k, scale: float, rows: int) -> np.ndarray:
    """Exact causal attention's weight of every key, mean over the last ``rows`` rows and all heads: host float64 [Lk],
    which sums to 1.

    q: [1, H, Lq, D]; k: [1, Hkv, Lk, D], aligned bottom-right; rows: at most Lq. One key head at a time: memory is
    H / Hkv * rows * Lk numbers. Reads from the device.
    """
    (_, h, lq, d), (hkv, lk) = q.shape, k.shape[1:3]
    group, rows = h // hkv, min(rows, lq)
    hidden = np.arange(lk)[None] > np.arange(lk - rows, lk)[:, None]
    mask = paddle.to_tensor(np.where(hidden, np.float32(MASKED), np.float32(0.0)), place=q.place)
    last = (q[0, :, lq - rows :].astype("float32") * scale).reshape([hkv, group, rows, d])
    mass = np.zeros(lk)
    for x in range(hkv):
        logits = paddle.matmul(last[x], k[0, x].astype("float32"), transpose_y=True) + mask
        mass += F.softmax(logits, axis=-1).mean([0, 1]).numpy().astype(np.float64)
    return mass / hkv
