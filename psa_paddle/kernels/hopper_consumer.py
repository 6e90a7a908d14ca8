"""The multiplying partitions of attend_hopper.py."""

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

from .hopper_shared import (
    DONE,
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
    place_in,
    read,
    wait_full,
    whole,
)

LOWEST = gl.constexpr(-1e30)  # running maximum of a row that saw nothing; finite, so that no difference is NaN


@gluon.jit
def _scores(q_h, ring, i_tile, gathered, none):
    """Start Q K^T, float32 [M / 2, T], of the program's tile ``i_tile`` once its keys are there."""
    st = place_in(ring, i_tile)
    wait_full(ring, st, i_tile)
    if gathered:  # these keys may have come through the generic proxy
        fence_async_shared()
    return warpgroup_mma(q_h, ring.tiles.index(st).permute((1, 0)), none, use_acc=False, is_async=True)


@gluon.jit
def _softmax(b_s, b_m, b_l, row, shared, i_tile, masked, bias, scale, FLIP: gl.constexpr):
    """Mask the tile where it needs it, hand its keys back, take it into the row's maximum and sum."""
    st = place_in(shared.k, i_tile)
    if FLIP:  # the maximum needs a positive scale; a sign is exact
        b_s = -b_s
    if masked:
        columns: gl.constexpr = gl.SliceLayout(0, b_s.type.layout)
        position = shared.positions.index(st).load(columns)  # [T]
        own_bias = gl.maximum(-1 - position, 0).to(gl.float32) * (1.0 / scale)
        b_s = gl.where(position[None, :] <= row[:, None], b_s + own_bias[None, :], -float("inf"))
    mbarrier.arrive(at(shared.k.empty, st), count=1)
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
def _hand_back(shared, turn):
    """Give up the ticket and the queries of the query block before, whose place its output has left by now."""
    tma.store_wait(0)
    if turn > 0:
        mbarrier.arrive(at(shared.empty, turn & 1 ^ 1), count=1)


