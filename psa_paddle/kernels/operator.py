"""The whole operator on the device: at most five launches, allocations and nothing else."""

from __future__ import annotations

from ..config import IMPORTANCE_METHODS
from .attend import attend_fwd
from .common import check_blocks, check_inputs
from .importance import xattn_fwd
from .lists import Selection
from .means import means_fwd
from .pooling import pooling_fwd
from .pyramid import pyramid_fwd
from .selection import select_fwd


def select_blocks(
    q, k, *, scale: float, causal: bool, query_block: int, key_block: int, intervals, mode: str,
    strides: tuple[int, int], terms: int, method: str, text_length: int, budgets=None, cap=None, kv_start=None,
    means: bool = False, return_levels: bool = False, return_importance: bool = False,
) -> Selection:  # fmt: skip
    """Importance and selection: arguments as in ``psa_fwd``, cap as ``pyramid_fwd`` returns it.

    Raises:
        TypeError, ValueError: an unknown method; see ``xattn_fwd`` and ``select_fwd``.
    """
    if method not in IMPORTANCE_METHODS:
        raise ValueError(f"method must be one of {', '.join(IMPORTANCE_METHODS)}, got {method!r}.")
    shared = dict(causal=causal, query_block=query_block, key_block=key_block, kv_start=kv_start)
    query_stride = 0
    if len(intervals) == 1:
        check_inputs(q=q, k=k, kv_start=kv_start, causal=causal)
        scores, tops, tile = q, None, 0  # every block gets the same level
    elif method == "pooling":
        scores, tops, tile = pooling_fwd(q, k, scale=scale, **shared), None, 0
    else:
        query_stride = strides[0]
        scores, tops, tile = xattn_fwd(
            q, k, scale=scale, strides=strides, terms=terms, peak=method == "peak", **shared
        )  # fmt: skip
    return select_fwd(
        scores, tops, tile, cap, lq=q.shape[2], lk=k.shape[2], intervals=intervals, mode=mode,
        query_stride=query_stride, text_length=text_length, budgets=budgets, means=means, return_levels=return_levels,
        return_importance=return_importance, **shared,
    )  # fmt: skip


def psa_fwd(
    q, k, v, *, scale: float, causal: bool, query_block: int, key_block: int, intervals, mode: str,
    strides: tuple[int, int], terms: int, method: str, text_length: int, budgets=None, thresholds=None, kv_start=None,
    out=None, heads_last: bool = False, means: bool = False,
):  # fmt: skip
    """Pyramid Sparse Attention (arXiv:2512.04025) of Paddle or torch CUDA tensors, or of Paddle CPU tensors and NumPy
    arrays in Triton's interpreter.

    Args:
        q: [B, H, Lq, D]; k, v: [B, Hkv, Lk, D]; one dtype of float32, float16, bfloat16; D in 32, 64, 80, 96, 128,
            contiguous; other strides are free. Query head h reads kv head h // (H / Hkv). Causal: Lq <= Lk, aligned
            bottom-right.
        scale: factor of the logits.
        query_block, key_block: M in 64, 128 and N in 32, 64, 128 tokens.
        intervals: ``((level, lo, hi), ...)``, ascending and tiling [0, 1]: ``AttentionConfig.intervals``.
        mode: ``"energybound"``, ``"topk"`` or ``"topk_sqrt"``.
        method: ``"xattn"``, ``"peak"`` or ``"pooling"``; strides, terms: the first two's.
        text_length: last tokens whose key and query blocks stay at level 1.
        budgets: a tuple of H factors of the intervals' ends, by rank, or None.
        thresholds: (for 2, for 4, for 8), mean cosines above which a key block may be pooled so far; None: no cap.
        kv_start: int32 [B] on the device, first key of each sample of a left-padded batch, or None. A sample is
            computed as if it came alone; rows of its padding are zeros.
        means: a skipped block that is full and wholly visible takes part by the means of its keys and of its values.
        out: where to write, strides free but for the last, or None; heads_last: it is [B, Lq, H, D].

    Returns:
        ``(out, work)``: q.dtype [B, H, Lq, D], or [B, Lq, H, D]; and float32 [B, H, nI], each row's sum over its
        pairs of 1 / level, and 1 / N for a mean.

    Raises:
        TypeError, ValueError: unsupported dtypes, shapes, strides or settings.
    """
    check_inputs(q=q, k=k, v=v, kv_start=kv_start, causal=causal)
    check_blocks(query_block, key_block)
    pool = any(level > 1 for level, _, _ in intervals)
    pooled_k = pooled_v = cap = None
    if pool:
        pooled_k, pooled_v, cap = pyramid_fwd(k, v, key_block=key_block, thresholds=thresholds, kv_start=kv_start)
    means = means and any(level == 0 for level, _, _ in intervals)
    pair = means_fwd(k, v, key_block=key_block, kv_start=kv_start) if means else None
    found = select_blocks(
        q, k, scale=scale, causal=causal, query_block=query_block, key_block=key_block, intervals=intervals, mode=mode,
        strides=strides, terms=terms, method=method, text_length=text_length, budgets=budgets, cap=cap,
        kv_start=kv_start, means=means,
    )  # fmt: skip
    out = attend_fwd(
        q, k, v, pooled_k, pooled_v, found, scale=scale, causal=causal, query_block=query_block,
        key_block=key_block, text_length=text_length, kv_start=kv_start, out=out, heads_last=heads_last, means=pair,
    )  # fmt: skip
    return out, found.work
