"""The eager operator: importance -> levels -> attention, a span of query blocks at a time."""

from __future__ import annotations

import numpy as np
import paddle

from ..config import AttentionConfig
from ..geometry import Geometry
from ..stats import work_of
from .attend import Pyramid, attend, causal_tail, softmax_values
from .importance import block_importance, blocks_per_span, features
from .selection import key_similarity_cap, select_levels


def _geometry(q, k, config: AttentionConfig) -> Geometry:
    return Geometry(q.shape[2], k.shape[2], config.query_block, config.key_block, config.causal)


def _spans(geo: Geometry, heads: int, config: AttentionConfig):
    size = blocks_per_span(geo, heads, config)
    return [(i, min(i + size, geo.n_i)) for i in range(0, geo.n_i, size)]


def importance(q, k, config: AttentionConfig, scale: float):
    """Block importance, float32 [B, H, nI, nJ]."""
    geo = _geometry(q, k, config)
    qf, kf = features(q, k, config, scale)
    parts = [block_importance(qf, kf, geo, config, span) for span in _spans(geo, q.shape[0] * q.shape[1], config)]
    n_valid = paddle.to_tensor([geo.n_valid(i) for i in range(geo.n_i)]).unsqueeze(-1)
    # Paddle's CPU softmax leaves about 1e-28 where the mask is.
    return paddle.concat(parts, axis=2) * (paddle.arange(geo.n_j) < n_valid).astype("float32")


def _cap(k, config: AttentionConfig):
    if not config.use_sim_mask:
        return None
    thresholds = {2: config.sim_2x_threshold, 4: config.sim_4x_threshold, 8: config.sim_8x_threshold}
    return key_similarity_cap(k, config.key_block, thresholds)


def select(scores, k, lq: int, config: AttentionConfig):
    """Level map of whole rows, int32 [B, H, nI, nJ], from ``importance``'s result."""
    geo = Geometry(lq, k.shape[2], config.query_block, config.key_block, config.causal)
    return select_levels(
        scores,
        _cap(k, config),
        geo,
        config.intervals,
        config.mask_mode,
        config.forced_text,
        (0, geo.n_i),
        config.budgets,
    )


def attend_levels(q, k, v, levels, config: AttentionConfig, scale: float):
    """Attention given a level map [B, H, nI, nJ]; q.dtype [B, H, Lq, D]."""
    geo = _geometry(q, k, config)
    host = np.asarray(levels).astype(np.int64)
    pyramid, scaled = Pyramid(k, v, config.key_block), q.astype("float32") * scale
    parts = attend(scaled, pyramid, host, geo, (0, geo.n_i), k.shape[1], config.block_means)
    return paddle.concat(parts, axis=2).astype(q.dtype)


def psa_attention(q, k, v, config: AttentionConfig, scale: float):
    """Return ``(out, work)``: q.dtype [B, H, Lq, D] and float64 host [B, H], see ``CallStats``."""
    geo = _geometry(q, k, config)
    b, h = q.shape[:2]
    qf, kf = features(q, k, config, scale)
    cap, pyramid, scaled = _cap(k, config), Pyramid(k, v, config.key_block), q.astype("float32") * scale
    work = np.zeros((b, h))
    parts = []
    for span in _spans(geo, b * h, config):
        scores = block_importance(qf, kf, geo, config, span)
        rule = config.intervals, config.mask_mode, config.forced_text
        levels = select_levels(scores, cap, geo, *rule, span, config.budgets)
        host = levels.numpy()
        work += work_of(host, geo, config.block_means, span[0])
        parts += attend(scaled, pyramid, host, geo, span, k.shape[1], config.block_means)
    return paddle.concat(parts, axis=2).astype(q.dtype), work


def dense_attention(q, k, v, causal: bool, scale: float, rows: int = 128):
    """softmax(scale q k^T) v, causal bottom-right; q.dtype [B, H, Lq, D]; memory linear in the length."""
    b, h, lq, d = q.shape
    group, lk = h // k.shape[1], k.shape[2]
    geo = Geometry(lq, lk, rows, 1, causal)
    keys, values = (x.astype("float32").flatten(0, 1) for x in (k, v))
    scaled = (q.astype("float32") * scale).flatten(0, 1)
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