@gluon.jit
def consumer(
    o_desc, out, kv_start, shared, o_strides, scale,
    HALF: gl.constexpr, M: gl.constexpr, D: gl.constexpr, T: gl.constexpr, CAUSAL: gl.constexpr, POOLED: gl.constexpr,
    FLIP: gl.constexpr,
):  # fmt: skip
    """One warpgroup: the attention of one half of each query block, H = M / 2 rows.

    For each query block:
    1. Wait for its ticket and queries [H, D], which share a barrier, and read what the ticket says.
    2. The first tile: S = Q K^T, float32 [H, T] in registers, softmax, P in the inputs' dtype.
    3. Each further tile t: start S of tile t, then O += P V of tile t - 1, float32 [H, D] in registers, so that the
       tensor cores have work during the softmax of t. Keys are handed back before the softmax, values after P V.
    4. P V of the last tile.
    5. O / sum, [H, D] in the inputs' dtype, over the queries in shared memory and from there to out. The place is
       handed back in the next query block, when its first product is under way and the copy out has ended.

    Tiles that the producer's threads copied row by row, from level 2 on, are fenced before the tensor cores read them;
    those of the tensor memory accelerator need no fence. The consumers never wait for each other.
    """
    H: gl.constexpr = M // 2
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, T, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    dtype: gl.constexpr = out.dtype.element_ty
    none = gl.zeros([H, T], gl.float32, s_layout)
    turn = 0
    mbarrier.wait(shared.full[0], 0)
    n_tiles = read(shared.tickets, 0, N_TILES)
    while n_tiles >= 0:
        # 1. The ticket.
        slot = turn & 1
        q_h = shared.queries.index(slot * 2 + HALF)  # [H, D]
        level2 = read(shared.tickets, slot, LEVEL2)
        level4 = read(shared.tickets, slot, LEVEL4)
        level8 = read(shared.tickets, slot, LEVEL8)
        masked = read(shared.tickets, slot, MASKED)
        done = read(shared.tickets, slot, DONE)
        row = read(shared.tickets, slot, POSITION) + HALF * H + gl.arange(0, H, gl.SliceLayout(1, s_layout))
        b_m = gl.full([H], LOWEST, gl.float32, gl.SliceLayout(1, s_layout))
        b_l = gl.full([H], 0.0, gl.float32, gl.SliceLayout(1, s_layout))
        b_o = gl.zeros([H, D], gl.float32, o_layout)
        if n_tiles == 0:
            _hand_back(shared, turn)
        else:
            # 2. The first tile.
            s_token = _scores(q_h, shared.k, done, POOLED and level2 <= 0, none)
            _hand_back(shared, turn)
            b_s = warpgroup_mma_wait(0, deps=[s_token])  # [H, T]
            b_p, b_m, b_l, b_alpha = _softmax(
                b_s, b_m, b_l, row, shared, done, masked <= 0,
                _bias_of(0, level2, level4, level8, masked), scale, FLIP,
            )  # fmt: skip
            b_p16 = gl.convert_layout(b_p.to(dtype), p_layout)

            # 3. The others, two products at a time.
            for t in range(1, n_tiles):
                i_tile = done + t
                st = place_in(shared.v, i_tile - 1)
                s_token = _scores(q_h, shared.k, i_tile, POOLED and t >= level2, none)
                wait_full(shared.v, st, i_tile - 1)
                if POOLED and t > level2:
                    fence_async_shared()
                o_token = warpgroup_mma(b_p16, shared.v.tiles.index(st), b_o, is_async=True)
                b_s = warpgroup_mma_wait(1, deps=[s_token])
                b_p, b_m, b_l, b_alpha = _softmax(
                    b_s, b_m, b_l, row, shared, i_tile, t >= masked,
                    _bias_of(t, level2, level4, level8, masked), scale, FLIP,
                )  # fmt: skip
                b_o = warpgroup_mma_wait(0, deps=[o_token])
                mbarrier.arrive(at(shared.v.empty, st), count=1)
                b_o = b_o * gl.convert_layout(b_alpha, gl.SliceLayout(1, o_layout))[:, None]
                b_p16 = gl.convert_layout(b_p.to(dtype), p_layout)

            # 4. The last tile's values.
            last = done + n_tiles - 1
            st = place_in(shared.v, last)
            wait_full(shared.v, st, last)
            if POOLED and n_tiles > level2:
                fence_async_shared()
            o_token = warpgroup_mma(b_p16, shared.v.tiles.index(st), b_o, is_async=True)
            b_o = warpgroup_mma_wait(0, deps=[o_token])
            mbarrier.arrive(at(shared.v.empty, st), count=1)

        # 5. The output; a row that saw nothing is zeros.
        b_d = gl.convert_layout(b_l, gl.SliceLayout(1, o_layout))
        b_o = b_o / gl.where(b_d == 0.0, 1.0, b_d)[:, None]
        q_h.store(b_o.to(dtype))  # the queries are done with
        fence_async_shared()
        i_b = read(shared.tickets, slot, SAMPLE)
        i_h = read(shared.tickets, slot, HEAD)
        first = read(shared.tickets, slot, FIRST_ROW) + HALF * H
        tma.async_copy_shared_to_global(o_desc, [i_b, i_h, 0, first, 0], whole(shared.queries, slot * 2 + HALF))
        if kv_start is not None and CAUSAL:  # rows of padding, spread over the programs by their place
            padding = read(shared.tickets, slot, PADDING)
            o_m = first - padding + gl.arange(0, H, gl.SliceLayout(1, o_layout))
            o_d = gl.arange(0, D, gl.SliceLayout(0, o_layout))
            p_o = out + i_b.to(gl.int64) * o_strides.batch + i_h.to(gl.int64) * o_strides.head + o_d[None, :]
            p_o += o_m.to(gl.int64)[:, None] * o_strides.row
            gl.store(p_o, gl.zeros([H, D], dtype, o_layout), mask=(o_m < padding)[:, None])
        turn += 1
        mbarrier.wait(at(shared.full, turn & 1), (turn >> 1) & 1)
        n_tiles = read(shared.tickets, turn & 1, N_TILES)
    tma.store_wait(0)
