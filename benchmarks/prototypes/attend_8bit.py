"""The Hopper attention kernel with 8-bit products, levels 1 and 0 only: a prototype, see docs/lab-notes.md.

The design is that of psa_paddle/kernels/attend_hopper.py: one program a multiprocessor, a producer that fills rings of
tiles, two consumers of half a query block each. What differs:

- Q K^T in e4m3 or int8. The factor of a query row (its scale, that of its head's keys, the softmax's) comes with the
  query block; int8 keys have a scale a block, which the producer leaves beside the tile.
- P V in e4m3 or in bfloat16. The 8-bit product wants both operands with their keys contiguous, so values lie as
  [blocks, D, N]. A thread holds columns 2 q, 2 q + 1 of each 8 of S, and must hold slots 4 q .. 4 q + 3 of each 16 of
  P: so S's column 8 e + 2 q + b is called slot 4 q + 2 e + b, and values are stored in that order. Nothing moves.
- Two levels: the tensor cores, whose 8-bit sums have some 14 bits, add up WINDOW tiles; the sums go to float32
  registers (WINDOW 1) or to shared memory. WINDOW 0: one level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from psa_paddle.kernels.attend_hopper import Boxes
from psa_paddle.kernels.common import LOG2E, block_at, row_span
from psa_paddle.kernels.hopper_consumer import LOWEST
from psa_paddle.kernels.hopper_producer import _write
from psa_paddle.kernels.hopper_shared import (
    DONE,
    FIELDS,
    FIRST_ROW,
    HEAD,
    LINE,
    MASKED,
    N_TILES,
    POSITION,
    SAMPLE,
    Ring,
    at,
    barriers,
    idle,
    place_in,
    read,
    wait_empty,
    wait_full,
    whole,
)
from psa_paddle.kernels.hopper_tiles import NEVER, first_rows_of, schedule_of, ticket_of

MAGIC = gl.constexpr(0x4B400000)  # as float32 1.5 * 2^23: an int32 sum on top of it is the float 1.5 * 2^23 + sum
OFFSET = gl.constexpr(12582912.0)
# Four slots into a register; Triton's own conversion takes seven instructions to put them there.
PACK = gl.constexpr(
    "{ .reg .b16 low, high; cvt.rn.satfinite.e4m3x2.f32 low, $2, $1; cvt.rn.satfinite.e4m3x2.f32 high, $4, $3; "
    "mov.b32 $0, {low, high}; }"
)
P_SHIFT = gl.constexpr(8.0)  # e4m3 takes 2^8 p: its smallest normal number is then 2^-14


class Shared8(NamedTuple):
    queries: gl.shared_memory_descriptor  # [4, M / 2, D], 8 bits
    out: gl.shared_memory_descriptor  # [2, M / 2, D]
    k: Ring
    v: Ring
    positions: gl.shared_memory_descriptor
    scales: gl.shared_memory_descriptor  # float32 [STAGES_K, T], of the tile's keys
    tickets: gl.shared_memory_descriptor
    full: tuple
    empty: tuple
    order: tuple  # 2 barriers, 1 arrival: a consumer's, which has started its products, for the other


class Sizes8(NamedTuple):
    lq: gl.tensor
    lk: gl.tensor
    n_i: gl.tensor
    n_first: gl.tensor
    n_j: gl.tensor
    hkv: gl.tensor
    group: gl.tensor
    n_places: gl.tensor


@gluon.jit
def _claim(ring, i_tile, BYTES: gl.constexpr):
    st = place_in(ring, i_tile)
    bar = at(ring.full, st)
    mbarrier.expect(bar, BYTES)
    mbarrier.arrive(bar, count=127)
    return st, bar


@gluon.jit
def _copy_keys(ring, desc, i_b, i_h, first_rows, i_tile, N: gl.constexpr, D: gl.constexpr, T: gl.constexpr):
    """A tile of T / N blocks of 8-bit keys, boxes [N, D]."""
    st, bar = _claim(ring, i_tile, T * D)
    boxes = ring.tiles._reinterpret(
        ring.tiles.dtype, [ring.tiles.shape[0] * (T // N), N, D], gl.NVMMASharedLayout(128, 8, 2)
    )
    for b in gl.static_range(T // N):
        box = boxes.index(st * (T // N) + b).reshape((1, 1, N, D))
        tma.async_copy_global_to_shared(desc, [i_b, i_h, first_rows[b], 0], bar, box)


@gluon.jit
def _copy_values(
    ring, desc, i_b, i_h, first_rows, i_tile, N: gl.constexpr, D: gl.constexpr, T: gl.constexpr, PV8: gl.constexpr
):
    """A tile of T / N blocks of values: 8 bits, boxes [D, N] of the transposed blocks, or bfloat16, boxes [N, 64]."""
    wait_empty(ring, place_in(ring, i_tile), i_tile)
    if PV8:
        st, bar = _claim(ring, i_tile, T * D)
        for b in gl.static_range(T // N):
            box = ring.tiles.index(st * (T // N) + b).reshape((1, 1, 1, D, N))
            tma.async_copy_global_to_shared(desc, [i_b, i_h, first_rows[b] // N, 0, 0], bar, box)
    else:
        st, bar = _claim(ring, i_tile, T * D * 2)
        layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
        boxes = ring.tiles._reinterpret(ring.tiles.dtype, [ring.tiles.shape[0] * 2, N, 64], layout)
        for b in gl.static_range(T // N):
            for c in gl.static_range(2):
                box = boxes.index((st * (T // N) + b) * 2 + c).reshape((1, 1, 1, N, 64))
                tma.async_copy_global_to_shared(desc, [i_b, i_h, c, first_rows[b], 0], bar, box)


@gluon.jit
def _store_scales(scales, st, p_scale, p_list, o_t, t, n_j, N: gl.constexpr, T: gl.constexpr, first_rows):
    o_b = o_t // N
    block = gl.where(o_b == 0, first_rows[0] // N, first_rows[1] // N)
    scales.index(st).store(gl.load(p_scale + gl.minimum(block, n_j - 1)))


@gluon.jit
def producer8(
    q_desc, k_desc, v_desc, k_scale, lists, counts, turns, shared, sizes,
    M: gl.constexpr, N: gl.constexpr, D: gl.constexpr, T: gl.constexpr, CAUSAL: gl.constexpr, PV8: gl.constexpr,
    SCALES: gl.constexpr,
):  # fmt: skip
    o_t = gl.arange(0, T, LINE)
    done = 0
    turn = 0
    i_place = gl.program_id(0)
    while i_place < sizes.n_places:
        i_next = gl.num_programs(0) + gl.atomic_add(turns, 1)
        i_i, i_kv, i_g = block_at(i_place, sizes.n_places, sizes.n_first, sizes.n_i, sizes.group)
        i_b = i_kv // sizes.hkv
        n_list, n_valid = row_span(i_i, sizes.lq, sizes.lk, M, N, CAUSAL)
        i_row = (i_kv * sizes.group + i_g) * sizes.n_i + i_i
        p_list = lists + i_row * sizes.n_j
        p_scale = k_scale + i_kv * sizes.n_j
        next_rows = first_rows_of(p_list, 0, 0, sizes.n_j, N, T)
        plan = schedule_of(counts + i_row * 5, n_list, n_valid, sizes.lk, N, T)

        slot = turn & 1
        b_32, h_32 = i_b.to(gl.int32), (i_kv % sizes.hkv).to(gl.int32)
        h_q = h_32 * sizes.group + i_g
        _write(
            shared,
            slot,
            turn,
            ticket_of(b_32, h_q, i_i * M, i_i * M + sizes.lk - sizes.lq, 0, plan, plan.n_tiles, done),
        )
        full = at(shared.full, slot)
        mbarrier.expect(full, M * D)
        for half in gl.static_range(2):
            box = shared.queries.index(slot * 2 + half).reshape((1, 1, M // 2, D))
            tma.async_copy_global_to_shared(q_desc, [b_32, h_q, i_i * M + half * (M // 2), 0], full, box)

        for t in range(0, plan.full1):
            first_rows = next_rows
            next_rows = first_rows_of(p_list, 0, t + 1, sizes.n_j, N, T)
            st = place_in(shared.k, done + t)
            wait_empty(shared.k, st, done + t)
            if SCALES:
                _store_scales(shared.scales, st, p_scale, p_list, o_t, t, sizes.n_j, N, T, first_rows)
            _copy_keys(shared.k, k_desc, b_32, h_32, first_rows, done + t, N, D, T)
            _copy_values(shared.v, v_desc, b_32, h_32, first_rows, done + t, N, D, T, PV8)

        for t in range(plan.full1, plan.n_tiles):
            o_x = (t - plan.full1) * T + o_t
            m_list = o_x < plan.rest1
            i_c = n_list * N + o_x - plan.rest1
            m_kept = (o_x >= plan.rest1) & (o_x < plan.rest1 + plan.tail)
            m_kept = m_kept & (((plan.kept >> ((i_c // N - n_list) & 31)) & 1) == 1)
            position = gl.where(m_kept, i_c if CAUSAL else 0, NEVER)
            first_rows = ()
            for b in gl.static_range(T // N):
                i_tail = (t - plan.full1) * (T // N) + b - plan.rest1 // N
                row = gl.where(i_tail * N < plan.tail, (n_list + i_tail) * N, sizes.lk)
                first_rows = first_rows + (gl.where(i_tail < 0, next_rows[b], row),)
            st = place_in(shared.k, done + t)
            wait_empty(shared.k, st, done + t)
            shared.positions.index(st).store(gl.where(m_list, -1, position))
            if SCALES:
                _store_scales(shared.scales, st, p_scale, p_list, o_t, t, sizes.n_j, N, T, first_rows)
            _copy_keys(shared.k, k_desc, b_32, h_32, first_rows, done + t, N, D, T)
            _copy_values(shared.v, v_desc, b_32, h_32, first_rows, done + t, N, D, T, PV8)
        done += plan.n_tiles
        turn += 1
        i_place = i_next

    slot = turn & 1
    _write(shared, slot, turn, gl.where(gl.arange(0, FIELDS, LINE) == N_TILES, -1, 0))
    mbarrier.arrive(at(shared.full, slot), count=1)
    if gl.atomic_add(turns + 1, 1) == gl.num_programs(0) - 1:
        gl.store(turns, 0)
        gl.store(turns + 1, 0)


@gluon.jit
def _hand_back8(shared, turn):
    tma.store_wait(0)
    if turn > 0:
        mbarrier.arrive(at(shared.empty, turn & 1 ^ 1), count=1)


@gluon.jit
def _scores8(q_h, ring, i_tile, none, INT: gl.constexpr):
    st = place_in(ring, i_tile)
    wait_full(ring, st, i_tile)
    return warpgroup_mma(q_h, ring.tiles.index(st).permute((1, 0)), none, use_acc=INT, is_async=True)


@gluon.jit
def _my_turn(shared, i_tile, HALF: gl.constexpr, PING_PONG: gl.constexpr):
    """Let the consumers start their products in turns, so that one multiplies during the other's softmax."""
    if PING_PONG:
        mbarrier.wait(shared.order[HALF], i_tile & 1 ^ (1 - HALF))


