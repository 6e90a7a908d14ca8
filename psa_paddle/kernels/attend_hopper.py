"""Step 4 on Hopper: the attention of attend.py with the loads, the two halves of a query block and the tensor cores
running side by side.

A program stays on its multiprocessor and takes one query block after the other from a counter, so that the loads of the
next one fill the gap that the last one leaves. One producer warpgroup writes a ticket for each query block and gathers
full tiles of T rows, whatever level and block they come from, into a ring of shared memory: whole blocks of level 1,
means of blocks and the queries through the tensor memory accelerator, the rest row by row. Two consumer warpgroups of
64 query rows each multiply. A consumer issues the next tile's Q K^T before it turns to the softmax of this one
(FlashAttention-3, arXiv:2407.08608, section 3.2). Tiles whose rows need a mask or a bias of their own come last: what
is left over of each level, the tail, the means. The producer describes their rows in shared memory.
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

from .hopper_producer import producer
from .hopper_shared import (
    DONE,
    FIELDS,
    FIRST_ROW,
    HEAD,
    LEVEL2,
    LEVEL4,
    LEVEL8,
    MASKED,
    N_TILES,
    PADDING,
    POSITION,
    SAMPLE,
    at,
    barriers,
    idle,
    read,
    whole,
)

BOX = gl.NVMMASharedLayout(128, 16, 5)
LOWEST = gl.constexpr(-1e30)  # running maximum of a row that saw nothing; finite, so that no difference is NaN


@gluon.jit
def _scores(q_h, k_s, full_k, i_tile, gathered, none):
    """Start Q K^T, [64, T], of the program's tile ``i_tile`` once its keys are there."""
    STAGES: gl.constexpr = k_s.shape[0]
    st = i_tile % STAGES
    mbarrier.wait(at(full_k, st), (i_tile // STAGES) & 1)
    if gathered:  # these keys may have come through the generic proxy
        fence_async_shared()
    return warpgroup_mma(q_h, k_s.index(st).permute((1, 0)), none, use_acc=False, is_async=True)


@gluon.jit
def _softmax(b_s, b_m, b_l, row, place_s, empty_k, i_tile, masked, bias, scale, FLIP: gl.constexpr):
    """Mask the tile where it needs it, hand its keys back, take it into the row's maximum and sum."""
    STAGES: gl.constexpr = place_s.shape[0]
    st = i_tile % STAGES
    if FLIP:  # the maximum needs a positive scale; a sign is exact
        b_s = -b_s
    if masked:
        columns: gl.constexpr = gl.SliceLayout(0, b_s.type.layout)
        place = place_s.index(st).load(columns)
        own_bias = gl.maximum(-1 - place, 0).to(gl.float32) * (1.0 / scale)
        b_s = gl.where(place[None, :] <= row[:, None], b_s + own_bias[None, :], -float("inf"))
    mbarrier.arrive(at(empty_k, st), count=1)
    b_top = gl.maximum(b_m, gl.max(b_s, 1) * scale + bias)
    b_p = gl.exp2(b_s * scale - (b_top - bias)[:, None])
    b_alpha = gl.exp2(b_m - b_top)
    return b_p, b_top, b_l * b_alpha + gl.sum(b_p, 1), b_alpha


@gluon.jit
def _bias_of(t, level2, level4, level8, masked):
    """log2 of the tokens that a key of tile ``t`` stands for; 0 where the tile has biases of its own."""
    bias = (t >= level2).to(gl.float32) + (t >= level4).to(gl.float32) + (t >= level8).to(gl.float32)
    return gl.where(t >= masked, 0.0, bias)


@gluon.jit
def _hand_back(empty_t, turn):
    """Give up the ticket and the queries of the row before, whose place its output has left by now."""
    tma.store_wait(0)
    if turn > 0:
        mbarrier.arrive(at(empty_t, turn & 1 ^ 1), count=1)


@gluon.jit
def _consumer(
    o_desc, out, kv_start, shared, strides, scale,
    HALF: gl.constexpr, M: gl.constexpr, D: gl.constexpr, T: gl.constexpr, CAUSAL: gl.constexpr, POOLED: gl.constexpr,
    FLIP: gl.constexpr,
):  # fmt: skip
    q_s, k_s, v_s, place_s, row_s, ticket_s, full_k, full_v, empty_k, empty_v, full_t, empty_t = shared
    STAGES_V: gl.constexpr = v_s.shape[0]
    H: gl.constexpr = M // 2
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, T, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    dtype: gl.constexpr = out.dtype.element_ty
    none = gl.zeros([H, T], gl.float32, s_layout)
    turn = 0
    mbarrier.wait(full_t[0], 0)
    n_tiles = read(ticket_s, 0, N_TILES)
    while n_tiles >= 0:
        slot = turn & 1
        q_h = q_s.index(slot * 2 + HALF)
        level2 = read(ticket_s, slot, LEVEL2)
        level4 = read(ticket_s, slot, LEVEL4)
        level8 = read(ticket_s, slot, LEVEL8)
        masked = read(ticket_s, slot, MASKED)
        done = read(ticket_s, slot, DONE)
        row = read(ticket_s, slot, POSITION) + HALF * H + gl.arange(0, H, gl.SliceLayout(1, s_layout))
        b_m = gl.full([H], LOWEST, gl.float32, gl.SliceLayout(1, s_layout))
        b_l = gl.full([H], 0.0, gl.float32, gl.SliceLayout(1, s_layout))
        b_o = gl.zeros([H, D], gl.float32, o_layout)
        if n_tiles == 0:
            _hand_back(empty_t, turn)
        else:
            s_token = _scores(q_h, k_s, full_k, done, POOLED and level2 <= 0, none)
            _hand_back(empty_t, turn)
            b_s = warpgroup_mma_wait(0, deps=[s_token])
            b_p, b_m, b_l, b_alpha = _softmax(
                b_s, b_m, b_l, row, place_s, empty_k, done, masked <= 0,
                _bias_of(0, level2, level4, level8, masked), scale, FLIP,
            )  # fmt: skip
            b_p16 = gl.convert_layout(b_p.to(dtype), p_layout)
            for t in range(1, n_tiles):
                i_tile = done + t
                st = (i_tile - 1) % STAGES_V
                s_token = _scores(q_h, k_s, full_k, i_tile, POOLED and t >= level2, none)
                mbarrier.wait(at(full_v, st), ((i_tile - 1) // STAGES_V) & 1)
                if POOLED and t > level2:
                    fence_async_shared()
                o_token = warpgroup_mma(b_p16, v_s.index(st), b_o, is_async=True)
                b_s = warpgroup_mma_wait(1, deps=[s_token])
                b_p, b_m, b_l, b_alpha = _softmax(
                    b_s, b_m, b_l, row, place_s, empty_k, i_tile, t >= masked,
                    _bias_of(t, level2, level4, level8, masked), scale, FLIP,
                )  # fmt: skip
                b_o = warpgroup_mma_wait(0, deps=[o_token])
                mbarrier.arrive(at(empty_v, st), count=1)
                b_o = b_o * gl.convert_layout(b_alpha, gl.SliceLayout(1, o_layout))[:, None]
                b_p16 = gl.convert_layout(b_p.to(dtype), p_layout)
            last = done + n_tiles - 1
            st = last % STAGES_V
            mbarrier.wait(at(full_v, st), (last // STAGES_V) & 1)
            if POOLED and n_tiles > level2:
                fence_async_shared()
            o_token = warpgroup_mma(b_p16, v_s.index(st), b_o, is_async=True)
            b_o = warpgroup_mma_wait(0, deps=[o_token])
            mbarrier.arrive(at(empty_v, st), count=1)

        b_d = gl.convert_layout(b_l, gl.SliceLayout(1, o_layout))
        b_o = b_o / gl.where(b_d == 0.0, 1.0, b_d)[:, None]
        q_h.store(b_o.to(dtype))  # the queries are done with
        fence_async_shared()
        i_b = read(ticket_s, slot, SAMPLE)
        i_h = read(ticket_s, slot, HEAD)
        first = read(ticket_s, slot, FIRST_ROW) + HALF * H
        tma.async_copy_shared_to_global(o_desc, [i_b, i_h, 0, first, 0], whole(q_s, slot * 2 + HALF))
        if kv_start is not None and CAUSAL:  # rows of padding, spread over the programs by their place
            stride_ob, stride_oh, stride_ol = strides
            padding = read(ticket_s, slot, PADDING)
            o_m = first - padding + gl.arange(0, H, gl.SliceLayout(1, o_layout))
            o_d = gl.arange(0, D, gl.SliceLayout(0, o_layout))
            p_o = out + i_b.to(gl.int64) * stride_ob + i_h.to(gl.int64) * stride_oh + o_d[None, :]
            p_o += o_m.to(gl.int64)[:, None] * stride_ol
            gl.store(p_o, gl.zeros([H, D], dtype, o_layout), mask=(o_m < padding)[:, None])
        turn += 1
        mbarrier.wait(at(full_t, turn & 1), (turn >> 1) & 1)
        n_tiles = read(ticket_s, turn & 1, N_TILES)
    tma.store_wait(0)


@gluon.jit
def attend_hopper_kernel(
    q_desc, k_desc, v_desc, mean_k_desc, mean_v_desc, o_desc, k, v, pooled_k, pooled_v, lists, counts, levels, out,
    kv_start, turns,
    stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
    stride_ob, stride_oh, stride_ol,
    scale, lq, lk, n_i, n_first, n_j, n_full, hkv, group, n_rows,
    M: gl.constexpr, N: gl.constexpr, D: gl.constexpr, TILE: gl.constexpr,
    STAGES_K: gl.constexpr, STAGES_V: gl.constexpr,
    CAUSAL: gl.constexpr, POOLED: gl.constexpr, FLIP: gl.constexpr,
):  # fmt: skip
    """Arguments: ``hopper_arguments``'; otherwise as ``attend._attend_kernel``'s, scale in base 2 and positive."""
    dtype: gl.constexpr = out.dtype.element_ty
    tile: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    line: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    q_s = gl.allocate_shared_memory(dtype, [4, M // 2, D], tile)  # of two rows
    k_s = gl.allocate_shared_memory(dtype, [STAGES_K, TILE, D], tile)
    v_s = gl.allocate_shared_memory(dtype, [STAGES_V, TILE, D], tile)
    place_s = gl.allocate_shared_memory(gl.int32, [STAGES_K, TILE], line)
    row_s = gl.allocate_shared_memory(gl.int32, [TILE], line)
    ticket_s = gl.allocate_shared_memory(gl.int32, [2, FIELDS], line)
    full_k = barriers(STAGES_K, 128)  # every producer thread
    full_v = barriers(STAGES_V, 128)
    empty_k = barriers(STAGES_K, 2)  # both consumers
    empty_v = barriers(STAGES_V, 2)
    full_t = barriers(2, 1)
    empty_t = barriers(2, 2)
    shared = (q_s, k_s, v_s, place_s, row_s, ticket_s, full_k, full_v, empty_k, empty_v, full_t, empty_t)
    strides = (stride_ob, stride_oh, stride_ol)
    to_producer = (
        stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl, lq, lk, n_i, n_first, n_j, n_full, hkv,
        group, n_rows,
    )  # fmt: skip
    gl.warp_specialize(
        [
            (idle, ()),
            (
                _consumer,
                (o_desc, out, kv_start, shared, strides, scale, 0, M, D, TILE, CAUSAL, POOLED, FLIP),
            ),
            (
                _consumer,
                (o_desc, out, kv_start, shared, strides, scale, 1, M, D, TILE, CAUSAL, POOLED, FLIP),
            ),
            (
                producer,
                (q_desc, k_desc, v_desc, mean_k_desc, mean_v_desc, k, v, pooled_k, pooled_v, lists, counts, levels,
                 kv_start, turns, shared, to_producer, M, N, D, TILE, CAUSAL, POOLED),
            ),
        ],
        [4, 4, 4],
        [208, 208, 72],
    )  # fmt: skip


class Boxes(TensorDescriptor):
    """A descriptor without its own checks, which cost the host time: ``attend_fwd`` has checked the tensors."""

    def __post_init__(self) -> None:
        pass


def hopper_arguments(arguments: dict, heads: int, tile: int) -> dict:
    """``attend_fwd``'s arguments as the kernel takes them. ``*_desc``: q, k, v, the means and out as [B, H, D / 64, L,
    64], whose order in memory is in their strides, in boxes of some rows."""
    a = dict(arguments)
    batch, dim = a["out"].shape[0], a["D"]

    def boxes(x, name: str, head_count: int, length: int, rows: int, columns: int):
        b, h, row = (a[f"stride_{name}{axis}"] for axis in "bhl")
        shape = [batch, head_count, dim // 64, length, 64]
        return Boxes(x, shape, [b, h, 64, row, 1], [1, 1, columns // 64, rows, 64], BOX)

    def means(x):
        if x is None:
            return None
        shape = [batch, a["hkv"], dim // 64, a["n_full"], 64]
        strides = [a["hkv"] * a["n_full"] * dim, a["n_full"] * dim, 64, dim, 1]
        return Boxes(x, shape, strides, [1, 1, dim // 64, tile, 64], BOX)

    a["o_desc"] = boxes(a["out"], "o", heads, a["lq"], a["M"] // 2, dim)
    a["q_desc"] = boxes(a.pop("q"), "q", heads, a["lq"], a["M"] // 2, dim)
    a["k_desc"], a["v_desc"] = (boxes(a[x], x, a["hkv"], a["lk"], a["N"], 64) for x in "kv")
    a["mean_k_desc"], a["mean_v_desc"] = means(a.pop("mean_k")), means(a.pop("mean_v"))
    for axis in "bhl":
        del a[f"stride_q{axis}"]
    return a
