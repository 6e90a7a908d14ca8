"""Block importance in Paddle ops, a span of query blocks at a time."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from ..config import AttentionConfig
from ..geometry import Geometry, ceil_div

SAMPLE_STEP = 4
MASKED = -1e30


def xattn_features(q, k, stride: int, terms: int, scale: float):
    """Antidiagonal features (arXiv:2503.16428): qf [B, Hkv, G, nA, n*D], kf [B, Hkv, nB, n*D], float32, n = ``terms``.

    ``qf . kf`` is scale / n * sum_t q[a s + s - 1 - t] . k[b s + t] over n evenly spaced t; tokens past the end are
    zero vectors.
    """
    step = stride // terms
    first = step // 2
    kf = _groups(k, stride)[:, :, :, first::step]
    qf = _groups(q, stride).flip(-2)[:, :, :, first::step] * (scale / terms)
    b, h, n_a = qf.shape[:3]
    return qf.reshape([b, k.shape[1], h // k.shape[1], n_a, -1]), kf.flatten(-2)


def _groups(x, size: int):
    """[B, H, L, D] -> float32 [B, H, ceil(L / size), size, D], zero-padded."""
    b, h, length, d = x.shape
    x = x.astype("float32")
    short = -length % size
    if short:
        x = paddle.concat([x, paddle.zeros([b, h, short, d])], axis=2)
    return x.reshape([b, h, -1, size, d])


def pooling_features(q, k, scale: float):
    """Every fourth token: qf [B, Hkv, G, nA, D], kf [B, Hkv, nB, D], float32."""
    b, h, _, d = q.shape
    qf = q[:, :, ::SAMPLE_STEP].astype("float32") * scale
    return qf.reshape([b, k.shape[1], h // k.shape[1], -1, d]), k[:, :, ::SAMPLE_STEP].astype("float32")


def block_importance(qf, kf, geo: Geometry, method: str, stride: int, span: tuple[int, int]):
    """Importance of the query blocks ``span`` = [i0, i1), float32 [B, H, i1 - i0, nJ]; invalid pairs are 0."""
    step = stride if method == "xattn" else SAMPLE_STEP
    per_i, per_j = geo.query_block // step, geo.key_block // step
    n_b = kf.shape[2]
    a0, a1 = span[0] * per_i, min(span[1] * per_i, qf.shape[3])
    seen = n_b
    if geo.causal:
        # xattn: the last token of the group decides; pooling: the sampled token itself.
        a = paddle.arange(a0, a1) * step
        last = paddle.clip(a + (step - 1 if method == "xattn" else 0), max=geo.lq - 1) + geo.offset
        seen = min((min(a1 * step, geo.lq) - 1 + geo.offset) // step + 1, n_b)
    b, kv, group = qf.shape[:3]
    logits = paddle.matmul(qf[:, :, :, a0:a1].flatten(2, 3), kf[:, :, :seen], transpose_y=True)
    logits = logits.reshape([b, kv * group, a1 - a0, seen])
    if geo.causal:
        hidden = paddle.arange(seen) * step > last.unsqueeze(-1)
        logits = logits + hidden.astype("float32") * MASKED
    p = F.softmax(logits, axis=-1)
    n_rows = span[1] - span[0]
    p = F.pad(p, [0, 0, 0, 0, 0, n_rows * per_i - (a1 - a0), 0, geo.n_j * per_j - seen], pad_from_left_axis=True)
    p = p.reshape([b, kv * group, n_rows, per_i, geo.n_j, per_j])
    if method == "xattn":
        return p.sum(axis=[3, 5])
    p = p.max(axis=[3, 5])
    return p / p.sum(axis=-1, keepdim=True).clip(min=1e-30)


def features(q, k, config: AttentionConfig, scale: float):
    if config.importance_method == "xattn":
        return xattn_features(q, k, config.xattn_stride, config.xattn_terms, scale)
    return pooling_features(q, k, scale)


def blocks_per_span(geo: Geometry, heads: int, step: int, budget: int = 1 << 24) -> int:
    """Query blocks to score at once, so that the logits stay below ``budget`` numbers."""
    per_block = heads * (geo.query_block // step) * ceil_div(geo.lk, step)
    return max(1, min(geo.n_i, budget // max(1, per_block)))