@gluon.jit
def _your_turn(shared, HALF: gl.constexpr, PING_PONG: gl.constexpr):
    if PING_PONG:
        mbarrier.arrive(shared.order[1 - HALF], count=1)


@gluon.jit
def _halves(x):
    """Columns [0, T / 2) and [T / 2, T) of [H, T]; registers get new names, nothing moves."""
    H: gl.constexpr = x.shape[0]
    T: gl.constexpr = x.shape[1]
    return gl.split(x.reshape([H, 2, T // 2]).permute([0, 2, 1]))


@gluon.jit
def _seen(b_s, positions, FIRST: gl.constexpr, row):
    N: gl.constexpr = b_s.shape[1]
    position = positions.slice(FIRST, N).load(gl.SliceLayout(0, b_s.type.layout))
    row = gl.convert_layout(row, gl.SliceLayout(1, b_s.type.layout))
    return gl.where(position[None, :] <= row[:, None], b_s, -float("inf"))


@gluon.jit
def _softmax8(
    b_s, b_m, b_l, row, factor, shared, i_tile, masked, INT: gl.constexpr, PV8: gl.constexpr, SCALES: gl.constexpr
):
    """p of both halves, the rows' maxima and sums, and what the sums so far shrink by."""
    st = place_in(shared.k, i_tile)
    N: gl.constexpr = b_s.shape[1] // 2
    if INT:
        b_s = b_s.to(gl.float32, bitcast=True)
    b_0, b_1 = _halves(b_s)
    rows: gl.constexpr = gl.SliceLayout(1, b_0.type.layout)
    if masked:
        b_0 = _seen(b_0, shared.positions.index(st), 0, row)
        b_1 = _seen(b_1, shared.positions.index(st), N, row)
    f_0 = gl.convert_layout(factor, rows)
    f_1 = f_0
    if SCALES:
        f_1 = f_0 * gl.max(shared.scales.index(st).slice(N, 1).load(LINE), 0)
        f_0 = f_0 * gl.max(shared.scales.index(st).slice(0, 1).load(LINE), 0)
    mbarrier.arrive(at(shared.k.empty, st), count=1)
    if SCALES:
        top_0, top_1 = gl.max(b_0, 1), gl.max(b_1, 1)
        if INT:
            top_0, top_1 = top_0 - OFFSET, top_1 - OFFSET
        b_top = gl.maximum(b_m, gl.maximum(top_0 * f_0, top_1 * f_1))
    else:
        b_top = gl.maximum(b_m, gl.max(gl.maximum(b_0, b_1), 1) * f_0)
    from_0, from_1 = b_top, b_top
    if PV8:
        from_0, from_1 = from_0 - P_SHIFT, from_1 - P_SHIFT
    if INT:
        from_0, from_1 = from_0 + OFFSET * f_0, from_1 + OFFSET * f_1
    b_0 = gl.exp2(b_0 * f_0[:, None] - from_0[:, None])
    b_1 = gl.exp2(b_1 * f_1[:, None] - from_1[:, None])
    b_alpha = gl.exp2(b_m - b_top)
    return b_0, b_1, b_top, b_l * b_alpha + gl.sum(b_0 + b_1, 1), b_alpha


@gluon.jit
def _pack(b_p, dtype: gl.constexpr, layout: gl.constexpr, PV8: gl.constexpr):
    """P as it is kept until its product: for 8 bits int32 [H, N / 16, 4], four slots each, else the operand."""
    if PV8:
        H: gl.constexpr = b_p.shape[0]
        N: gl.constexpr = b_p.shape[1]
        b_0, b_1 = gl.split(b_p.reshape([H, N // 16, 2, 4, 2]).permute([0, 1, 3, 2, 4]))
        b_00, b_10 = gl.split(b_0)
        b_01, b_11 = gl.split(b_1)
        return gl.inline_asm_elementwise(PACK, "=r,r,r,r,r", [b_00, b_01, b_10, b_11], gl.int32, True, 1)
    else:
        return gl.convert_layout(b_p.to(dtype), layout)


@gluon.jit
def _operand(b_w, layout: gl.constexpr, PV8: gl.constexpr):
    """What ``_pack`` gave as the tensor cores' left operand; the bytes stay where they are."""
    if PV8:
        H: gl.constexpr = b_w.shape[0]
        N: gl.constexpr = b_w.shape[1] * 16
        low = gl.join(b_w.to(gl.int8), (b_w >> 8).to(gl.int8))
        high = gl.join((b_w >> 16).to(gl.int8), (b_w >> 24).to(gl.int8))
        b_p = gl.join(low, high).permute([0, 1, 2, 4, 3]).reshape([H, N])
        return gl.convert_layout(b_p.to(gl.float8e4nv, bitcast=True), layout)
    else:
        return b_w


@gluon.jit
def _values8(ring, st, w_0, w_1, acc, layout: gl.constexpr, USE: gl.constexpr, N: gl.constexpr, PV8: gl.constexpr):
    """Start P V of the tile in ``st``, one product a half."""
    if PV8:
        v_0 = ring.tiles.index(st * 2).permute((1, 0))
        v_1 = ring.tiles.index(st * 2 + 1).permute((1, 0))
    else:
        v_0 = ring.tiles.index(st * 2)
        v_1 = ring.tiles.index(st * 2 + 1)
    p_0, p_1 = _operand(w_0, layout, PV8), _operand(w_1, layout, PV8)
    token = warpgroup_mma(p_0, v_0, acc, use_acc=USE, is_async=True)
    return warpgroup_mma(p_1, v_1, token, is_async=True)


@gluon.jit
def _flush(total, b_o, b_beta, old):
    """total * beta + O to shared memory, or O alone where nothing is there yet."""
    if old:
        b_o += total.load(b_o.type.layout) * b_beta[:, None]
    total.store(b_o)


@gluon.jit
def consumer8(
    o_desc, row_scale, v_scale, shared, lq, heads,
    HALF: gl.constexpr, M: gl.constexpr, D: gl.constexpr, T: gl.constexpr, INT: gl.constexpr, PV8: gl.constexpr,
    SCALES: gl.constexpr, WINDOW: gl.constexpr, PING_PONG: gl.constexpr, LATE: gl.constexpr,
):  # fmt: skip
    H: gl.constexpr = M // 2
    N: gl.constexpr = T // 2
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, T, 32])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 32 if PV8 else 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 4 if PV8 else 2)
    rows: gl.constexpr = gl.SliceLayout(1, s_layout)
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    dtype: gl.constexpr = o_desc.dtype
    OUT: gl.constexpr = HALF * (2 if WINDOW > 1 else 1)  # sums in float32 and outputs share their place
    if INT:
        none = gl.full([H, T], MAGIC, gl.int32, s_layout)
    else:
        none = gl.zeros([H, T], gl.float32, s_layout)
    zero = gl.zeros([H, D], gl.float32, o_layout)
    ones = gl.full([H], 1.0, gl.float32, o_rows)
    turn = 0
    mbarrier.wait(shared.full[0], 0)
    n_tiles = read(shared.tickets, 0, N_TILES)
    while n_tiles >= 0:
        slot = turn & 1
        q_h = shared.queries.index(slot * 2 + HALF)
        masked = read(shared.tickets, slot, MASKED)
        done = read(shared.tickets, slot, DONE)
        i_b = read(shared.tickets, slot, SAMPLE)
        i_h = read(shared.tickets, slot, HEAD)
        first = read(shared.tickets, slot, FIRST_ROW) + HALF * H
        row = read(shared.tickets, slot, POSITION) + HALF * H + gl.arange(0, H, rows)
        o_m = first + gl.arange(0, H, rows)
        factor = gl.load(row_scale + (i_b * heads + i_h).to(gl.int64) * lq + o_m, mask=o_m < lq, other=1.0)
        b_o = zero
        if n_tiles == 0:
            _hand_back8(shared, turn)
            b_l = ones
        else:
            _my_turn(shared, done, HALF, PING_PONG)
            s_token = _scores8(q_h, shared.k, done, none, INT)
            _your_turn(shared, HALF, PING_PONG)
            _hand_back8(shared, turn)
            b_s = warpgroup_mma_wait(0, deps=[s_token])
            r: gl.constexpr = gl.SliceLayout(1, _halves(b_s)[0].type.layout)
            b_m = gl.full([H], LOWEST, gl.float32, r)
            b_l = gl.full([H], 0.0, gl.float32, r)
            b_0, b_1, b_m, b_l, b_alpha = _softmax8(
                b_s, b_m, b_l, row, factor, shared, done, masked <= 0, INT, PV8, SCALES
            )
            b_alpha = gl.convert_layout(b_alpha, o_rows)
            p_0, p_1 = _pack(b_0, dtype, p_layout, PV8), _pack(b_1, dtype, p_layout, PV8)
            b_then = b_alpha  # WINDOW 1: of the tile whose values come next
            b_beta = ones  # WINDOW > 1: what the sums in shared memory have shrunk by
            for t in range(1, n_tiles):
                i_tile = done + t
                st = place_in(shared.v, i_tile - 1)
                more = True
                if WINDOW > 1:
                    more = (t - 1) % WINDOW > 0
                    if (t > 1) & (not more):
                        _flush(shared.out.index(HALF), b_o, b_beta, t - 1 > WINDOW)
                        b_beta = ones
                _my_turn(shared, i_tile, HALF, PING_PONG)
                s_token = _scores8(q_h, shared.k, i_tile, none, INT)
                if LATE:
                    b_o = b_o * b_alpha[:, None]
                    b_beta = b_beta * b_alpha
                wait_full(shared.v, st, i_tile - 1)
                if WINDOW == 1:
                    o_token = _values8(shared.v, st, p_0, p_1, zero, p_layout, False, N, PV8)
                else:
                    o_token = _values8(shared.v, st, p_0, p_1, b_o, p_layout, more, N, PV8)
                _your_turn(shared, HALF, PING_PONG)
                b_s = warpgroup_mma_wait(2, deps=[s_token])
                b_0, b_1, b_m, b_l, b_alpha = _softmax8(
                    b_s, b_m, b_l, row, factor, shared, i_tile, t >= masked, INT, PV8, SCALES
                )  # fmt: skip
                b_alpha = gl.convert_layout(b_alpha, o_rows)
                if WINDOW == 1:
                    b_o = b_o * b_then[:, None] + warpgroup_mma_wait(0, deps=[o_token])
                    b_then = b_alpha
                else:
                    b_o = warpgroup_mma_wait(0, deps=[o_token])
                mbarrier.arrive(at(shared.v.empty, st), count=1)
                if WINDOW != 1 and not LATE:
                    b_o = b_o * b_alpha[:, None]
                    b_beta = b_beta * b_alpha
                p_0, p_1 = _pack(b_0, dtype, p_layout, PV8), _pack(b_1, dtype, p_layout, PV8)
            last = done + n_tiles - 1
            st = place_in(shared.v, last)
            if LATE or WINDOW == 1:
                b_o = b_o * b_alpha[:, None]
                b_beta = b_beta * b_alpha
            wait_full(shared.v, st, last)
            if WINDOW == 1:
                o_token = _values8(shared.v, st, p_0, p_1, zero, p_layout, False, N, PV8)
                b_o = b_o + warpgroup_mma_wait(0, deps=[o_token])
            else:
                o_token = _values8(shared.v, st, p_0, p_1, b_o, p_layout, True, N, PV8)
                b_o = warpgroup_mma_wait(0, deps=[o_token])
            mbarrier.arrive(at(shared.v.empty, st), count=1)
            b_l = gl.convert_layout(b_l, o_rows)
            if WINDOW > 1:
                if n_tiles - 1 > WINDOW:
                    b_o += shared.out.index(HALF).load(o_layout) * b_beta[:, None]

        b_o = b_o / gl.where(b_l == 0.0, 1.0, b_l)[:, None]
        if PV8:
            o_d = gl.arange(0, D, gl.SliceLayout(0, o_layout))
            b_o = b_o * gl.load(v_scale + (i_b * heads + i_h) * D + o_d)[None, :]
        if WINDOW > 1:
            layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
            out = shared.out._reinterpret(dtype, [4, H, D], layout)
        else:
            out = shared.out
        out.index(OUT).store(b_o.to(dtype))
        fence_async_shared()
        tma.async_copy_shared_to_global(o_desc, [i_b, i_h, 0, first, 0], whole(out, OUT))
        turn += 1
        mbarrier.wait(at(shared.full, turn & 1), (turn >> 1) & 1)
        n_tiles = read(shared.tickets, turn & 1, N_TILES)
    tma.store_wait(0)


@gluon.jit
def _half_scores(q_r, ring, i_tile, PART: gl.constexpr, none, N: gl.constexpr):
    """Start Q K^T of rows PART * N .. of the tile, which is there; Q in registers, so that the tensor cores read no
    more of shared memory than for a whole tile."""
    keys = ring.tiles.index(place_in(ring, i_tile)).slice(PART * N, N)
    return warpgroup_mma(q_r, keys.permute((1, 0)), none, use_acc=False, is_async=True)


@gluon.jit
def _tile_softmax(b_0, b_1, b_m, factor, row, shared, i_tile, masked):
    """Masks, hands the keys back; the halves' rows, their maximum and what the sums so far shrink by."""
    st = place_in(shared.k, i_tile)
    N: gl.constexpr = b_0.shape[1]
    if masked:
        b_0 = _seen(b_0, shared.positions.index(st), 0, row)
        b_1 = _seen(b_1, shared.positions.index(st), N, row)
    mbarrier.arrive(at(shared.k.empty, st), count=1)
    b_top = gl.maximum(b_m, gl.max(gl.maximum(b_0, b_1), 1) * factor)
    return b_0, b_1, b_top, gl.exp2(b_m - b_top)


@gluon.jit
def _weights(b_s, b_m, factor):
    return gl.exp2(b_s * factor[:, None] - (b_m - P_SHIFT)[:, None])


@gluon.jit
def _add_to(total, b_o, b_beta, old, FIRST: gl.constexpr):
    """``_flush`` of some columns, few at a time, as the registers are full."""
    C: gl.constexpr = b_o.shape[1]
    if C > 32:
        b_0, b_1 = _halves(b_o)
        _add_to(total, b_0, b_beta, old, FIRST)
        _add_to(total, b_1, b_beta, old, FIRST + C // 2)
    else:
        part = total.slice(FIRST, C, 1)
        if old:
            b_o += part.load(b_o.type.layout) * gl.convert_layout(b_beta, gl.SliceLayout(1, b_o.type.layout))[:, None]
        part.store(b_o)


@gluon.jit
def consumer_halves(
    o_desc, row_scale, v_scale, shared, lq, heads,
    HALF: gl.constexpr, M: gl.constexpr, D: gl.constexpr, T: gl.constexpr, WINDOW: gl.constexpr,
):  # fmt: skip
    """``consumer8`` for e4m3, whose scores come in two halves: the first half of the next tile's is multiplied during
    the second half's exponentials, and the second during the outputs' rescaling, so that little is waited for."""
    H: gl.constexpr = M // 2
    N: gl.constexpr = T // 2
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, N, 32])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 32])
    q_layout: gl.constexpr = gl.DotOperandLayout(0, s_layout, 4)
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 4)
    rows: gl.constexpr = gl.SliceLayout(1, s_layout)
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    dtype: gl.constexpr = o_desc.dtype
    OUT: gl.constexpr = HALF * (2 if WINDOW > 1 else 1)
    none = gl.zeros([H, N], gl.float32, s_layout)
    zero = gl.zeros([H, D], gl.float32, o_layout)
    ones = gl.full([H], 1.0, gl.float32, o_rows)
    turn = 0
    mbarrier.wait(shared.full[0], 0)
    n_tiles = read(shared.tickets, 0, N_TILES)
    while n_tiles >= 0:
        slot = turn & 1
        masked = read(shared.tickets, slot, MASKED)
        done = read(shared.tickets, slot, DONE)
        i_b = read(shared.tickets, slot, SAMPLE)
        i_h = read(shared.tickets, slot, HEAD)
        first = read(shared.tickets, slot, FIRST_ROW) + HALF * H
        row = read(shared.tickets, slot, POSITION) + HALF * H + gl.arange(0, H, rows)
        o_m = first + gl.arange(0, H, rows)
        factor = gl.load(row_scale + (i_b * heads + i_h).to(gl.int64) * lq + o_m, mask=o_m < lq, other=1.0)
        b_o = zero
        b_l = gl.full([H], 0.0, gl.float32, rows)
        if n_tiles == 0:
            _hand_back8(shared, turn)
        else:
            q_r = shared.queries.index(slot * 2 + HALF).load(q_layout)
            wait_full(shared.k, place_in(shared.k, done), done)
            s_0 = _half_scores(q_r, shared.k, done, 0, none, N)
            s_1 = _half_scores(q_r, shared.k, done, 1, none, N)
            _hand_back8(shared, turn)
            b_0, b_1 = warpgroup_mma_wait(0, deps=[s_0, s_1])
            b_m = gl.full([H], LOWEST, gl.float32, rows)
            b_0, b_1, b_m, b_alpha = _tile_softmax(b_0, b_1, b_m, factor, row, shared, done, masked <= 0)
            b_0, b_1 = _weights(b_0, b_m, factor), _weights(b_1, b_m, factor)
            b_l = gl.sum(b_0 + b_1, 1)
            p_0, p_1 = _pack(b_0, dtype, p_layout, True), _pack(b_1, dtype, p_layout, True)
            b_beta = ones
            for t in range(1, n_tiles - 1, 2):  # tiles t and t + 1, values of t - 1 and t
                i_tile = done + t
                more = True
                if WINDOW > 1:
                    more = (t - 1) % WINDOW > 0
                    if (t > 1) & (not more):
                        _add_to(shared.out.index(HALF), b_o, b_beta, t - 1 > WINDOW, 0)
                        b_beta = ones
                wait_full(shared.k, place_in(shared.k, i_tile), i_tile)
                s_0 = _half_scores(q_r, shared.k, i_tile, 0, none, N)
                s_1 = _half_scores(q_r, shared.k, i_tile, 1, none, N)
                b_alpha = gl.convert_layout(b_alpha, o_rows)
                b_beta = b_beta * b_alpha
                b_o = b_o * b_alpha[:, None]
                st = place_in(shared.v, i_tile - 1)
                wait_full(shared.v, st, i_tile - 1)
                o_token = _values8(shared.v, st, p_0, p_1, b_o, p_layout, more, N, True)

                b_0, b_1 = warpgroup_mma_wait(2, deps=[s_0, s_1])
                b_0, b_1, b_m, b_alpha = _tile_softmax(b_0, b_1, b_m, factor, row, shared, i_tile, t >= masked)
                wait_full(shared.k, place_in(shared.k, i_tile + 1), i_tile + 1)
                b_0 = _weights(b_0, b_m, factor)
                b_l = b_l * b_alpha + gl.sum(b_0, 1)
                p_0 = _pack(b_0, dtype, p_layout, True)
                s_0 = _half_scores(q_r, shared.k, i_tile + 1, 0, none, N)
                b_1 = _weights(b_1, b_m, factor)
                b_l += gl.sum(b_1, 1)
                p_1 = _pack(b_1, dtype, p_layout, True)
                s_1 = _half_scores(q_r, shared.k, i_tile + 1, 1, none, N)
                b_o = warpgroup_mma_wait(2, deps=[o_token])
                mbarrier.arrive(at(shared.v.empty, st), count=1)
                b_alpha = gl.convert_layout(b_alpha, o_rows)
                b_beta = b_beta * b_alpha
                b_o = b_o * b_alpha[:, None]
                st = place_in(shared.v, i_tile)
                wait_full(shared.v, st, i_tile)
                o_token = _values8(shared.v, st, p_0, p_1, b_o, p_layout, True, N, True)

                b_0, b_1 = warpgroup_mma_wait(2, deps=[s_0, s_1])
                b_0, b_1, b_m, b_alpha = _tile_softmax(b_0, b_1, b_m, factor, row, shared, i_tile + 1, t + 1 >= masked)
                b_0, b_1 = _weights(b_0, b_m, factor), _weights(b_1, b_m, factor)
                b_l = b_l * b_alpha + gl.sum(b_0 + b_1, 1)
                b_o = warpgroup_mma_wait(0, deps=[o_token])
                mbarrier.arrive(at(shared.v.empty, st), count=1)
                p_0, p_1 = _pack(b_0, dtype, p_layout, True), _pack(b_1, dtype, p_layout, True)
            last = done + n_tiles - 1
            if n_tiles % 2 == 0:  # one tile more
                wait_full(shared.k, place_in(shared.k, last), last)
                s_0 = _half_scores(q_r, shared.k, last, 0, none, N)
                s_1 = _half_scores(q_r, shared.k, last, 1, none, N)
                b_alpha = gl.convert_layout(b_alpha, o_rows)
                b_beta = b_beta * b_alpha
                b_o = b_o * b_alpha[:, None]
                st = place_in(shared.v, last - 1)
                wait_full(shared.v, st, last - 1)
                o_token = _values8(shared.v, st, p_0, p_1, b_o, p_layout, True, N, True)
                b_0, b_1 = warpgroup_mma_wait(2, deps=[s_0, s_1])
                b_0, b_1, b_m, b_alpha = _tile_softmax(
                    b_0, b_1, b_m, factor, row, shared, last, n_tiles - 1 >= masked
                )  # fmt: skip
                b_0, b_1 = _weights(b_0, b_m, factor), _weights(b_1, b_m, factor)
                b_l = b_l * b_alpha + gl.sum(b_0 + b_1, 1)
                b_o = warpgroup_mma_wait(0, deps=[o_token])
                mbarrier.arrive(at(shared.v.empty, st), count=1)
                p_0, p_1 = _pack(b_0, dtype, p_layout, True), _pack(b_1, dtype, p_layout, True)
            b_alpha = gl.convert_layout(b_alpha, o_rows)
            b_beta = b_beta * b_alpha
            st = place_in(shared.v, last)
            wait_full(shared.v, st, last)
            o_token = _values8(shared.v, st, p_0, p_1, b_o * b_alpha[:, None], p_layout, True, N, True)
            b_o = warpgroup_mma_wait(0, deps=[o_token])
            mbarrier.arrive(at(shared.v.empty, st), count=1)
            if WINDOW > 1:
                if n_tiles - 2 > WINDOW:
                    b_o += shared.out.index(HALF).load(o_layout) * b_beta[:, None]

        b_sum = gl.convert_layout(b_l, o_rows)
        b_o = b_o / gl.where(b_sum == 0.0, 1.0, b_sum)[:, None]
        o_d = gl.arange(0, D, gl.SliceLayout(0, o_layout))
        b_o = b_o * gl.load(v_scale + (i_b * heads + i_h) * D + o_d)[None, :]
        if WINDOW > 1:
            layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
            out = shared.out._reinterpret(dtype, [4, H, D], layout)
        else:
            out = shared.out
        out.index(OUT).store(b_o.to(dtype))
        fence_async_shared()
        tma.async_copy_shared_to_global(o_desc, [i_b, i_h, 0, first, 0], whole(out, OUT))
        turn += 1
        mbarrier.wait(at(shared.full, turn & 1), (turn >> 1) & 1)
        n_tiles = read(shared.tickets, turn & 1, N_TILES)
    tma.store_wait(0)


