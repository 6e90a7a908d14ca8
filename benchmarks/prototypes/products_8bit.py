"""The multiplying partitions of attend_8bit.py: psa_paddle/kernels/hopper_consumer.py's with 8-bit products."""

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

from psa_paddle.kernels.hopper_consumer import LOWEST
from psa_paddle.kernels.hopper_shared import (
    DONE,
    FIRST_ROW,
    HEAD,
    LINE,
    MASKED,
    N_TILES,
    POSITION,
    SAMPLE,
    at,
    place_in,
    read,
    wait_full,
    whole,
)

MAGIC = gl.constexpr(0x4B400000)  # as float32 1.5 * 2^23: an int32 sum on top of it is the float 1.5 * 2^23 + sum
OFFSET = gl.constexpr(12582912.0)
# Four slots into a register; Triton's own conversion takes seven instructions to put them there.
PACK = gl.constexpr(
    "{ .reg .b16 low, high; cvt.rn.satfinite.e4m3x2.f32 low, $2, $1; cvt.rn.satfinite.e4m3x2.f32 high, $4, $3; "
    "mov.b32 $0, {low, high}; }"
)
P_SHIFT = gl.constexpr(8.0)  # e4m3 takes 2^8 p: its smallest normal number is then 2^-14


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
def _softmax8(b_s, b_m, b_l, row, factor, shared, i_tile, masked, INT: gl.constexpr, PV8: gl.constexpr):
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
    if INT:
        f_1 = f_0 * gl.max(shared.scales.index(st).slice(N, 1).load(LINE), 0)
        f_0 = f_0 * gl.max(shared.scales.index(st).slice(0, 1).load(LINE), 0)
    mbarrier.arrive(at(shared.k.empty, st), count=1)
    if INT:
        top_0, top_1 = gl.max(b_0, 1) - OFFSET, gl.max(b_1, 1) - OFFSET
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
def _values8(ring, st, w_0, w_1, acc, layout: gl.constexpr, use, PV8: gl.constexpr):
    """Start P V of the tile in ``st``, one product a half."""
    if PV8:
        v_0 = ring.tiles.index(st * 2).permute((1, 0))
        v_1 = ring.tiles.index(st * 2 + 1).permute((1, 0))
    else:
        v_0 = ring.tiles.index(st * 2)
        v_1 = ring.tiles.index(st * 2 + 1)
    p_0, p_1 = _operand(w_0, layout, PV8), _operand(w_1, layout, PV8)
    token = warpgroup_mma(p_0, v_0, acc, use_acc=use, is_async=True)
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
    WINDOW: gl.constexpr,
):  # fmt: skip
    H: gl.constexpr = M // 2
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, T, 32])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 32 if PV8 else 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 4 if PV8 else 2)
    rows: gl.constexpr = gl.SliceLayout(1, s_layout)
    o_rows: gl.constexpr = gl.SliceLayout(1, o_layout)
    dtype: gl.constexpr = o_desc.dtype
    OUT: gl.constexpr = HALF * (2 if WINDOW else 1)  # sums in float32 and outputs share their place
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
            s_token = _scores8(q_h, shared.k, done, none, INT)
            _hand_back8(shared, turn)
            b_s = warpgroup_mma_wait(0, deps=[s_token])
            r: gl.constexpr = gl.SliceLayout(1, _halves(b_s)[0].type.layout)
            b_m = gl.full([H], LOWEST, gl.float32, r)
            b_l = gl.full([H], 0.0, gl.float32, r)
            b_0, b_1, b_m, b_l, b_alpha = _softmax8(b_s, b_m, b_l, row, factor, shared, done, masked <= 0, INT, PV8)
            b_alpha = gl.convert_layout(b_alpha, o_rows)
            p_0, p_1 = _pack(b_0, dtype, p_layout, PV8), _pack(b_1, dtype, p_layout, PV8)
            b_beta = ones  # what the sums in shared memory have shrunk by
            for t in range(1, n_tiles):
                i_tile = done + t
                st = place_in(shared.v, i_tile - 1)
                more = True
                if WINDOW:
                    more = (t - 1) % WINDOW > 0
                    if (t > 1) & (not more):
                        _flush(shared.out.index(HALF), b_o, b_beta, t - 1 > WINDOW)
                        b_beta = ones
                s_token = _scores8(q_h, shared.k, i_tile, none, INT)
                wait_full(shared.v, st, i_tile - 1)
                o_token = _values8(shared.v, st, p_0, p_1, b_o, p_layout, more, PV8)
                b_s = warpgroup_mma_wait(2, deps=[s_token])
                b_0, b_1, b_m, b_l, b_alpha = _softmax8(
                    b_s, b_m, b_l, row, factor, shared, i_tile, t >= masked, INT, PV8
                )  # fmt: skip
                b_alpha = gl.convert_layout(b_alpha, o_rows)
                b_o = warpgroup_mma_wait(0, deps=[o_token])
                mbarrier.arrive(at(shared.v.empty, st), count=1)
                b_o = b_o * b_alpha[:, None]
                b_beta = b_beta * b_alpha
                p_0, p_1 = _pack(b_0, dtype, p_layout, PV8), _pack(b_1, dtype, p_layout, PV8)
            last = done + n_tiles - 1
            st = place_in(shared.v, last)
            wait_full(shared.v, st, last)
            o_token = _values8(shared.v, st, p_0, p_1, b_o, p_layout, True, PV8)
            b_o = warpgroup_mma_wait(0, deps=[o_token])
            mbarrier.arrive(at(shared.v.empty, st), count=1)
            b_l = gl.convert_layout(b_l, o_rows)
            if WINDOW:
                if n_tiles - 1 > WINDOW:
                    b_o += shared.out.index(HALF).load(o_layout) * b_beta[:, None]

        b_o = b_o / gl.where(b_l == 0.0, 1.0, b_l)[:, None]
        if PV8:
            o_d = gl.arange(0, D, gl.SliceLayout(0, o_layout))
            b_o = b_o * gl.load(v_scale + (i_b * heads + i_h) * D + o_d)[None, :]
        if WINDOW:
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
