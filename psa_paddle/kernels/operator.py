"""The whole operator on the device: at most five launches, allocations and nothing else."""

from __future__ import annotations

from .. import bridge
from ..plan import Plan
from .attend import Pooled, check_attend_out, run_attend
from .common import check_inputs
from .importance import run_xattn
from .lists import Selection
from .means import run_means
from .pooling import run_pooling
from .pyramid import run_pyramid
from .selection import run_select
from .selection_inputs import Scores, check_budgets, check_cap


def select_blocks(
    q, k, plan: Plan, cap=None, *, kv_start=None, return_levels: bool = False, return_importance: bool = False
) -> Selection:
    """Importance and selection: arguments as in ``psa_fwd``, cap as ``pyramid_fwd`` returns it.

    Raises:
        TypeError, ValueError: see ``xattn_fwd`` and ``select_fwd``.
    """
    check_inputs(q=q, k=k, kv_start=kv_start, causal=plan.causal)
    check_cap(cap, plan, k.shape[2], q)
    check_budgets(plan, q.shape[1])
    return _run_blocks(q, k, plan, cap, kv_start, (return_levels, return_importance))


def _run_blocks(q, k, plan: Plan, cap, kv_start, wanted: tuple[bool, bool]) -> Selection:
    """``select_blocks`` of checked tensors; wanted: the levels, the importance."""
    if not plan.bounds:
        scores = Scores(q)  # every block gets the same level
    elif plan.importance_method == "pooling":
        scores = Scores(run_pooling(q, k, plan, kv_start))
    else:
        scores = run_xattn(q, k, plan, kv_start)
    return run_select(scores, plan, q.shape[2], k.shape[2], cap, kv_start, wanted)


def psa_fwd(q, k, v, plan: Plan, *, kv_start=None, out=None):
    """Pyramid Sparse Attention (arXiv:2512.04025) of Paddle or torch CUDA tensors, or of Paddle CPU tensors and NumPy
    arrays in Triton's interpreter.

    Args:
        q: [B, H, Lq, D]; k, v: [B, Hkv, Lk, D]; one dtype of float32, float16, bfloat16; D in 32, 64, 80, 96, 128,
            contiguous; other strides are free. Query head h reads kv head h // (H / Hkv). Causal: Lq <= Lk, aligned
            bottom-right.
        plan: what to keep and how to choose it; what it says of backends and of dense calls is not read.
        kv_start: int32 [B] on the device, first key of each sample of a left-padded batch, or None. A sample is
            computed as if it came alone; rows of its padding are zeros.
        out: where to write, strides free but for the last, or None.

    Returns:
        ``(out, work)``: q.dtype [B, H, Lq, D], or [B, Lq, H, D] by ``plan.heads_last``; and float32 [B, H, nI], each
        row's sum over its pairs of 1 / level, and 1 / N for a mean.

    Raises:
        TypeError, ValueError: unsupported or unequal dtypes, shapes or strides, budgets of other heads.
    """
    return bridge.repeat(_psa, (plan,), q, k, v, kv_start, out)


def _psa(q, k, v, kv_start, out, plan: Plan):
    """``psa_fwd``; of its tensors nothing but dtypes, shapes, strides, devices and alignment is asked for."""
    check_inputs(q=q, k=k, v=v, kv_start=kv_start, causal=plan.causal)
    check_budgets(plan, q.shape[1])
    check_attend_out(out, q, plan)
    pooled_k, pooled_v, cap = run_pyramid(k, v, plan, kv_start) if plan.pools else (None, None, None)
    means = run_means(k, v, plan, kv_start) if plan.reads_means else (None, None)
    found = _run_blocks(q, k, plan, cap, kv_start, (False, False))
    return run_attend(q, k, v, found, plan, Pooled(pooled_k, pooled_v, *means), kv_start, out), found.work