@gluon.jit
def consumer(
    o_desc, row_scale, v_scale, shared, lq, heads,
    HALF: gl.constexpr, M: gl.constexpr, D: gl.constexpr, T: gl.constexpr, INT: gl.constexpr, PV8: gl.constexpr,
    SCALES: gl.constexpr, WINDOW: gl.constexpr, PING_PONG: gl.constexpr, LATE: gl.constexpr, HALVES: gl.constexpr,
):  # fmt: skip
    if HALVES:
        consumer_halves(o_desc, row_scale, v_scale, shared, lq, heads, HALF, M, D, T, WINDOW)
    else:
        consumer8(
            o_desc, row_scale, v_scale, shared, lq, heads, HALF, M, D, T, INT, PV8, SCALES, WINDOW, PING_PONG, LATE
        )  # fmt: skip


@gluon.jit
def attend_8bit_kernel(
    q_desc, k_desc, v_desc, o_desc, row_scale, k_scale, v_scale, lists, counts, turns,
    lq, lk, n_i, n_first, n_j, hkv, group, heads, n_places,
    M: gl.constexpr, N: gl.constexpr, D: gl.constexpr, T: gl.constexpr, STAGES_K: gl.constexpr, STAGES_V: gl.constexpr,
    CAUSAL: gl.constexpr, INT: gl.constexpr, PV8: gl.constexpr, SCALES: gl.constexpr, WINDOW: gl.constexpr,
    PING_PONG: gl.constexpr, LATE: gl.constexpr, HALVES: gl.constexpr,
    CONSUMER_REGISTERS: gl.constexpr, PRODUCER_REGISTERS: gl.constexpr,
):  # fmt: skip
    line: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    dtype: gl.constexpr = o_desc.dtype
    q_s = gl.allocate_shared_memory(q_desc.dtype, [4, M // 2, D], gl.NVMMASharedLayout(128, 8, 2))
    if WINDOW > 1:
        o_s = gl.allocate_shared_memory(gl.float32, [2, M // 2, D], gl.SwizzledSharedLayout(4, 1, 8, [1, 0]))
    else:
        o_s = gl.allocate_shared_memory(dtype, [2, M // 2, D], gl.NVMMASharedLayout(128, 16, 2))
    k_s = gl.allocate_shared_memory(k_desc.dtype, [STAGES_K, T, D], gl.NVMMASharedLayout(128, 8, 2))
    if PV8:
        v_s = gl.allocate_shared_memory(v_desc.dtype, [STAGES_V * (T // N), D, N], gl.NVMMASharedLayout(64, 8, 2))
    else:
        v_s = gl.allocate_shared_memory(v_desc.dtype, [STAGES_V * (T // N), N, D], gl.NVMMASharedLayout(128, 16, 2))
    position_s = gl.allocate_shared_memory(gl.int32, [STAGES_K, T], line)
    scale_s = gl.allocate_shared_memory(gl.float32, [STAGES_K, T], line)
    ticket_s = gl.allocate_shared_memory(gl.int32, [2, FIELDS], line)
    full_k = barriers(STAGES_K, 128)
    full_v = barriers(STAGES_V, 128)
    empty_k = barriers(STAGES_K, 2)
    empty_v = barriers(STAGES_V, 2)
    full_t = barriers(2, 1)
    empty_t = barriers(2, 2)
    shared = Shared8(
        queries=q_s, out=o_s, k=Ring(tiles=k_s, full=full_k, empty=empty_k),
        v=Ring(tiles=v_s, full=full_v, empty=empty_v), positions=position_s, scales=scale_s, tickets=ticket_s,
        full=full_t, empty=empty_t, order=barriers(2, 1),
    )  # fmt: skip
    sizes = Sizes8(lq=lq, lk=lk, n_i=n_i, n_first=n_first, n_j=n_j, hkv=hkv, group=group, n_places=n_places)
    gl.warp_specialize(
        [
            (idle, ()),
            (consumer, (
                o_desc, row_scale, v_scale, shared, lq, heads, 0, M, D, T, INT, PV8, SCALES, WINDOW, PING_PONG, LATE,
                HALVES,
            )),
            (consumer, (
                o_desc, row_scale, v_scale, shared, lq, heads, 1, M, D, T, INT, PV8, SCALES, WINDOW, PING_PONG, LATE,
                HALVES,
            )),
            (producer8, (
                q_desc, k_desc, v_desc, k_scale, lists, counts, turns, shared, sizes, M, N, D, T, CAUSAL, PV8, SCALES,
            )),
        ],
        [4, 4, 4],
        [CONSUMER_REGISTERS, CONSUMER_REGISTERS, PRODUCER_REGISTERS],
    )  # fmt: skip


SLOT_OF_TOKEN = [4 * (c % 8 // 2) + 2 * (c // 8) + c % 2 for c in range(16)]  # within 16 tokens


def quantise(q, k, v, scale: float, qk: str, pv: str, key_block: int = 64, smooth: bool = True):
    """8-bit operands in torch, as slow as it is clear. qk: "e4m3" or "int8"; pv: "e4m3" or "bf16"."""
    b, h, lq, d = q.shape
    hkv, lk = k.shape[1:3]
    n_j = -(-lk // key_block)
    k = k.float() - (k.float().mean(2, keepdim=True) if smooth else 0.0)
    top = 448.0 if qk == "e4m3" else 127.0
    q_scale = q.float().abs().amax(3, keepdim=True).clamp_min(1e-12) / top
    q8 = q.float() / q_scale
    rows = q_scale[..., 0] * (scale * LOG2E)
    if qk == "e4m3":
        k_head = k.abs().amax((2, 3), keepdim=True).clamp_min(1e-12) / top  # [B, Hkv, 1, 1]
        rows = rows * k_head[..., 0].repeat_interleave(h // hkv, 1)
        q8, k8, k_scale = q8.to(torch.float8_e4m3fn), (k / k_head).to(torch.float8_e4m3fn), None
    else:
        padded = torch.nn.functional.pad(k, (0, 0, 0, n_j * key_block - lk)).view(b, hkv, n_j, key_block, d)
        k_scale = padded.abs().amax((3, 4)).clamp_min(1e-12) / top
        k8 = (padded / k_scale[..., None, None]).round().clamp(-top, top).to(torch.int8).view(b, hkv, -1, d)[:, :, :lk]
        q8 = q8.round().clamp(-top, top).to(torch.int8)
    v8, v_scale = v, None
    if pv == "e4m3":
        v_scale = v.float().abs().amax(2).clamp_min(1e-12) / 448.0  # [B, Hkv, D]
        padded = torch.nn.functional.pad(v.float() / v_scale[:, :, None], (0, 0, 0, n_j * key_block - lk))
        tokens = padded.view(b, hkv, n_j, key_block // 16, 16, d)
        slots = torch.empty_like(tokens)
        slots[:, :, :, :, SLOT_OF_TOKEN] = tokens
        v8 = slots.view(b, hkv, n_j, key_block, d).transpose(3, 4).contiguous().to(torch.float8_e4m3fn)
        v_scale = v_scale.repeat_interleave(h // hkv, 1).contiguous()
    return q8.contiguous(), k8.contiguous(), v8, rows.contiguous(), k_scale, v_scale


SETTINGS = dict(M=128, N=64, D=128, T=128)


def attend_8bit(operands, found, shape, causal: bool, n_first: int, programs: int, launch, **options):
    """Attention over level 1 of ``found``; operands as ``quantise`` gives them, shape: (B, H, Hkv, Lq, Lk). ``launch``
    takes the kernel's arguments. Returns what ``launch`` does and the output."""
    q8, k8, v8, rows, k_scale, v_scale = operands
    b, h, hkv, lq, lk = shape
    d, n = SETTINGS["D"], SETTINGS["N"]
    n_i, n_j = -(-lq // 128), -(-lk // n)
    out = torch.empty(b, h, lq, d, dtype=torch.bfloat16, device=q8.device)

    def boxes(x, length, rows, rank4=True):
        heads = x.shape[1]
        return Boxes(
            x,
            [b, heads, length, d],
            [heads * length * d, length * d, d, 1],
            [1, 1, rows, d],
            gl.NVMMASharedLayout(128, 8, 4),
        )

    def boxes16(x, length, rows, columns):
        heads = x.shape[1]
        strides = [heads * length * d, length * d, 64, d, 1]
        layout = gl.NVMMASharedLayout(128, 16, 5)
        return Boxes(x, [b, heads, d // 64, length, 64], strides, [1, 1, columns // 64, rows, 64], layout)

    pv8 = v_scale is not None
    if pv8:
        strides = [hkv * n_j * d * n, n_j * d * n, d * n, n, 1]
        v_desc = Boxes(v8, [b, hkv, n_j, d, n], strides, [1, 1, 1, d, n], gl.NVMMASharedLayout(64, 8, 5))
    else:
        v_desc = boxes16(v8, lk, n, 64)
    arguments = dict(
        q_desc=boxes(q8, lq, 64), k_desc=boxes(k8, lk, n), v_desc=v_desc, o_desc=boxes16(out, lq, 64, d),
        row_scale=rows, k_scale=k_scale if k_scale is not None else rows, v_scale=v_scale if pv8 else rows,
        lists=found.lists, counts=found.counts, turns=found.turns, lq=lq, lk=lk, n_i=n_i, n_first=n_first, n_j=n_j,
        hkv=hkv, group=h // hkv, heads=h, n_places=n_i * b * h, **SETTINGS, CAUSAL=causal, INT=k_scale is not None,
        PV8=pv8, SCALES=k_scale is not None, num_warps=4, maxnreg=128, **options,
    )  # fmt: skip
    return launch(attend_8bit_kernel, (min(n_i * b * h, programs),), arguments), out
