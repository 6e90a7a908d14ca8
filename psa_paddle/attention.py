"""The operator: validate -> pick the backend -> importance -> levels -> attend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import paddle

from . import eager
from .config import HEAD_DIMS, AttentionConfig
from .geometry import Geometry
from .stats import CallStats

DTYPES = (paddle.float32, paddle.float16, paddle.bfloat16)
EAGER_DENSE_BELOW = 1024  # keys; benchmarks/bench_eager_cpu.py shows where the two curves cross


def check_qkv(q, k, v, config: AttentionConfig) -> None:
    """Refuse what the operator cannot do, before any device work.

    Raises:
        TypeError: not Paddle tensors, or dtypes that differ or are not float32, float16 or bfloat16.
        ValueError: shapes that do not fit [B, H, Lq, D] and [B, Hkv, Lk, D].
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, paddle.Tensor):
            raise TypeError(f"{name} must be a paddle.Tensor, got {type(x).__name__}.")
        if x.ndim != 4:
            raise ValueError(f"{name} must have 4 dimensions [B, H, L, D], got shape {list(x.shape)}.")
        if x.dtype not in DTYPES:
            raise TypeError(f"{name} must be float32, float16 or bfloat16, got {x.dtype}.")
        if x.dtype != q.dtype:
            raise TypeError(f"q, k and v must have one dtype, got {q.dtype} and {x.dtype} ({name}).")
    b, h, lq, d = q.shape
    if list(k.shape) != list(v.shape):
        raise ValueError(f"k and v must have one shape, got {list(k.shape)} and {list(v.shape)}.")
    if k.shape[0] != b or k.shape[3] != d:
        raise ValueError(f"q {list(q.shape)} and k {list(k.shape)} must agree in batch and head dimension.")
    if k.shape[1] < 1 or h % k.shape[1]:
        raise ValueError(f"{h} query heads cannot share {k.shape[1]} key heads evenly.")
    if d not in HEAD_DIMS:
        raise ValueError(f"head dimension {d} is not supported; use one of {', '.join(map(str, HEAD_DIMS))}.")
    if min(b, lq, k.shape[2]) < 1:
        raise ValueError(f"q {list(q.shape)} and k {list(k.shape)} must not be empty.")
    if config.causal and lq > k.shape[2]:
        raise ValueError(f"causal attention needs as many keys as queries; got {lq} queries and {k.shape[2]} keys.")


def check_kv_start(kv_start: Sequence[int] | None, batch: int, lk: int) -> list[int]:
    """First real key of each sample of a left-padded batch, as ints; zeros when there is no padding."""
    if kv_start is None:
        return [0] * batch
    starts = [int(s) for s in np.asarray(kv_start).reshape(-1)]
    if len(starts) != batch:
        raise ValueError(f"kv_start must name one start for each of the {batch} samples, got {len(starts)}.")
    if not all(0 <= s < lk for s in starts):
        raise ValueError(f"kv_start must lie in [0, {lk}), got {starts}: a sample without keys has no attention.")
    return starts


def check_scale(scale: float | None, d: int) -> float:
    scale = 1.0 / math.sqrt(d) if scale is None else float(scale)
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}.")
    return scale


