"""The eager operator: importance -> levels -> attention, a span of query blocks at a time."""

from __future__ import annotations

import numpy as np
import paddle

from ..config import POOLED_LEVELS
from ..geometry import Geometry
from ..plan import Plan
from ..stats import work_of
from .attend import Pyramid, attend, causal_tail, softmax_values
from .importance import block_importance, blocks_per_span, features
from .selection import key_similarity_cap, select_levels

SCORES_TOGETHER = 1 << 20  # logits of heads that are taken together, where one head has no more: they stay in a cache


def _geometry(lq: int, lk: int, plan: Plan) -> Geometry:
    return Geometry(lq, lk, plan.query_block, plan.key_block, plan.causal)


def _spans(geo: Geometry, heads: int, plan: Plan):
    size = blocks_per_span(geo, heads, plan)
    return [(i, min(i + size, geo.n_i)) for i in range(0, geo.n_i, size)]


def importance(q, k, plan: Plan):
    """Block importance, float32 [B, H, nI, nJ]."""
    geo = _geometry(q.shape[2], k.shape[2], plan)
    qf, kf = features(q, k, plan)
    parts = [block_importance(qf, kf, geo, plan, span) for span in _spans(geo, q.shape[0] * q.shape[1], plan)]
    n_valid = paddle.to_tensor([geo.n_valid(i) for i in range(geo.n_i)]).unsqueeze(-1)
    # Paddle's CPU softmax leaves about 1e-28 where the mask is.
    return paddle.concat(parts, axis=2) * (paddle.arange(geo.n_j) < n_valid).astype("float32")


def _cap(k, plan: Plan):
    if plan.thresholds is None:
        return None
    return key_similarity_cap(k, plan.key_block, dict(zip(POOLED_LEVELS, plan.thresholds, strict=True)))


def select(scores, k, lq: int, plan: Plan):
    """Level map of whole rows, int32 [B, H, nI, nJ], from ``importance``'s result."""
    geo = _geometry(lq, k.shape[2], plan)
    return select_levels(scores, _cap(k, plan), geo, plan, (0, geo.n_i))


def attend_levels(q, k, v, levels, plan: Plan):
    """Attention given a level map [B, H, nI, nJ]; q.dtype [B, H, Lq, D]."""
    geo = _geometry(q.shape[2], k.shape[2], plan)
    host = np.asarray(levels).astype(np.int64)
    pyramid, scaled = Pyramid(k, v, plan.key_block), q.astype("float32") * plan.scale
    parts = attend(scaled, pyramid, host, geo, (0, geo.n_i), k.shape[1], plan.block_means)
    return paddle.concat(parts, axis=2).astype(q.dtype)


def _chosen(q, k, plan: Plan):
    """Spans of query blocks (i0, i1), each with its levels, host int32 [B, H, i1 - i0, nJ]."""
    geo = _geometry(q.shape[2], k.shape[2], plan)
    qf, kf = features(q, k, plan)
    cap = _cap(k, plan)
    for span in _spans(geo, q.shape[0] * q.shape[1], plan):
        scores = block_importance(qf, kf, geo, plan, span)
        yield span, select_levels(scores, cap, geo, plan, span).numpy()


def level_map(q, k, plan: Plan) -> np.ndarray:
    """The levels that ``psa_attention`` chooses, host int8 [B, H, nI, nJ]; invalid pairs are 0."""
    return np.concatenate([levels.astype(np.int8) for _, levels in _chosen(q, k, plan)], axis=2)


def psa_attention(q, k, v, plan: Plan):
    """Return ``(out, work)``: q.dtype [B, H, Lq, D] and float64 host [B, H], see ``CallStats``."""
    geo = _geometry(q.shape[2], k.shape[2], plan)
    b, h = q.shape[:2]
    pyramid, scaled = Pyramid(k, v, plan.key_block), q.astype("float32") * plan.scale
    work = np.zeros((b, h))
    parts = []
    for span, host in _chosen(q, k, plan):
        work += work_of(host, geo, plan.block_means, span[0])
        parts += attend(scaled, pyramid, host, geo, span, k.shape[1], plan.block_means)
    return paddle.concat(parts, axis=2).astype(q.dtype), work


def dense_attention(q, k, v, causal: bool, scale: float, rows: int = 128):
    """softmax(scale q k^T) v, causal bottom-right; q.dtype [B, H, Lq, D]; memory linear in the length."""
    b, h, lq, d = q.shape
    group, lk = h // k.shape[1], k.shape[2]
    geo = Geometry(lq, lk, rows, 1, causal)
    keys, values = (x.astype("float32").flatten(0, 1) for x in (k, v))
    scaled = (q.astype("float32") * scale).flatten(0, 1)
    together = SCORES_TOGETHER // (lq * lk)
    if together and group == 1 and not causal:
        spans = [slice(x, x + together) for x in range(0, b * h, together)]
        parts = [softmax_values(scaled[span], keys[span], values[span], None, None) for span in spans]
        return paddle.concat(parts).reshape([b, h, lq, d]).astype(q.dtype)
    heads = []
    for x in range(b * h):
        kv = x // group  # B * H and B * Hkv share the factor B, so this is the kv head of the same sample
        parts = []
        for i in range(geo.n_i):
            start, stop = geo.rows(i)
            seen = geo.n_valid(i)
            tail = causal_tail(geo, i)
            block = slice(x, x + 1), slice(start, stop)
            keep = slice(kv, kv + 1), slice(0, seen)
            parts.append(softmax_values(scaled[block], keys[keep], values[keep], None, tail))
        heads.append(paddle.concat(parts, axis=1))
    return paddle.concat(heads).reshape([b, h, lq, d]).astype(q.dtype)
