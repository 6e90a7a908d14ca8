"""Rows of attention in torch float64, for lengths over whose whole matrix NumPy would take long; tests/gpu too."""

import torch


def dense_rows(q, k, v, rows, scale: float, causal: bool, rough: bool = False):
    """Rows of softmax(scale q k^T) v, float64 [H, rows, D] of q [H, Lq, D], k and v [Hkv, Lk, D].

    rough: as a careful implementation does it in q's dtype, float32 logits and rounded weights."""
    lk = k.shape[1]
    seen = torch.ones(len(rows), lk, dtype=torch.bool, device=q.device)
    if causal:
        seen = torch.arange(lk, device=q.device)[None] <= (rows + lk - q.shape[1])[:, None]
    return masked_rows(q, k, v, rows, seen, scale, rough)


def triangle_rows(q, k, v, rows, pattern, scale: float, start: int = 0, rough: bool = False):
    """As ``dense_rows`` with TriangleMix's exact mask; pattern: (sink, window, last); start: the first key."""
    (sink, window, last), lk = pattern, k.shape[1]
    i = (rows + lk - q.shape[1] - start)[:, None]
    j = torch.arange(lk, device=q.device)[None] - start
    seen = (j >= 0) & (j <= i) & ((j <= sink) | (i - j <= window) | (lk - start - i < last))
    return masked_rows(q, k.nan_to_num(0, 0, 0), v.nan_to_num(0, 0, 0), rows, seen, scale, rough)


def masked_rows(q, k, v, rows, seen, scale: float, rough: bool):
    """seen: bool [rows, Lk]; a row that sees nothing is zeros."""
    group, wide, out = q.shape[0] // k.shape[0], torch.float32 if rough else torch.float64, []
    for h in range(k.shape[0]):
        s = q[h * group : (h + 1) * group, rows].to(wide) @ k[h].to(wide).T * scale
        p = torch.softmax(s.masked_fill(~seen, float("-inf")), -1).nan_to_num(0.0)
        out.append((p.to(q.dtype) @ v[h]).double() if rough else p @ v[h].double())
    return torch.cat(out)


def sums_of(exact, out):
    """What an audit says of rows: the squares of out - exact and of exact, [..., 2]."""
    return torch.stack([((out.double() - exact) ** 2).sum(-1), (exact**2).sum(-1)], -1)
