"""Step 4 on Hopper: the attention of attend.py with the loads, the two halves of a query block and the tensor cores
running side by side.

One producer warpgroup gathers full tiles of T rows, whatever level and block they come from, into a ring of shared
memory: whole blocks of level 1, means of blocks and the queries through the tensor memory accelerator, the rest row by
row. Two consumer warpgroups of 64 query rows each multiply. A consumer issues the next tile's Q K^T before it turns to
the softmax of this one (FlashAttention-3, arXiv:2407.08608, section 3.2). Tiles whose rows need a mask or a bias of
their own come last: what is left over of each level, the tail, the means. The producer describes their rows in shared
memory.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from .hopper_producer import box_of, producer, row_of_program, schedule

BOX = gl.NVMMASharedLayout(128, 16, 4)
LOWEST = gl.constexpr(-1e30)  # running maximum of a row that saw nothing; finite, so that no difference is NaN


@gluon.jit
def _scores(q_h, k_s, full_k, t, f1, none):
    """Start Q K^T of tile ``t``, [64, T], once its keys are there."""
    STAGES: gl.constexpr = k_s.shape[0]
    st = t % STAGES
    mbarrier.wait(full_k.index(st), (t // STAGES) & 1)
    if t >= f1:  # these keys may have come through the generic proxy
        fence_async_shared()
    return warpgroup_mma(q_h, k_s.index(st).permute((1, 0)), none, use_acc=False, is_async=True)


@gluon.jit
def _softmax(b_s, b_m, b_l, row, place_s, empty_k, t, plain, bias, scale, inv_scale, FLIP: gl.constexpr):
    """Mask tile ``t`` where it needs it, hand its keys back, take it into the row's maximum and sum."""
    STAGES: gl.constexpr = place_s.shape[0]
    st = t % STAGES
    if FLIP:  # the maximum needs a positive scale; a sign is exact
        b_s = -b_s
    if t >= plain:
        columns: gl.constexpr = gl.SliceLayout(0, b_s.type.layout)
        place = place_s.index(st).load(columns)
        own_bias = gl.maximum(-1 - place, 0).to(gl.float32) * inv_scale
        b_s = gl.where(place[None, :] <= row[:, None], b_s + own_bias[None, :], -float("inf"))
    mbarrier.arrive(empty_k.index(st), count=1)
    b_top = gl.maximum(b_m, gl.max(b_s, 1) * scale + bias)
    b_p = gl.exp2(b_s * scale - (b_top - bias)[:, None])
    b_alpha = gl.exp2(b_m - b_top)
    return b_p, b_top, b_l * b_alpha + gl.sum(b_p, 1), b_alpha


@gluon.jit
def _bias_of(t, f1, f2, f4, plain):
    """log2 of the tokens that a key of tile ``t`` stands for; 0 where the tile has biases of its own."""
    bias = (t >= f1).to(gl.float32) + (t >= f1 + f2).to(gl.float32) + (t >= f1 + f2 + f4).to(gl.float32)
    return gl.where(t >= plain, 0.0, bias)


