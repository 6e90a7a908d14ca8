"""Step 1: K and V pooled by 2, 4 and 8, and how far each key block may be pooled; one pass over K and V.

Source: PSA (arXiv:2512.04025), section 3.2 (pyramid) and the similarity mask of its implementation.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge
from ..geometry import ceil_div
from ..plan import Plan
from ..pooled_layout import pooled_rows
from . import tuning
from .common import check_inputs, next_power_of_2, sample_span, stride_args
from .pooled import block_start, pooled_head


@triton.jit
def _load_runs(p_x, stride, o_r, o_d, m_d):
    """Rows 8 r + 0 .. 8 r + 7 of a block as eight [N / 8, D] tiles, so that pooling stays within a thread."""
    p = p_x + (8 * o_r[:, None]) * stride + o_d[None, :]  # [N / 8, D]
    m = m_d[None, :]
    return (
        tl.load(p, mask=m, other=0.0).to(tl.float32),
        tl.load(p + stride, mask=m, other=0.0).to(tl.float32),
        tl.load(p + 2 * stride, mask=m, other=0.0).to(tl.float32),
        tl.load(p + 3 * stride, mask=m, other=0.0).to(tl.float32),
        tl.load(p + 4 * stride, mask=m, other=0.0).to(tl.float32),
        tl.load(p + 5 * stride, mask=m, other=0.0).to(tl.float32),
        tl.load(p + 6 * stride, mask=m, other=0.0).to(tl.float32),
        tl.load(p + 7 * stride, mask=m, other=0.0).to(tl.float32),
    )


@triton.jit
def _store_pyramid(p_out, i_j, n_full, o_r, o_d, m_d, runs, N: tl.constexpr, D: tl.constexpr):
    """Means of 2, 4 and 8 rows of block ``i_j``, [N / 8, D] a store."""
    x0, x1, x2, x3, x4, x5, x6, x7 = runs
    a, b, c, d = x0 + x1, x2 + x3, x4 + x5, x6 + x7
    dtype = p_out.dtype.element_ty
    m = m_d[None, :]
    p2 = p_out + (block_start(i_j, n_full, 2, N) + 4 * o_r[:, None]) * D + o_d[None, :]
    tl.store(p2, (a * 0.5).to(dtype), mask=m)
    tl.store(p2 + D, (b * 0.5).to(dtype), mask=m)
    tl.store(p2 + 2 * D, (c * 0.5).to(dtype), mask=m)
    tl.store(p2 + 3 * D, (d * 0.5).to(dtype), mask=m)
    p4 = p_out + (block_start(i_j, n_full, 4, N) + 2 * o_r[:, None]) * D + o_d[None, :]
    tl.store(p4, ((a + b) * 0.25).to(dtype), mask=m)
    tl.store(p4 + D, ((c + d) * 0.25).to(dtype), mask=m)
    p8 = p_out + (block_start(i_j, n_full, 8, N) + o_r[:, None]) * D + o_d[None, :]
    tl.store(p8, ((a + b + c + d) * 0.125).to(dtype), mask=m)


@triton.jit
def _cosine(x, y):
    """Sum over the rows of the cosines of [R, D] tiles."""
    xx = tl.maximum(tl.sqrt(tl.sum(x * x, 1)), 1e-12)
    yy = tl.maximum(tl.sqrt(tl.sum(y * y, 1)), 1e-12)
    return tl.sum(tl.sum(x * y, 1) / (xx * yy), 0)


@triton.jit
def _similarity_cap(runs, R: tl.constexpr, T2: tl.constexpr, T4: tl.constexpr, T8: tl.constexpr):
    """8, 4 or 2, whichever largest has a mean cosine of its runs' ends above its threshold, else 1."""
    x0, x1, x2, x3, x4, x5, x6, x7 = runs
    cosine2 = (_cosine(x0, x1) + _cosine(x2, x3) + _cosine(x4, x5) + _cosine(x6, x7)) / (4 * R)
    cosine4 = (_cosine(x0, x3) + _cosine(x4, x7)) / (2 * R)
    cosine8 = _cosine(x0, x7) / R
    return tl.where(cosine8 > T8, 8, tl.where(cosine4 > T4, 4, tl.where(cosine2 > T2, 2, 1)))


