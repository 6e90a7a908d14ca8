"""The loading partition of attend_8bit.py: psa_paddle/kernels/hopper_producer.py's for 8-bit tiles of whole blocks."""

from __future__ import annotations

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from psa_paddle.kernels.common import block_at, row_span
from psa_paddle.kernels.hopper_producer import _write
from psa_paddle.kernels.hopper_shared import FIELDS, LINE, N_TILES, Ring, at, place_in, wait_empty
from psa_paddle.kernels.hopper_tiles import NEVER, first_rows_of, schedule_of, ticket_of


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
    INT: gl.constexpr,
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
            if INT:
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
            if INT:
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
