"""Exact attention for the audited rows of a call beside what the operator gave for them."""

from __future__ import annotations

import numpy as np
import paddle

from ..stats import audited_rows
from .attend import MASKED, softmax_values

ROWS_AT_ONCE = 16


@paddle.no_grad()
def audit_sums(q, k, v, out, scale: float, causal: bool, rows: int):
    """The sums of ``AuditedRows``, float32 [B, H, min(rows, Lq), 2]; q and out [B, H, Lq, D], k and v [B, Hkv, Lk, D].

    Memory is linear in the length. The rows come in order, a few at a time, so that the first read few keys.
    """
    b, h, lq, d = q.shape
    hkv, lk = k.shape[1:3]
    group, found = h // hkv, audited_rows(lq, rows)[0]
    index = paddle.to_tensor(found, place=q.place)
    heads = [b * hkv, group, len(found), d]
    q, out = (paddle.index_select(x, index, axis=2).astype("float32").reshape(heads) for x in (q, out))
    q = q * scale
    sums = []
    for x in range(b * hkv):
        keys, values = (y[x // hkv, x % hkv].astype("float32").unsqueeze(0) for y in (k, v))
        parts = []
        for first in range(0, len(found), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            position = found[part] + lk - lq
            seen = position[-1] + 1 if causal else lk
            tail = None
            low = position[0] + 1  # the keys before it are seen by every row
            if causal and low < seen:
                hidden = np.arange(low, seen)[None] > np.tile(position, group)[:, None]
                tail = paddle.to_tensor(np.where(hidden, np.float32(MASKED), np.float32(0.0)), place=q.place)
            flat = q[x, :, part].reshape([1, -1, d])
            exact = softmax_values(flat, keys[:, :seen], values[:, :seen], None, tail).reshape([group, -1, d])
            parts.append(paddle.stack([((out[x, :, part] - exact) ** 2).sum(-1), (exact**2).sum(-1)], axis=-1))
        sums.append(paddle.concat(parts, axis=1))
    return paddle.stack(sums).reshape([b, h, len(found), 2])
