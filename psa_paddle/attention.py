"""The operator: validate -> pick the backend -> importance -> levels -> attend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import paddle

from . import eager
from .config import HEAD_DIMS, SEED_RATIOS, AttentionConfig, check_mask_ratios
from .geometry import Geometry
from .plan import DenseReason, Plan
from .stats import AuditedRows, CallStats, merge_calls

DTYPES = (paddle.float32, paddle.float16, paddle.bfloat16)


def check_qkv(q, k, v, config: AttentionConfig) -> None:
    """Refuse what the operator cannot do, before any device work.

    Raises:
        TypeError: not Paddle tensors, or dtypes that differ or are not float32, float16 or bfloat16.
        ValueError: shapes that do not fit [B, H, Lq, D] and [B, Hkv, Lk, D].
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, paddle.Tensor):
            raise TypeError(f"{name} must be a paddle.Tensor, got {type(x).__name__}.")
    _check_shapes(*((tuple(x.shape), x.dtype) for x in (q, k, v)), config)


@lru_cache(maxsize=256)  # every layer of a prompt asks for the same; what is refused is not remembered
def _check_shapes(q, k, v, config: AttentionConfig) -> None:
    """``check_qkv`` of (shape, dtype)."""
    for name, (shape, dtype) in (("q", q), ("k", k), ("v", v)):
        if len(shape) != 4:
            raise ValueError(f"{name} must have 4 dimensions [B, H, L, D], got shape {list(shape)}.")
        if dtype not in DTYPES:
            raise TypeError(f"{name} must be float32, float16 or bfloat16, got {dtype}.")
        if dtype != q[1]:
            raise TypeError(f"q, k and v must have one dtype, got {q[1]} and {dtype} ({name}).")
    (b, h, lq, d), k, v = q[0], k[0], v[0]
    if k != v:
        raise ValueError(f"k and v must have one shape, got {list(k)} and {list(v)}.")
    if k[0] != b or k[3] != d:
        raise ValueError(f"q {list(q[0])} and k {list(k)} must agree in batch and head dimension.")
    if k[1] < 1 or h % k[1]:
        raise ValueError(f"{h} query heads cannot share {k[1]} key heads evenly.")
    if d not in HEAD_DIMS:
        raise ValueError(f"head dimension {d} is not supported; use one of {', '.join(map(str, HEAD_DIMS))}.")
    if min(b, lq, k[2]) < 1:
        raise ValueError(f"q {list(q[0])} and k {list(k)} must not be empty.")
    if config.budgets is not None and len(config.budgets) != h:
        raise ValueError(f"budgets must hold a factor for each of the {h} query heads, got {len(config.budgets)}.")
    if config.causal and lq > k[2]:
        raise ValueError(f"causal attention needs as many keys as queries; got {lq} queries and {k[2]} keys.")


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
    """The factor of the logits, 1 / sqrt(d) for None; ValueError for one that is not finite."""
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
    audit_rows = config.audit_rows if return_stats else 0
    plan, starts = prepare(q, k, v, config, scale, kv_start, heads_last=heads_last, audit_rows=audit_rows)
    out, stats = run(q, k, v, starts, plan)
    return (out, stats) if return_stats else out


def dense_attention(
    q,
    k,
    v,
    config: AttentionConfig,
    reason: DenseReason | str,
    *,
    scale: float | None = None,
    kv_start: Sequence[int] | None = None,
    heads_last: bool = False,
):
    """``(out, CallStats)`` of ``pyramid_attention`` with every block kept, whatever the lengths.

    Of the configuration the backend and ``causal`` matter; ``reason``: what the statistics say; the rest, and the
    errors, as in ``pyramid_attention``.
    """
    plan, starts = prepare(q, k, v, config, scale, kv_start, heads_last=heads_last, dense=reason)
    return run(q, k, v, starts, plan)


def prepare(q, k, v, config: AttentionConfig, scale, kv_start, **call) -> tuple[Plan, list[int]]:
    """A call's plan and starts, once everything is checked: arguments and errors as in ``pyramid_attention``; call: see
    ``Plan.of``."""
    check_qkv(q, k, v, config)
    scale = check_scale(scale, q.shape[3])
    starts = check_kv_start(kv_start, q.shape[0], k.shape[2])
    return Plan.of(config, scale, pick_backend(config, q, k, v), **call), starts


