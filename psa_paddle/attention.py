"""The operator: validate -> pick the backend -> importance -> levels -> attend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import paddle

from . import eager
from .audit import AuditedRows
from .config import ALL_LEVEL_ONE, HEAD_DIMS, SEED_RATIOS, AttentionConfig
from .geometry import Geometry
from .kernel_arguments import kernel_arguments
from .stats import CallStats, merge_calls

DTYPES = (paddle.float32, paddle.float16, paddle.bfloat16)
# Keys from which the operator beats dense attention: benchmarks/RESULTS.md shows where the curves cross.
DENSE_BELOW = {"eager": 1024, "triton": 4608}


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
    if config.budgets is not None and len(config.budgets) != h:
        raise ValueError(f"budgets must hold a factor for each of the {h} query heads, got {len(config.budgets)}.")
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
    config: AttentionConfig | str | None = None,
    *,
    scale: float | None = None,
    kv_start: Sequence[int] | None = None,
    heads_last: bool = False,
    return_stats: bool = False,
):
    """Pyramid Sparse Attention (arXiv:2512.04025): each key block enters at full resolution, pooled, or not at all.

    Args:
        q: [B, H, Lq, D], float32, float16 or bfloat16; D in 32, 64, 80, 96, 128.
        k, v: [B, Hkv, Lk, D]; query head h reads kv head h // (H / Hkv). Causal: Lq <= Lk, aligned bottom-right.
        config: what to keep: an ``AttentionConfig``, the name of one of its presets, or None for the default.
        scale: factor of the logits, 1 / sqrt(D) by default.
        kv_start: [B] ints, the first real token of each sample of a left-padded batch. Each sample is computed as if
            it came alone; the rows of its padding are zeros.
        heads_last: return [B, Lq, H, D], the layout that an output projection wants.
        return_stats: also return a ``CallStats``, with the audit that ``config.audit_rows`` asks for.

    Returns:
        [B, H, Lq, D] or [B, Lq, H, D] in q's dtype, or (that, ``CallStats``).

    Raises:
        TypeError, ValueError: see ``check_qkv``; another config; a kv_start or scale that makes no sense;
            ``backend="triton"`` on tensors that are not on a CUDA device or that want gradients.
        ImportError: no Triton, or one that is too old.
    """
    config = AttentionConfig.of(config)
    check_qkv(q, k, v, config)
    scale = check_scale(scale, q.shape[3])
    starts = check_kv_start(kv_start, q.shape[0], k.shape[2])
    backend = pick_backend(config, q, k, v)
    below = DENSE_BELOW[backend] if config.dense_below is None else config.dense_below

    def run(q, k, v, starts):
        out, stats = {"eager": _eager, "triton": _triton}[backend](q, k, v, starts, config, scale, below, heads_last)
        if return_stats and config.audit_rows and stats.mode == "sparse":
            stats.audits = audit_output(q, k, v, out, starts, config, scale, backend, heads_last)
        return out, stats

    sides = {k.shape[2] - start < below for start in starts}
    if len(set(starts)) == 1 or (backend == "triton" and len(sides) == 1):
        out, stats = run(q, k, v, starts)
    else:
        parts = [run(q[b : b + 1], k[b : b + 1], v[b : b + 1], starts[b : b + 1]) for b in range(len(starts))]
        out, stats = paddle.concat([part for part, _ in parts]), merge_calls([one for _, one in parts])
    return (out, stats) if return_stats else out


def pick_backend(config: AttentionConfig, *tensors) -> str:
    """``"triton"`` on CUDA tensors that want no gradient and ``"eager"`` elsewhere, unless the configuration names one.

    Raises:
        ValueError: ``backend="triton"`` where gradients are wanted, which the kernels would lose silently.
    """
    wanted = paddle.is_grad_enabled() and not all(x.stop_gradient for x in tensors)
    if wanted and config.backend == "triton":
        raise ValueError("the Triton backend has no gradients; call it under paddle.no_grad() or use 'eager'.")
    if config.backend != "auto":
        return config.backend
    return "triton" if tensors[0].place.is_gpu_place() and not wanted else "eager"


def _lengths(q, k, starts: list[int], config: AttentionConfig) -> tuple[tuple[int, int], ...]:
    """(Lq, Lk) of each sample without its padding."""
    lq, lk = q.shape[2], k.shape[2]
    return tuple((lq - max(0, s - (lk - lq)) if config.causal else lq, lk - s) for s in starts)


def _stats(backend: str, lengths, config: AttentionConfig, below: int, work) -> CallStats:
    if lengths[0][1] < below:
        return CallStats(backend, "dense", f"shorter than {below} keys", lengths)
    pairs = [Geometry(*n, config.query_block, config.key_block, config.causal).n_pairs() for n in lengths]
    return CallStats(backend, "sparse", "", lengths, [work], pairs)


def _eager(q, k, v, starts, config: AttentionConfig, scale: float, below: int, heads_last: bool):
    """Samples that share one start: cut the padding off, run, and put zeros in its place."""
    start, lengths, work = starts[0], _lengths(q, k, starts, config), None
    first = q.shape[2] - lengths[0][0]
    if start:
        q, k, v = q[:, :, first:], k[:, :, start:], v[:, :, start:]
    if k.shape[2] < below:
        out = eager.dense_attention(q, k, v, config.causal, scale)
    else:
        out, work = eager.psa_attention(q, k, v, config, scale)
    if first:
        b, h, _, d = q.shape
        out = paddle.concat([paddle.zeros([b, h, first, d], dtype=q.dtype), out], axis=2)
    out = out.transpose([0, 2, 1, 3]) if heads_last else out
    return out, _stats("eager", lengths, config, below, work)


def _triton(q, k, v, starts, config: AttentionConfig, scale: float, below: int, heads_last: bool):
    """One pass over the whole batch; below the crossover with every block at level 1, which needs no estimate."""
    from . import kernels

    q, k, v = (x if x.strides[-1] == 1 else x.contiguous() for x in (q, k, v))
    lengths = _lengths(q, k, starts, config)
    chosen = config if lengths[0][1] >= below else config.replace(mask_ratios=ALL_LEVEL_ONE)
    padded = paddle.to_tensor(starts, dtype="int32", place=q.place) if any(starts) else None
    out, work = kernels.psa_fwd(q, k, v, **kernel_arguments(chosen, scale), kv_start=padded, heads_last=heads_last)
    return out, _stats("triton", lengths, config, below, work)


def audit_output(
    q, k, v, out, starts: list[int], config: AttentionConfig, scale: float, backend: str, heads_last: bool
) -> list[AuditedRows]:
    """Compare ``out`` with exact attention at ``config.audit_rows`` rows of each sample; shapes as in
    ``pyramid_attention``. Nothing is read from the device."""
    rows, lengths = config.audit_rows, [n for n, _ in _lengths(q, k, starts, config)]
    if backend == "triton":
        from . import kernels

        q, k, v = (x if x.strides[-1] == 1 else x.contiguous() for x in (q, k, v))
        padded = paddle.to_tensor(starts, dtype="int32", place=q.place) if any(starts) else None
        sums = kernels.audit_fwd(
            q, k, v, out, scale=scale, causal=config.causal, rows=rows, kv_start=padded, heads_last=heads_last
        )
        return [AuditedRows(sums, tuple(lengths))]
    out, audits = out.transpose([0, 2, 1, 3]) if heads_last else out, []
    for b, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        own = (q[b : b + 1, :, -n:], k[b : b + 1, :, start:], v[b : b + 1, :, start:], out[b : b + 1, :, -n:])
        audits.append(AuditedRows(eager.audit_sums(*own, scale, config.causal, rows), (n,)))
    return audits


def estimate_block_importance(q, k, config: AttentionConfig | str | None = None, *, scale: float | None = None):
    """Importance of every pair of blocks, float32 [B, H, nI, nJ]; a row sums to the number of its query groups
    (``xattn``, arXiv:2503.16428; ``peak``) or to 1 (``pooling``); invalid pairs are 0. Shapes and errors as in
    ``pyramid_attention``."""
    config = AttentionConfig.of(config)
    check_qkv(q, k, k, config)
    scale = check_scale(scale, q.shape[3])
    if pick_backend(config, q, k) == "eager":
        return eager.importance(q, k, config, scale)
    from . import kernels

    arguments = kernel_arguments(config.replace(mask_ratios=SEED_RATIOS), scale)  # any ratios that need the estimate
    del arguments["thresholds"], arguments["means"]
    return kernels.select_blocks(q, k, **arguments, return_importance=True).importance


def adaptive_block_sparse_attn(q, k, v, config: AttentionConfig | str | None = None, *, scale: float | None = None):
    """``pyramid_attention`` with its counts: ``(out, sparsity, per_head_density)``, the last two as tensors, [] and
    [H], so that nothing waits for the device."""
    config = AttentionConfig.of(config).replace(audit_rows=0)  # nobody would see it
    out, stats = pyramid_attention(q, k, v, config, scale=scale, return_stats=True)
    heads = q.shape[1]
    if stats.mode == "dense":
        return out, paddle.zeros([]), paddle.ones([heads])
    work = [paddle.to_tensor(w, dtype="float32") for w in stats.work]
    density = sum(w.sum([0, *range(2, w.ndim)]) for w in work) / float(sum(stats.pairs))
    return out, 1.0 - density.mean(), density