def pyramid_attention(
    q,
    k,
    v,
    config: AttentionConfig | None = None,
    *,
    scale: float | None = None,
    kv_start: Sequence[int] | None = None,
    return_stats: bool = False,
):
    """Pyramid Sparse Attention (arXiv:2512.04025): each key block enters at full resolution, pooled, or not at all.

    Args:
        q: [B, H, Lq, D], float32, float16 or bfloat16; D in 32, 64, 80, 96, 128.
        k, v: [B, Hkv, Lk, D]; query head h reads kv head h // (H / Hkv). Causal: Lq <= Lk, aligned bottom-right.
        config: what to keep; ``AttentionConfig()`` by default.
        scale: factor of the logits, 1 / sqrt(D) by default.
        kv_start: [B] ints, the first real token of each sample of a left-padded batch. Each sample is computed as if
            it came alone; the rows of its padding are zeros.
        return_stats: also return a ``CallStats``.

    Returns:
        [B, H, Lq, D] in q's dtype, or (that, ``CallStats``).

    Raises:
        TypeError, ValueError: see ``check_qkv``; a kv_start or scale that makes no sense.
    """
    config = config or AttentionConfig()
    check_qkv(q, k, v, config)
    scale = check_scale(scale, q.shape[3])
    starts = check_kv_start(kv_start, q.shape[0], k.shape[2])
    if len(set(starts)) == 1:
        out, stats = _samples(q, k, v, starts[0], config, scale)
    else:
        parts = [_samples(q[b : b + 1], k[b : b + 1], v[b : b + 1], s, config, scale) for b, s in enumerate(starts)]
        out, stats = paddle.concat([part for part, _ in parts]), _merge([one for _, one in parts])
    return (out, stats) if return_stats else out


def _samples(q, k, v, start: int, config: AttentionConfig, scale: float):
    """Samples that share one start: cut the padding off, run, and put zeros in its place."""
    first = max(0, start - (k.shape[2] - q.shape[2])) if config.causal else 0
    if start:
        q, k, v = q[:, :, first:], k[:, :, start:], v[:, :, start:]
    lengths = ((q.shape[2], k.shape[2]),) * q.shape[0]
    dense_below = EAGER_DENSE_BELOW if config.dense_below is None else config.dense_below
    if k.shape[2] < dense_below:
        out = eager.dense_attention(q, k, v, config.causal, scale)
        stats = CallStats("eager", "dense", f"shorter than {dense_below} keys", lengths)
    else:
        out, work = eager.psa_attention(q, k, v, config, scale)
        geo = Geometry(*lengths[0], config.query_block, config.key_block, config.causal)
        stats = CallStats("eager", "sparse", "", lengths, list(work), [geo.n_pairs()] * q.shape[0])
    if first:
        b, h, _, d = q.shape
        out = paddle.concat([paddle.zeros([b, h, first, d], dtype=q.dtype), out], axis=2)
    return out, stats


def _merge(calls: list[CallStats]) -> CallStats:
    """One record for a batch whose samples ran one by one."""
    sparse = [c for c in calls if c.mode == "sparse"]
    return CallStats(
        calls[0].backend,
        "sparse" if sparse else "dense",
        "" if sparse else calls[0].reason,
        tuple(n for c in calls for n in c.lengths),
        [w for c in sparse for w in c.work],
        [n for c in sparse for n in c.pairs],
    )


def estimate_block_importance(q, k, config: AttentionConfig | None = None, *, scale: float | None = None):
    """Importance of every pair of blocks, float32 [B, H, nI, nJ]; a row sums to the number of its query groups
    (``xattn``, arXiv:2503.16428) or to 1 (``pooling``); invalid pairs are 0. Shapes and errors as in
    ``pyramid_attention``."""
    config = config or AttentionConfig()
    check_qkv(q, k, k, config)
    return eager.importance(q, k, config, check_scale(scale, q.shape[3]))


def adaptive_block_sparse_attn(q, k, v, config: AttentionConfig | None = None, *, scale: float | None = None):
    """``pyramid_attention`` with its counts: ``(out, sparsity, per_head_density)``, the last two as tensors, [] and
    [H], so that nothing waits for the device."""
    out, stats = pyramid_attention(q, k, v, config, scale=scale, return_stats=True)
    heads = q.shape[1]
    if stats.mode == "dense":
        return out, paddle.zeros([]), paddle.ones([heads])
    work = sum(paddle.to_tensor(w, dtype="float32") for w in stats.work)
    density = work / float(sum(stats.pairs))
    return out, 1.0 - density.mean(), density
