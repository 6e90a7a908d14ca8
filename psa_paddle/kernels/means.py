"""Step 1, for blocks that will be skipped: the mean of each block's keys and of its values."""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge
from ..plan import Plan
from . import tuning
from .common import check_inputs, next_power_of_2, sample_span, stride_args


@triton.jit
def _means_kernel(
    k, v, mean_k, mean_v, kv_start, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl, lk, n_full, hkv,
    N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    i_j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // hkv, i_bh % hkv
    _, o_k, _, lk = sample_span(kv_start, i_b, lk, lk, False)
    o_n, o_d = tl.arange(0, N), tl.arange(0, BLOCK_D)
    m_d = o_d < D
    # Zeros where a shorter sample has no such block: masked later on, but not NaN.
    m = (o_d < tl.where((i_j + 1) * N <= lk, D, 0))[None, :]
    row = (o_k + i_j * N + o_n).to(tl.int64)[:, None]
    b_k = tl.load(k + i_b * stride_kb + i_h * stride_kh + row * stride_kl + o_d[None, :], mask=m, other=0.0)
    b_v = tl.load(v + i_b * stride_vb + i_h * stride_vh + row * stride_vl + o_d[None, :], mask=m, other=0.0)
    o_out = (i_bh * n_full + i_j) * D + o_d
    tl.store(mean_k + o_out, (tl.sum(b_k.to(tl.float32), 0) / N).to(mean_k.dtype.element_ty), mask=m_d)
    tl.store(mean_v + o_out, (tl.sum(b_v.to(tl.float32), 0) / N).to(mean_v.dtype.element_ty), mask=m_d)


def means_fwd(k, v, plan: Plan, *, kv_start=None):
    """The mean key and the mean value of every full block.

    Args:
        k, v: [B, Hkv, Lk, D], float32, float16 or bfloat16, last dimension contiguous.
        plan: its key_block, N.
        kv_start: int32 [B], first key of each sample, or None.

    Returns:
        ``(mean_k, mean_v)``, [B, Hkv, Lk // N, D] in k's dtype; blocks count from the sample's first key, and what a
        shorter sample does not have is zero. ``(None, None)`` where there is no full block.

    Raises:
        TypeError, ValueError: unsupported or unequal dtypes, shapes or strides.
    """
    check_inputs(k=k, v=v, kv_start=kv_start)
    return run_means(k, v, plan, kv_start)


def run_means(k, v, plan: Plan, kv_start):
    """``means_fwd`` of checked tensors."""
    b, hkv, lk, d = k.shape
    n_full = lk // plan.key_block
    if n_full == 0:
        return None, None
    mean_k, mean_v = (bridge.empty((b, hkv, n_full, d), bridge.dtype_name(k), k) for _ in "kv")
    bridge.launch(
        _means_kernel, (n_full, b * hkv), like=k,
        k=k, v=v, mean_k=mean_k, mean_v=mean_v, kv_start=kv_start, **stride_args(k=k, v=v), lk=lk, n_full=n_full,
        hkv=hkv, N=plan.key_block, D=d, BLOCK_D=next_power_of_2(d),
        num_warps=tuning.warps(plan.key_block, tuning.MEANS_ROWS_PER_WARP),
    )  # fmt: skip
    return mean_k, mean_v
