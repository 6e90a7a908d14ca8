"""Block importance in Paddle ops, a span of query blocks at a time."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F

from ..config import GOLDEN, SAMPLE_STEP
from ..geometry import Geometry, ceil_div
from ..plan import Plan
from .attend import MASKED


def xattn_features(q, k, plan: Plan):
    """Features of groups of tokens (arXiv:2503.16428): qf [B, Hkv, G, nA, n D], kf [B, Hkv, nB, n D], float32, of
    n = ``terms`` tokens each.

    ``qf . kf`` is scale / n * sum_t q[a r + r - 1 - x(a, t)] . k[b s + y(b, t)] for groups of r queries and s keys; see
    ``places`` for x and y. Tokens past the end are zero vectors, or for peaks the last token, as a zero could be one.
    """
    r, s, n = plan.query_stride, plan.key_stride, plan.terms
    first = (k.shape[2] - q.shape[2]) // r if plan.causal else 0  # a chunk takes the places it has in the whole
    zeros = plan.importance_method == "xattn"
    qf = _take(q, r, r - 1 - places(first, ceil_div(q.shape[2], r), r, n), zeros) * (plan.scale / n)
    kf = _take(k, s, places(0, ceil_div(k.shape[2], s), s, n), zeros)
    b, h, n_a = qf.shape[:3]
    return qf.reshape([b, k.shape[1], h // k.shape[1], n_a, -1]), kf


def places(first: int, count: int, size: int, terms: int) -> np.ndarray:
    """Which tokens of groups ``first``, ``first`` + 1, ... of ``size`` are taken, int64 [count, terms]: the middles of
    equal parts, rotated by the fraction of g^2 / golden ratio in group g, so that they keep step with no width of a
    picture's rows; not rotated where all are taken."""
    t = np.arange(terms) * (size // terms) + size // terms // 2
    g = np.arange(first, first + count, dtype=np.uint64)
    rotation = (g * g * np.uint64(GOLDEN) & 0xFFFFFFFF) * size >> 32 if terms < size else g * 0
    return (t + rotation[:, None].astype(np.int64)) % size


def _take(x, size: int, chosen: np.ndarray, zeros: bool):
    """[B, H, L, D] -> float32 [B, H, groups, n D]: the tokens ``chosen`` [groups, n] of each group of ``size``; past
    the end zeros or the last token."""
    b, h, length, d = x.shape
    count, n = chosen.shape
    at = (np.arange(count)[:, None] * size + chosen).reshape(-1)
    found = paddle.gather(x.astype("float32"), paddle.to_tensor(np.minimum(at, length - 1)), axis=2)
    if zeros and at[-n:].max() >= length:
        found = found * paddle.to_tensor((at < length).astype(np.float32)).unsqueeze(-1)
    return found.reshape([b, h, count, n * d])


def pooling_features(q, k, scale: float):
    """Every fourth token: qf [B, Hkv, G, nA, D], kf [B, Hkv, nB, D], float32."""
    b, h, _, d = q.shape
    qf = q[:, :, ::SAMPLE_STEP].astype("float32") * scale
    return qf.reshape([b, k.shape[1], h // k.shape[1], -1, d]), k[:, :, ::SAMPLE_STEP].astype("float32")


def block_importance(qf, kf, geo: Geometry, plan: Plan, span: tuple[int, int]):
    """Importance of the query blocks ``span`` = [i0, i1), float32 [B, H, i1 - i0, nJ]; invalid pairs are 0."""
    in_groups = plan.importance_method != "pooling"
    r, s = plan.strides
    per_i, per_j = geo.query_block // r, geo.key_block // s
    n_b = kf.shape[2]
    a0, a1 = span[0] * per_i, min(span[1] * per_i, qf.shape[3])
    seen = n_b
    if geo.causal:
        # The last token of the group decides; pooling: the sampled token itself.
        a = paddle.arange(a0, a1) * r
        last = paddle.clip(a + (r - 1 if in_groups else 0), max=geo.lq - 1) + geo.offset
        seen = min((min(a1 * r, geo.lq) - 1 + geo.offset) // s + 1, n_b)
    b, kv, group = qf.shape[:3]
    logits = paddle.matmul(qf[:, :, :, a0:a1].flatten(2, 3), kf[:, :, :seen], transpose_y=True)
    logits = logits.reshape([b, kv * group, a1 - a0, seen])
    if geo.causal:
        hidden = paddle.arange(seen) * s > last.unsqueeze(-1)
        logits = logits + hidden.astype("float32") * MASKED
    n_rows = span[1] - span[0]
    if plan.importance_method == "peak":
        n_seen = ceil_div(seen, per_j)
        logits = F.pad(logits, [0, 0, 0, 0, 0, 0, 0, n_seen * per_j - seen], value=MASKED, pad_from_left_axis=True)
        logits, seen, per_j = logits.reshape([b, kv * group, a1 - a0, n_seen, per_j]).max(axis=-1), n_seen, 1
    p = F.softmax(logits, axis=-1)
    p = F.pad(p, [0, 0, 0, 0, 0, n_rows * per_i - (a1 - a0), 0, geo.n_j * per_j - seen], pad_from_left_axis=True)
    p = p.reshape([b, kv * group, n_rows, per_i, geo.n_j, per_j])
    if in_groups:
        return p.sum(axis=[3, 5])
    p = p.max(axis=[3, 5])
    return p / p.sum(axis=-1, keepdim=True).clip(min=1e-30)


def features(q, k, plan: Plan):
    """(qf, kf), float32, of what the plan estimates importance with: ``pooling_features`` or ``xattn_features``."""
    if plan.importance_method == "pooling":
        return pooling_features(q, k, plan.scale)
    return xattn_features(q, k, plan)


def blocks_per_span(geo: Geometry, heads: int, plan: Plan, budget: int = 1 << 22) -> int:
    """Query blocks to score at once, so that the logits stay below ``budget`` numbers, 16 MiB."""
    r, s = plan.strides
    per_block = heads * (geo.query_block // r) * ceil_div(geo.lk, s)
    return max(1, min(geo.n_i, budget // max(1, per_block)))