@gluon.jit
def _consumer(
    o_desc, out, counts, levels, kv_start, bars_and_tiles, numbers,
    HALF: gl.constexpr, M: gl.constexpr, N: gl.constexpr, D: gl.constexpr, T: gl.constexpr,
    CAUSAL: gl.constexpr, FLIP: gl.constexpr,
):  # fmt: skip
    q_s, k_s, v_s, place_s, row_s, full_q, full_k, full_v, empty_k, empty_v = bars_and_tiles
    stride_ob, stride_oh, stride_ol, scale, inv_scale, lq_all, lk_all, n_i, hkv, group = numbers
    STAGES_V: gl.constexpr = v_s.shape[0]
    H: gl.constexpr = M // 2
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, T, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    dtype: gl.constexpr = out.dtype.element_ty
    i_i, i_kv, i_b, i_g, o_q, o_k, lq, lk, n_list, n_valid = row_of_program(
        kv_start, lq_all, lk_all, n_i, hkv, group, M, N, CAUSAL
    )
    i_h = i_kv % hkv * group + i_g
    p_count = counts + ((i_kv * group + i_g) * n_i + i_i) * 5
    n1, n2, n4, f1, f2, f4, f8, r1, r2, r4, r8, tail = schedule(p_count, n_list, n_valid, lk, N, T)
    plain = f1 + f2 + f4 + f8
    n_tiles = plain + (r1 + r2 + r4 + r8 + tail + T - 1) // T
    if levels is not None:
        n_tiles += (n_list + T - 1) // T

    first = i_i * M + HALF * H
    q_h = q_s.index(HALF)
    mbarrier.wait(full_q.index(HALF), 0)
    row = first + gl.arange(0, H, gl.SliceLayout(1, s_layout)) + lk - lq
    b_m = gl.full([H], LOWEST, gl.float32, gl.SliceLayout(1, s_layout))
    b_l = gl.full([H], 0.0, gl.float32, gl.SliceLayout(1, s_layout))
    b_o = gl.zeros([H, D], gl.float32, o_layout)
    none = gl.zeros([H, T], gl.float32, s_layout)
    if n_tiles > 0:
        b_s = warpgroup_mma_wait(0, deps=[_scores(q_h, k_s, full_k, 0, f1, none)])
        b_p, b_m, b_l, b_alpha = _softmax(
            b_s, b_m, b_l, row, place_s, empty_k, 0, plain, _bias_of(0, f1, f2, f4, plain), scale, inv_scale, FLIP
        )
        b_p16 = gl.convert_layout(b_p.to(dtype), p_layout)
        for t in range(1, n_tiles):
            st = (t - 1) % STAGES_V
            s_token = _scores(q_h, k_s, full_k, t, f1, none)
            mbarrier.wait(full_v.index(st), ((t - 1) // STAGES_V) & 1)
            if t > f1:
                fence_async_shared()
            o_token = warpgroup_mma(b_p16, v_s.index(st), b_o, is_async=True)
            b_s = warpgroup_mma_wait(1, deps=[s_token])
            b_p, b_m, b_l, b_alpha = _softmax(
                b_s, b_m, b_l, row, place_s, empty_k, t, plain, _bias_of(t, f1, f2, f4, plain), scale, inv_scale, FLIP
            )
            b_o = warpgroup_mma_wait(0, deps=[o_token])
            mbarrier.arrive(empty_v.index(st), count=1)
            b_o = b_o * gl.convert_layout(b_alpha, gl.SliceLayout(1, o_layout))[:, None]
            b_p16 = gl.convert_layout(b_p.to(dtype), p_layout)
        st = (n_tiles - 1) % STAGES_V
        mbarrier.wait(full_v.index(st), ((n_tiles - 1) // STAGES_V) & 1)
        if n_tiles > f1:
            fence_async_shared()
        o_token = warpgroup_mma(b_p16, v_s.index(st), b_o, is_async=True)
        b_o = warpgroup_mma_wait(0, deps=[o_token])
        mbarrier.arrive(empty_v.index(st), count=1)

    b_l = gl.convert_layout(b_l, gl.SliceLayout(1, o_layout))
    b_o = b_o / gl.where(b_l == 0.0, 1.0, b_l)[:, None]
    q_h.store(b_o.to(dtype))  # the queries are done with
    fence_async_shared()
    for c in gl.static_range(D // 64):
        tma.async_copy_shared_to_global(
            o_desc, [i_b.to(gl.int32), i_h.to(gl.int32), o_q + first, c * 64], box_of(q_s, HALF, c, H)
        )
    if kv_start is not None and CAUSAL:  # rows of padding, spread over the programs by their place
        o_m = first + gl.arange(0, H, gl.SliceLayout(1, o_layout))
        o_d = gl.arange(0, D, gl.SliceLayout(0, o_layout))
        p_o = out + i_b * stride_ob + i_h * stride_oh + o_m.to(gl.int64)[:, None] * stride_ol + o_d[None, :]
        gl.store(p_o, gl.zeros([H, D], dtype, o_layout), mask=(o_m < o_q)[:, None])
    tma.store_wait(0)


@gluon.jit
def attend_hopper_kernel(
    q_desc, k_desc, v_desc, mean_k_desc, mean_v_desc, o_desc, k, v, pooled_k, pooled_v, lists, counts, levels, out,
    kv_start,
    stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
    stride_ob, stride_oh, stride_ol,
    scale, inv_scale, lq, lk, n_i, n_j, n_full, hkv, group,
    M: gl.constexpr, N: gl.constexpr, D: gl.constexpr, TILE: gl.constexpr,
    STAGES_K: gl.constexpr, STAGES_V: gl.constexpr,
    CAUSAL: gl.constexpr, POOLED: gl.constexpr, FLIP: gl.constexpr,
):  # fmt: skip
    """Arguments: ``hopper_arguments``'; otherwise as ``attend._attend_kernel``'s, scale in base 2 and positive."""
    dtype: gl.constexpr = out.dtype.element_ty
    tile: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    line: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    bars: gl.constexpr = mbarrier.MBarrierLayout()
    q_s = gl.allocate_shared_memory(dtype, [2, M // 2, D], tile)
    k_s = gl.allocate_shared_memory(dtype, [STAGES_K, TILE, D], tile)
    v_s = gl.allocate_shared_memory(dtype, [STAGES_V, TILE, D], tile)
    place_s = gl.allocate_shared_memory(gl.int32, [STAGES_K, TILE], line)
    row_s = gl.allocate_shared_memory(gl.int32, [TILE], line)
    full_q = gl.allocate_shared_memory(gl.int64, [2, 1], bars)
    full_k = gl.allocate_shared_memory(gl.int64, [STAGES_K, 1], bars)
    full_v = gl.allocate_shared_memory(gl.int64, [STAGES_V, 1], bars)
    empty_k = gl.allocate_shared_memory(gl.int64, [STAGES_K, 1], bars)
    empty_v = gl.allocate_shared_memory(gl.int64, [STAGES_V, 1], bars)
    for i in gl.static_range(2):
        mbarrier.init(full_q.index(i), count=1)
    for i in gl.static_range(STAGES_K):
        mbarrier.init(full_k.index(i), count=128)  # every producer thread
        mbarrier.init(empty_k.index(i), count=2)  # both consumers
    for i in gl.static_range(STAGES_V):
        mbarrier.init(full_v.index(i), count=128)
        mbarrier.init(empty_v.index(i), count=2)
    bars_and_tiles = (q_s, k_s, v_s, place_s, row_s, full_q, full_k, full_v, empty_k, empty_v)
    to_consumer = (stride_ob, stride_oh, stride_ol, scale, inv_scale, lq, lk, n_i, hkv, group)
    to_producer = (
        stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl, lq, lk, n_i, n_j, n_full, hkv, group,
    )  # fmt: skip
    gl.warp_specialize(
        [
            (
                _consumer,
                (o_desc, out, counts, levels, kv_start, bars_and_tiles, to_consumer, 0, M, N, D, TILE, CAUSAL, FLIP),
            ),
            (
                _consumer,
                (o_desc, out, counts, levels, kv_start, bars_and_tiles, to_consumer, 1, M, N, D, TILE, CAUSAL, FLIP),
            ),
            (
                producer,
                (q_desc, k_desc, v_desc, mean_k_desc, mean_v_desc, k, v, pooled_k, pooled_v, lists, counts, levels,
                 kv_start, bars_and_tiles, to_producer, M, N, D, TILE, CAUSAL, POOLED),
            ),
        ],
        [4, 4],
        [224, 56],
    )  # fmt: skip


class Boxes(TensorDescriptor):
    """A descriptor without its own checks, which cost the host time: ``attend_fwd`` has checked the tensors."""

    def __post_init__(self) -> None:
        pass


def hopper_arguments(arguments: dict, heads: int, tile: int) -> dict:
    """``attend_fwd``'s arguments as the kernel takes them. ``*_desc``: boxes of rows and 64 columns of q, k, v, the
    means and out, whose order in memory is in their strides."""
    a = dict(arguments)
    batch, dim = a["out"].shape[0], a["D"]

    def boxes(x, name: str, head_count: int, length: int, rows: int):
        strides = [a[f"stride_{name}{axis}"] for axis in "bhl"]
        return Boxes(x, [batch, head_count, length, dim], [*strides, 1], [1, 1, rows, 64], BOX)

    def means(x):
        if x is None:
            return None
        strides = [a["hkv"] * a["n_full"] * dim, a["n_full"] * dim, dim, 1]
        return Boxes(x, [batch, a["hkv"], a["n_full"], dim], strides, [1, 1, tile, 64], BOX)

    a["o_desc"] = boxes(a["out"], "o", heads, a["lq"], a["M"] // 2)
    a["q_desc"] = boxes(a.pop("q"), "q", heads, a["lq"], a["M"] // 2)
    a["k_desc"], a["v_desc"] = (boxes(a[x], x, a["hkv"], a["lk"], a["N"]) for x in "kv")
    a["mean_k_desc"], a["mean_v_desc"] = means(a.pop("mean_k")), means(a.pop("mean_v"))
    for axis in "bhl":
        del a[f"stride_q{axis}"]
    return {**a, "inv_scale": 1.0 / a["scale"]}