@triton.jit
def _pyramid_kernel(
    k, v, pooled_k, pooled_v, cap, kv_start,
    stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
    lk, n_j, n_full, hkv,
    N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, POOL: tl.constexpr,
    T2: tl.constexpr, T4: tl.constexpr, T8: tl.constexpr,
):  # fmt: skip
    i_j, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // hkv, i_bh % hkv
    _, o_k, _, lk = sample_span(kv_start, i_b, lk, lk, False)
    full = (i_j + 1) * N <= lk
    if not full and cap is not None:
        tl.store(cap + i_bh * n_j + i_j, 1)
    if full:
        o_r, o_d = tl.arange(0, N // 8), tl.arange(0, BLOCK_D)
        m_d = o_d < D
        row = (o_k + i_j * N).to(tl.int64)
        runs = _load_runs(k + i_b * stride_kb + i_h * stride_kh + row * stride_kl, stride_kl, o_r, o_d, m_d)
        if cap is not None:
            tl.store(cap + i_bh * n_j + i_j, _similarity_cap(runs, N // 8, T2, T4, T8))
        if POOL:
            o_out = pooled_head(i_bh, n_full, N, D)
            _store_pyramid(pooled_k + o_out, i_j, n_full, o_r, o_d, m_d, runs, N, D)
            runs = _load_runs(v + i_b * stride_vb + i_h * stride_vh + row * stride_vl, stride_vl, o_r, o_d, m_d)
            _store_pyramid(pooled_v + o_out, i_j, n_full, o_r, o_d, m_d, runs, N, D)


def pyramid_fwd(k, v, plan: Plan, *, kv_start=None):
    """Pool K and V by 2, 4 and 8 and judge which key blocks may be pooled.

    Args:
        k, v: [B, Hkv, Lk, D], float32, float16 or bfloat16, last dimension contiguous.
        plan: its key_block, N, its thresholds, and whether it pools at all.
        kv_start: int32 [B], first key of each sample, or None.

    Returns:
        ``(pooled_k, pooled_v, cap)``. pooled: [B, Hkv, 7 N / 8 * (Lk // N), D] in k's dtype, levels 2, 4, 8 one after
        another as ``pooled_layout`` says; None where nothing is pooled. cap: int8 [B, Hkv, ceil(Lk / N)] of 1, 2, 4,
        8, or None without thresholds. Blocks count from the sample's first key; what a shorter sample does not have is
        left unwritten.

    Raises:
        TypeError, ValueError: unsupported or unequal dtypes, shapes or strides.
    """
    check_inputs(k=k, v=v, kv_start=kv_start)
    return run_pyramid(k, v, plan, kv_start)


def run_pyramid(k, v, plan: Plan, kv_start):
    """``pyramid_fwd`` of checked tensors."""
    (b, hkv, lk, d), key_block = k.shape, plan.key_block
    n_j, n_full = ceil_div(lk, key_block), lk // key_block
    pool = plan.pools and n_full > 0
    rows = pooled_rows(n_full, key_block)
    pooled_k, pooled_v = (bridge.empty((b, hkv, rows, d), bridge.dtype_name(k), k) if pool else None for _ in "kv")
    cap = bridge.empty((b, hkv, n_j), "int8", k) if plan.thresholds is not None else None
    if pool or cap is not None:
        t2, t4, t8 = (float(x) for x in plan.thresholds or (1.0, 1.0, 1.0))
        bridge.launch(
            _pyramid_kernel, (n_j, b * hkv), like=k,
            k=k, v=v, pooled_k=pooled_k, pooled_v=pooled_v, cap=cap, kv_start=kv_start,
            **stride_args(k=k, v=v), lk=lk, n_j=n_j, n_full=n_full, hkv=hkv,
            N=key_block, D=d, BLOCK_D=next_power_of_2(d), POOL=pool, T2=t2, T4=t4, T8=t8,
            num_warps=tuning.warps(key_block, tuning.PYRAMID_ROWS_PER_WARP),
        )  # fmt: skip
    return pooled_k, pooled_v, cap
