"""The loading partition of attend_hopper.py."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from .common import block_at, row_span, sample_span
from .hopper_copies import copy_blocks, copy_means, copy_pooled, copy_rows
from .hopper_shared import FIELDS, LINE, N_TILES, at, place_in, wait_empty, whole
from .hopper_tiles import NEVER, first_rows_of, left_over_rows, pooled_rows_of, schedule_of, ticket_of
from .pooled import pooled_head


@gluon.jit
def _write(shared, slot, turn, b_f):
    """Write the ticket of query block ``turn`` into ``slot``, turn % 2, once the one before there is done with."""
    mbarrier.wait(at(shared.empty, slot), (turn >> 1) & 1 ^ 1)
    shared.tickets.index(slot).store(b_f)
    gl.thread_barrier()  # before one thread announces what all have written


@gluon.jit
def _first_row(p_x, strides, i_b, i_h, o_k):
    """Where row ``o_k`` of one head of a sample starts."""
    return p_x + i_b * strides.batch + i_h * strides.head + o_k.to(gl.int64) * strides.row


@gluon.jit
def producer(
    inputs, shared, k_strides, v_strides, sizes,
    M: gl.constexpr, N: gl.constexpr, D: gl.constexpr, T: gl.constexpr,
    CAUSAL: gl.constexpr, POOLED: gl.constexpr, MEANS: gl.constexpr,
):  # fmt: skip
    """One warpgroup: find out which rows make up the tiles of a query block, have them copied, go on to the next one.

    Query blocks: the first is the program's number, the others come from a counter in global memory, ``turns[0]``, so
    that a program which is done early takes more. The number is asked for one query block ahead. ``turns[1]`` counts
    the programs that are done; the last one sets both to zero for the next launch.

    For each query block, in this order, parts numbered as below:
    1. Its place, its counts (int32 [5]) and the start of its list (int16), from which follow its tiles.
    2. Its ticket, int32 [FIELDS], and its queries, two boxes of [M / 2, D], under one barrier: a consumer that passes
       it may read both. They wait until the outputs of the query block before the last have left their place.
    3. Full tiles of level 1: T / N whole blocks [N, D] each.
    4. Full tiles of levels 2, 4, 8: pooled rows [T, D], looked up a row a thread.
    5. Masked tiles: the rows left over of each level as one run, then the tail's. Positions, int32 [T], tell the
       consumers which rows of queries see each. Without pooled levels these are whole blocks, too.
    6. Masked tiles of means: all blocks before the tail, of which the listed ones are masked.

    A tile's keys and values go to rings of their own, as a consumer needs keys one tile earlier; each copy first waits
    until both consumers have given up the tile that lay there. Positions travel under the barriers of the keys.
    """
    LOG2_N: gl.constexpr = 5 if N == 32 else 6 if N == 64 else 7
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])  # 16 bytes a thread
    o_d = gl.arange(0, D, gl.SliceLayout(0, layout))[None, :]
    o_t = gl.arange(0, T, LINE)  # one thread looks up one row, for keys and values
    done = 0  # tiles of earlier query blocks
    turn = 0
    i_place = gl.program_id(0)
    while i_place < sizes.n_places:
        # 1. The query block.
        i_next = gl.num_programs(0) + gl.atomic_add(inputs.turns, 1)
        i_i, i_kv, i_g = block_at(i_place, sizes.n_places, sizes.n_first, sizes.n_i, sizes.group)
        i_b = i_kv // sizes.hkv
        o_q, o_k, lq, lk = sample_span(inputs.kv_start, i_b, sizes.lq, sizes.lk, CAUSAL)
        n_list, n_valid = row_span(i_i, lq, lk, M, N, CAUSAL)
        i_row = (i_kv * sizes.group + i_g) * sizes.n_i + i_i
        p_count = inputs.counts + i_row * 5
        p_list = inputs.lists + i_row * sizes.n_j
        next_rows = first_rows_of(p_list, o_k, 0, sizes.n_j, N, T)  # on their way while the counts are
        plan = schedule_of(p_count, n_list, n_valid, lk, N, T)
        n_all = plan.n_tiles
        if MEANS:
            n_all += (n_list + T - 1) // T

        # 2. Its ticket and its queries.
        slot = turn & 1
        b_32, h_32 = i_b.to(gl.int32), (i_kv % sizes.hkv).to(gl.int32)
        ticket = ticket_of(
            b_32, h_32 * sizes.group + i_g, o_q + i_i * M, i_i * M + lk - lq, o_q, plan, n_all, done
        )  # fmt: skip
        _write(shared, slot, turn, ticket)
        full = at(shared.full, slot)
        mbarrier.expect(full, M * D * 2)
        for half in gl.static_range(2):
            first = o_q + i_i * M + half * (M // 2)
            corner = [b_32, h_32 * sizes.group + i_g, 0, first, 0]
            q_s = whole(shared.queries, slot * 2 + half)
            tma.async_copy_global_to_shared(inputs.q_desc, corner, full, q_s)
        if POOLED:  # where parts 4 and 5 read
            p_k = _first_row(inputs.k, k_strides, i_b, i_kv % sizes.hkv, o_k)
            p_v = _first_row(inputs.v, v_strides, i_b, i_kv % sizes.hkv, o_k)
            p_pk = inputs.pooled_k + pooled_head(i_kv, sizes.n_full, N, D)
            p_pv = inputs.pooled_v + pooled_head(i_kv, sizes.n_full, N, D)

        # 3. Full tiles of level 1; the list is read one tile ahead.
        for t in range(0, plan.full1):
            first_rows = next_rows
            next_rows = first_rows_of(p_list, o_k, t + 1, sizes.n_j, N, T)
            copy_blocks(shared.k, inputs.k_desc, b_32, h_32, first_rows, done + t, N)
            copy_blocks(shared.v, inputs.v_desc, b_32, h_32, first_rows, done + t, N)

        # 4. Full tiles of levels 2, 4, 8.
        if POOLED:
            for t in range(plan.full1, plan.plain):
                shared.rows.store(pooled_rows_of(p_list, t, o_t, plan, sizes.n_full, N, LOG2_N, T))
                copy_pooled(shared.k, p_pk, shared.rows, o_d, layout, done + t, D)
                copy_pooled(shared.v, p_pv, shared.rows, o_d, layout, done + t, D)

        # 5. What is left over, level by level, then the tail.
        for t in range(plan.plain, plan.n_tiles):
            o_x = (t - plan.plain) * T + o_t
            m_list = o_x < plan.rest
            i_c = n_list * N + o_x - plan.rest  # key position of a tail row
            m_tail = (o_x >= plan.rest) & (o_x < plan.rest + plan.tail)
            m_kept = m_tail & (((plan.kept >> ((i_c // N - n_list) & 31)) & 1) == 1)
            position = gl.where(m_kept, i_c if CAUSAL else 0, NEVER)
            st = place_in(shared.k, done + t)
            if POOLED:
                rank, rows = left_over_rows(p_list, o_x, m_list, plan, sizes.n_full, N, LOG2_N, T)
                code = gl.where(m_list, gl.where(rank > 0, -1 - rows, rows), gl.where(m_tail, i_c, NEVER))
                shared.rows.store(code)
                wait_empty(shared.k, st, done + t)
                shared.positions.index(st).store(gl.where(m_list, -1 - rank, position))
                copy_rows(shared.k, st, p_k, p_pk, shared.rows, k_strides.row, o_d, layout, D)
                st = place_in(shared.v, done + t)
                wait_empty(shared.v, st, done + t)
                copy_rows(shared.v, st, p_v, p_pv, shared.rows, v_strides.row, o_d, layout, D)
            else:  # whole blocks, too, but for the end of the keys
                first_rows = ()
                for b in gl.static_range(T // N):
                    i_tail = (t - plan.plain) * (T // N) + b - plan.rest // N
                    row = gl.where(i_tail * N < plan.tail, (n_list + i_tail) * N + o_k, sizes.lk)
                    first_rows = first_rows + (gl.where(i_tail < 0, next_rows[b], row),)
                wait_empty(shared.k, st, done + t)
                shared.positions.index(st).store(gl.where(m_list, -1, position))
                copy_blocks(shared.k, inputs.k_desc, b_32, h_32, first_rows, done + t, N)
                copy_blocks(shared.v, inputs.v_desc, b_32, h_32, first_rows, done + t, N)

        # 6. Means.
        if MEANS:
            for m in range(0, (n_list + T - 1) // T):
                t = plan.n_tiles + m
                o_j = m * T + o_t
                level = gl.load(inputs.levels + (i_row * sizes.n_j + o_j), mask=o_j < n_list, other=1)  # int8 [T]
                st = place_in(shared.k, done + t)
                wait_empty(shared.k, st, done + t)
                shared.positions.index(st).store(gl.where(level == 0, -1 - LOG2_N, NEVER))
                copy_means(shared.k, inputs.mean_k_desc, b_32, h_32, m * T, done + t)
                copy_means(shared.v, inputs.mean_v_desc, b_32, h_32, m * T, done + t)
        done += n_all
        turn += 1
        i_place = i_next

    # The last ticket, which says that there is no more; then the counters.
    slot = turn & 1
    _write(shared, slot, turn, gl.where(gl.arange(0, FIELDS, LINE) == N_TILES, -1, 0))
    mbarrier.arrive(at(shared.full, slot), count=1)
    if gl.atomic_add(inputs.turns + 1, 1) == gl.num_programs(0) - 1:
        gl.store(inputs.turns, 0)
        gl.store(inputs.turns + 1, 0)
    async_copy.wait_group(0)
