"""Step 4: attention over what the lists keep; one program per query block, online softmax in base 2.

Level 1 walks contiguous tiles of K and V. Levels 2, 4, 8 are virtual runs of pooled rows, N / p a block, so that tiles
are full whatever the block; what is left over of the three runs shares its tiles. The tail (crossing blocks, or a
ragged last block) comes last with a mask. Source: PSA (arXiv:2512.04025); online softmax: FlashAttention (2205.14135).
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .. import bridge
from ..geometry import ceil_div
from ..plan import Plan
from . import tuning
from .common import (
    LOG2E,
    check_buffer,
    check_inputs,
    check_out,
    next_power_of_2,
    place_of,
    row_span,
    sample_span,
    stride_args,
)
from .lists import COUNTS, Selection


@triton.jit
def _load_rows(p, m_d, EVEN_D: tl.constexpr):
    if EVEN_D:
        return tl.load(p)
    return tl.load(p, mask=m_d, other=0.0)


@triton.jit
def _softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, bias, m_s, MASKED: tl.constexpr):
    """Take one tile in. b_q [M, D], b_k and b_v [T, D], b_o [M, D], b_l and b_m [M].

    bias is log2 of the tokens that a key stands for: a scalar, or MASKED: [1, T], with m_s [M or 1, T].
    """
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")  # [M, T]
    if MASKED:
        b_s = tl.where(m_s, b_s * scale + bias, -float("inf"))
        b_top = tl.maximum(b_m, tl.max(b_s, 1))
        b_ref = tl.where(b_top == -float("inf"), 0.0, b_top)  # a row that saw nothing yet
        b_p = tl.exp2(b_s - b_ref[:, None])
    else:
        b_top = tl.maximum(b_m, tl.max(b_s, 1) * scale + bias)
        b_ref = b_top
        b_p = tl.exp2(b_s * scale - (b_top - bias)[:, None])
    b_alpha = tl.exp2(b_m - b_ref)
    b_l = b_l * b_alpha + tl.sum(b_p, 1)
    b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o * b_alpha[:, None], input_precision="ieee")
    return b_o, b_l, b_top


@triton.jit
def _attend_kernel(
    q, k, v, pooled_k, pooled_v, mean_k, mean_v, lists, counts, levels, out, kv_start,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
    stride_ob, stride_oh, stride_ol,
    scale, lq, lk, n_i, n_first, n_j, n_full, hkv, group, n_rows,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
    CAUSAL: tl.constexpr, POOLED: tl.constexpr, FLIP: tl.constexpr,
):  # fmt: skip
    i_i, i_kv, i_g = place_of(tl.program_id(0), n_rows, n_first, n_i, group)
    i_b = i_kv // hkv
    i_bh = i_kv * group + i_g
    i_h = i_bh % (hkv * group)
    o_q, o_k, lq, lk = sample_span(kv_start, i_b, lq, lk, CAUSAL)
    n_list, n_valid = row_span(i_i, lq, lk, M, N, CAUSAL)

    EVEN_D: tl.constexpr = D == BLOCK_D
    R2: tl.constexpr = N // 2
    o_m, o_n, o_d = tl.arange(0, M), tl.arange(0, TILE), tl.arange(0, BLOCK_D)
    m_d = (o_d < D)[None, :]
    m_m = i_i * M + o_m < lq
    row = (o_q + i_i * M).to(tl.int64)
    p_q = q + i_b * stride_qb + i_h * stride_qh + row * stride_ql + o_m[:, None] * stride_ql + o_d[None, :]
    b_q = tl.load(p_q, mask=m_m[:, None] & m_d, other=0.0)
    if FLIP:  # the unmasked step needs a positive scale; a sign is exact
        b_q = -b_q
    p_k = k + i_b * stride_kb + i_kv % hkv * stride_kh + o_k.to(tl.int64) * stride_kl + o_d[None, :]
    p_v = v + i_b * stride_vb + i_kv % hkv * stride_vh + o_k.to(tl.int64) * stride_vl + o_d[None, :]
    p_list = lists + (i_bh * n_i + i_i) * n_j
    p_count = counts + (i_bh * n_i + i_i) * 5
    n1 = tl.load(p_count)
    b_o = tl.zeros([M, BLOCK_D], tl.float32)
    b_l = tl.zeros([M], tl.float32)
    b_m = tl.full([M], -float("inf"), tl.float32)

    if N >= TILE:  # level 1, a contiguous tile a step
        PER_J: tl.constexpr = N // TILE
        for t in range(0, n1 * PER_J):
            i_j = tl.load(p_list + t // PER_J).to(tl.int64)
            row = i_j * N + t % PER_J * TILE
            b_k = _load_rows(p_k + row * stride_kl + o_n[:, None] * stride_kl, m_d, EVEN_D)
            b_v = _load_rows(p_v + row * stride_vl + o_n[:, None] * stride_vl, m_d, EVEN_D)
            b_o, b_l, b_m = _softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, 0.0, None, False)
    else:  # level 1, a tile gathers several small blocks
        for t in range(0, n1 * N, TILE):
            o_r = t + o_n
            m_r = o_r < n1 * N
            rows = tl.load(p_list + o_r // N, mask=m_r, other=0).to(tl.int64) * N + o_r % N
            b_k = _load_rows(p_k + rows[:, None] * stride_kl, m_d, EVEN_D)
            b_v = _load_rows(p_v + rows[:, None] * stride_vl, m_d, EVEN_D)
            b_o, b_l, b_m = _softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, 0.0, m_r[None, :], True)

    if POOLED:
        o_kv = i_kv * n_full * (N // 8 * 7) * D
        p_pk = pooled_k + o_kv + o_d[None, :]
        p_pv = pooled_v + o_kv + o_d[None, :]
        n2 = tl.load(p_count + 1)
        n4 = tl.load(p_count + 2)
        n8 = tl.load(p_count + 3)
        full2 = n2 * R2 // TILE  # full tiles of each level
        full4 = n4 * (R2 // 2) // TILE
        full8 = n8 * (R2 // 4) // TILE
        for t in range(0, full2 + full4 + full8):
            past2 = (t >= full2).to(tl.int32)
            past4 = (t >= full2 + full4).to(tl.int32)
            rank = past2 + past4  # 0, 1, 2: level 2, 4, 8
            per_block = R2 >> rank
            o_r = (t - past2 * full2 - past4 * full4) * TILE + o_n
            i_j = tl.load(p_list + n1 + past2 * n2 + past4 * n4 + o_r // per_block).to(tl.int32)
            rows = n_full * (past2 * R2 + past4 * (R2 // 2)) + i_j * per_block + o_r % per_block
            b_k = _load_rows(p_pk + rows[:, None] * D, m_d, EVEN_D)
            b_v = _load_rows(p_pv + rows[:, None] * D, m_d, EVEN_D)
            bias = (rank + 1).to(tl.float32)
            b_o, b_l, b_m = _softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, bias, None, False)
        rest2 = n2 * R2 - full2 * TILE  # rows left over, one run for all levels
        rest4 = n4 * (R2 // 2) - full4 * TILE
        rest = rest2 + rest4 + n8 * (R2 // 4) - full8 * TILE
        for t in range(0, rest, TILE):
            o_r = t + o_n
            m_r = o_r < rest
            past2 = (o_r >= rest2).to(tl.int32)
            past4 = (o_r >= rest2 + rest4).to(tl.int32)
            rank = past2 + past4
            per_block = R2 >> rank
            o_r += full2 * TILE + past2 * ((full4 - full2) * TILE - rest2) + past4 * ((full8 - full4) * TILE - rest4)
            o_list = n1 + past2 * n2 + past4 * n4 + o_r // per_block
            i_j = tl.load(p_list + o_list, mask=m_r, other=0).to(tl.int32)
            rows = n_full * (past2 * R2 + past4 * (R2 // 2)) + i_j * per_block + o_r % per_block
            b_k = _load_rows(p_pk + rows[:, None] * D, m_d, EVEN_D)
            b_v = _load_rows(p_pv + rows[:, None] * D, m_d, EVEN_D)
            bias = (rank + 1).to(tl.float32)[None, :]
            b_o, b_l, b_m = _softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, bias, m_r[None, :], True)

    kept = tl.load(p_count + 4)
    end = tl.minimum(n_valid * N, lk)
    for first in range(n_list * N, end, TILE):
        i_c = first + o_n
        m_c = i_c < end
        m_s = (m_c & (((kept >> (i_c // N - n_list)) & 1) != 0))[None, :]
        if CAUSAL:
            m_s &= i_c[None, :] <= (i_i * M + o_m + lk - lq)[:, None]
        rows = i_c.to(tl.int64)[:, None]
        b_k = tl.load(p_k + rows * stride_kl, mask=m_c[:, None] & m_d, other=0.0)
        b_v = tl.load(p_v + rows * stride_vl, mask=m_c[:, None] & m_d, other=0.0)
        b_o, b_l, b_m = _softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, 0.0, m_s, True)

    if mean_k is not None:
        LOG2_N: tl.constexpr = 5.0 if N == 32 else 6.0 if N == 64 else 7.0
        for first in range(0, n_list, TILE):
            i_j = first + o_n
            m_j = i_j < n_list
            b_level = tl.load(levels + (i_bh * n_i + i_i) * n_j + i_j, mask=m_j, other=1)
            rows = (i_kv * n_full + i_j)[:, None] * D + o_d[None, :]
            b_k = tl.load(mean_k + rows, mask=m_j[:, None] & m_d, other=0.0)
            b_v = tl.load(mean_v + rows, mask=m_j[:, None] & m_d, other=0.0)
            b_o, b_l, b_m = _softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, LOG2_N, (b_level == 0)[None, :], True)

    b_o = b_o / tl.where(b_l == 0.0, 1.0, b_l)[:, None]
    p_o = out + i_b * stride_ob + i_h * stride_oh + o_m.to(tl.int64)[:, None] * stride_ol + o_d[None, :]
    p_row = p_o + (o_q + i_i * M).to(tl.int64) * stride_ol
    tl.store(p_row, b_o.to(out.dtype.element_ty), mask=m_m[:, None] & m_d)
    if kv_start is not None and CAUSAL:  # rows of padding, spread over the programs by their place
        p_row = p_o + (i_i * M).to(tl.int64) * stride_ol
        tl.store(p_row, tl.zeros([M, BLOCK_D], out.dtype.element_ty), mask=(i_i * M + o_m < o_q)[:, None] & m_d)


class Pooled(NamedTuple):
    """Step 1's results: ``pyramid_fwd``'s, None when no list names a pooled level; ``means_fwd``'s, so that blocks
    which the levels skip take part by their means, or None."""

    pooled_k: object = None
    pooled_v: object = None
    mean_k: object = None
    mean_v: object = None


def attend_fwd(q, k, v, found: Selection, plan: Plan, pooled: Pooled = Pooled(), *, kv_start=None, out=None):  # noqa: B008
    """Attention over the listed blocks (PSA, arXiv:2512.04025).

    Args:
        q: [B, H, Lq, D]; k, v: [B, Hkv, Lk, D]; one dtype of float32, float16, bfloat16; last dimension contiguous.
        found: ``select_fwd``'s or ``lists_from_levels``'.
        plan: its scale, causality and blocks; of its forced text, that query blocks which may keep everything start
            first.
        pooled: the pooled keys and values.
        kv_start: int32 [B], first key of each sample, or None.
        out: where to write, any strides with a contiguous last dimension; None allocates it.

    Returns:
        ``out``, [B, H, Lq, D] or by ``plan.heads_last`` [B, Lq, H, D] in q's dtype; rows of padding and rows that see
        nothing are zeros.

    Raises:
        TypeError, ValueError: unsupported or unequal dtypes, shapes or strides.
    """
    check_inputs(q=q, k=k, v=v, kv_start=kv_start, causal=plan.causal)
    n_j, n_full = ceil_div(k.shape[2], plan.key_block), k.shape[2] // plan.key_block
    _check_found(found, (*q.shape[:2], ceil_div(q.shape[2], plan.query_block), n_j), pooled.mean_k is not None, k)
    _check_blocks_of("pooled", pooled[:2], k, n_full * (plan.key_block // 8 * 7))
    _check_blocks_of("mean", pooled[2:], k, n_full)
    check_attend_out(out, q, plan)
    return run_attend(q, k, v, found, plan, pooled, kv_start, out)


def _out_shape(q, plan: Plan) -> tuple[int, ...]:
    b, h, lq, d = q.shape
    return (b, lq, h, d) if plan.heads_last else (b, h, lq, d)


def check_attend_out(out, q, plan: Plan) -> None:
    """Refuse an ``out`` that the attention of ``q`` cannot be written to; None is allocated.

    Raises:
        TypeError, ValueError
    """
    if out is not None:
        check_out(out, _out_shape(q, plan), q)


def run_attend(q, k, v, found: Selection, plan: Plan, pooled: Pooled, kv_start, out):
    """``attend_fwd`` of checked tensors."""
    (b, h, lq, d), (hkv, lk), query_block, key_block = q.shape, k.shape[1:3], plan.query_block, plan.key_block
    n_i, n_j, scale = ceil_div(lq, query_block), ceil_div(lk, key_block), plan.scale
    if out is None:
        out = bridge.empty(_out_shape(q, plan), bridge.dtype_name(q), q)
    strides = stride_args(q=q, k=k, v=v, o=out)
    if plan.heads_last:
        strides["stride_oh"], strides["stride_ol"] = strides["stride_ol"], strides["stride_oh"]
    arguments = dict(
        q=q, k=k, v=v, **pooled._asdict(), lists=found.lists, counts=found.counts,
        levels=found.levels if pooled.mean_k is not None else None, out=out, kv_start=kv_start,
        **strides, scale=abs(scale) * LOG2E, lq=lq, lk=lk, n_i=n_i,
        n_first=min(n_i, n_i - max(0, lq - plan.forced_text) // query_block), n_j=n_j, n_full=lk // key_block, hkv=hkv,
        group=h // hkv, n_rows=n_i * b * h, M=query_block, N=key_block, D=d,
        CAUSAL=plan.causal, POOLED=pooled.pooled_k is not None, FLIP=scale < 0.0,
    )  # fmt: skip
    itemsize = 4 if bridge.dtype_name(q) == "float32" else 2
    arch = bridge.arch(q, _attend_kernel)
    if arch == 90 and query_block == 128 and scale != 0.0 and _hopper_takes((q, k, v, out), d, itemsize):
        from .attend_hopper import attend_hopper_kernel, hopper_arguments

        settings = tuning.pick("attend_hopper", d, itemsize, arch)
        arguments = hopper_arguments(arguments, h, settings["TILE"])
        grid = min(n_i * b * h, bridge.multiprocessors(q, attend_hopper_kernel))
        bridge.launch(attend_hopper_kernel, (grid,), like=q, turns=found.turns, **arguments, **settings)
    else:
        settings = tuning.pick("attend", d, itemsize, arch)
        bridge.launch(_attend_kernel, (n_i * b * h,), like=q, **arguments, BLOCK_D=next_power_of_2(d), **settings)
    return out


def _check_found(found: Selection, shape, means: bool, like) -> None:
    """Refuse lists of other lengths or blocks."""
    check_buffer("lists", found.lists, "int16", shape, like)
    check_buffer("counts", found.counts, "int32", (*shape[:3], COUNTS), like)
    if means:
        if found.levels is None:
            raise ValueError("means need the levels: choose the blocks with block_means=True.")
        check_buffer("levels", found.levels, "int8", shape, like)


def _check_blocks_of(name: str, pair, k, rows: int) -> None:
    """Refuse pooled keys and values, or means, that are not those of ``k``."""
    b, hkv, _, d = k.shape
    for x, letter in zip(pair, "kv", strict=True):
        if x is not None:
            check_buffer(f"{name}_{letter}", x, bridge.dtype_name(k), (b, hkv, rows, d), k)


def _hopper_takes(tensors, dim: int, itemsize: int) -> bool:
    """Whether the Hopper kernel can copy these tensors: 16-bit, D of 64 or 128, rows apart and aligned to 16 bytes, and
    a Triton whose Gluon it was run on."""
    strides = [s for x in tensors for s in bridge.strides(x)[:-1]]
    aligned = all(x.data_ptr() % 16 == 0 for x in tensors) and all(s > 0 and s % 16 == 0 for s in strides)
    return dim in (64, 128) and itemsize == 2 and aligned and bridge.has_gluon()