def run(q, k, v, starts: list[int], plan: Plan):
    """``(out, CallStats)`` of what ``prepare`` saw: the whole batch in one pass of the kernels; in parts where its
    samples go different ways, or where the eager backend meets different starts."""
    lk = k.shape[2]
    reasons = [plan.why_dense(lk - start) for start in set(starts)]
    if len(reasons) > 1 and (plan.backend == "eager" or not (all(reasons) or not any(reasons))):
        rows = [slice(b, b + 1) for b in range(len(starts))]
        parts = [run(q[b], k[b], v[b], starts[b], plan) for b in rows]
        return paddle.concat([part for part, _ in parts]), merge_calls([one for _, one in parts])
    lengths = _lengths(q, k, starts, plan)
    if plan.backend == "eager":
        out, work = _eager(q, k, v, starts[0], plan)
    else:
        from . import kernels

        q, k, v = (x if x.strides[-1] == 1 else x.contiguous() for x in (q, k, v))
        out, work = kernels.psa_fwd(q, k, v, plan.at_level_one if reasons[0] else plan, kv_start=_on_device(starts, q))
    if reasons[0]:
        return out, CallStats(plan.backend, "dense", reasons[0], lengths)
    pairs = [Geometry(*n, plan.query_block, plan.key_block, plan.causal).n_pairs() for n in lengths]
    stats = CallStats(plan.backend, "sparse", "", lengths, [work], pairs)
    if plan.audit_rows:
        stats.audits = audit_output(q, k, v, out, starts, plan)
    return out, stats


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


def _lengths(q, k, starts: list[int], plan: Plan) -> tuple[tuple[int, int], ...]:
    """(Lq, Lk) of each sample without its padding."""
    lq, lk = q.shape[2], k.shape[2]
    return tuple((lq - max(0, s - (lk - lq)) if plan.causal else lq, lk - s) for s in starts)


def _on_device(starts: list[int], like):
    """int32 [B], or None where there is no padding."""
    return paddle.to_tensor(starts, dtype="int32", place=like.place) if any(starts) else None


def _eager(q, k, v, start: int, plan: Plan):
    """Samples that share one start: cut the padding off, run, and put zeros in its place."""
    first = max(0, start - (k.shape[2] - q.shape[2])) if plan.causal else 0
    if start:
        q, k, v = q[:, :, first:], k[:, :, start:], v[:, :, start:]
    if plan.why_dense(k.shape[2]):
        out, work = eager.dense_attention(q, k, v, plan.causal, plan.scale), None
    else:
        out, work = eager.psa_attention(q, k, v, plan)
    if first:
        b, h, _, d = q.shape
        out = paddle.concat([paddle.zeros([b, h, first, d], dtype=q.dtype), out], axis=2)
    return out.transpose([0, 2, 1, 3]) if plan.heads_last else out, work


def audit_output(q, k, v, out, starts: list[int], plan: Plan) -> list[AuditedRows]:
    """Compare ``out`` with exact attention at ``plan.audit_rows`` rows of each sample; shapes as in
    ``pyramid_attention``. Nothing is read from the device."""
    lengths = [n for n, _ in _lengths(q, k, starts, plan)]
    if plan.backend == "triton":
        from . import kernels

        q, k, v = (x if x.strides[-1] == 1 else x.contiguous() for x in (q, k, v))
        return [AuditedRows(kernels.audit_fwd(q, k, v, out, plan, kv_start=_on_device(starts, q)), tuple(lengths))]
    out, audits = out.transpose([0, 2, 1, 3]) if plan.heads_last else out, []
    for b, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        own = (q[b : b + 1, :, -n:], k[b : b + 1, :, start:], v[b : b + 1, :, start:], out[b : b + 1, :, -n:])
        audits.append(AuditedRows(eager.audit_sums(*own, plan.scale, plan.causal, plan.audit_rows), (n,)))
    return audits


def estimate_block_importance(q, k, config: AttentionConfig | str | None = None, *, scale: float | None = None):
    """Importance of every pair of blocks, float32 [B, H, nI, nJ]; a row sums to the number of its query groups
    (``xattn``, arXiv:2503.16428; ``peak``) or to 1 (``pooling``); invalid pairs are 0. Shapes and errors as in
    ``pyramid_attention``."""
    config = AttentionConfig.of(config)
    check_qkv(q, k, k, config)
    plan = Plan.of(config, check_scale(scale, q.shape[3]), pick_backend(config, q, k))
    if plan.backend == "eager":
        return eager.importance(q, k, plan)
    from . import kernels

    plan = plan.replace(intervals=check_mask_ratios(SEED_RATIOS), block_means=False)  # any that need the estimate
    return kernels.select_blocks(q, k, plan, return_importance=True).importance


def level_map(q, k, config: AttentionConfig | str | None = None, *, scale: float | None = None) -> np.ndarray:
    """The level of every pair of blocks that ``pyramid_attention`` chooses, host int8 [B, H, nI, nJ]: 1, 2, 4, 8, or 0
    for a block that is skipped, takes part by its means, or that no row may see. Whatever the length, nothing runs
    dense here. Reads from the device; shapes and errors as in ``pyramid_attention``."""
    config = AttentionConfig.of(config)
    plan, _ = prepare(q, k, k, config, scale, None)
    if plan.backend == "eager":
        return eager.level_map(q, k, plan)
    from . import kernels

    q, k = (x if x.strides[-1] == 1 else x.contiguous() for x in (q, k))
    cap = kernels.pyramid_fwd(k, k, plan)[2] if plan.pools else None
    return np.asarray(kernels.select_blocks(q, k, plan, cap, return_levels=True).levels)


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
