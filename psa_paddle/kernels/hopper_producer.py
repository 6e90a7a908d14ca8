"""The loading half of attend_hopper.py: which rows make up each tile, and their copies into shared memory."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from .common import place_of, row_span, sample_span
from .hopper_shared import FIELDS, at, whole

NEVER = gl.constexpr(0x7FFFFFFF)  # position of a column that no row sees


@gluon.jit
def _write(ticket_s, empty_t, turn, fields):
    """Write down what comes next, once the ticket before the last one is done with."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    slot = turn & 1
    o_f = gl.arange(0, FIELDS, layout)
    b_f = gl.zeros([FIELDS], gl.int32, layout)
    for i in gl.static_range(len(fields)):
        b_f = gl.where(o_f == i, fields[i], b_f)
    mbarrier.wait(at(empty_t, slot), (turn >> 1) & 1 ^ 1)
    ticket_s.index(slot).store(b_f)
    gl.thread_barrier()  # before one thread announces what all have written


@gluon.jit
def _schedule(p_count, n_list, n_valid, lk, N: gl.constexpr, T: gl.constexpr):
    """Blocks of each level, full tiles of each level, rows left over of each level, rows of the tail."""
    n1 = gl.load(p_count)
    n2 = gl.load(p_count + 1)
    n4 = gl.load(p_count + 2)
    n8 = gl.load(p_count + 3)
    f1 = n1 * N // T
    f2 = n2 * (N // 2) // T
    f4 = n4 * (N // 4) // T
    f8 = n8 * (N // 8) // T
    r1 = n1 * N - f1 * T
    r2 = n2 * (N // 2) - f2 * T
    r4 = n4 * (N // 4) - f4 * T
    r8 = n8 * (N // 8) - f8 * T
    tail = gl.maximum(gl.minimum(n_valid * N, lk) - n_list * N, 0)
    return n1, n2, n4, f1, f2, f4, f8, r1, r2, r4, r8, tail


@gluon.jit
def _first_rows(p_list, o_k, t, n_j, N: gl.constexpr, T: gl.constexpr):
    """First row of each block of tile ``t`` of level 1; past the end of the list, of some other block."""
    rows = ()
    for b in gl.static_range(T // N):
        rows = rows + (gl.load(p_list + gl.minimum(t * (T // N) + b, n_j - 1)).to(gl.int32) * N + o_k,)
    return rows


@gluon.jit
def _left_over_rows(p_list, o_x, m_list, full, counts, rest, n_full, LOG2_N: gl.constexpr, T: gl.constexpr):
    """``(rank, row)`` of places in the run of what is left over of levels 1, 2, 4, 8 (rank 0, 1, 2, 3); a pooled row
    counts from the start of the pooled buffer."""
    f1, f2, f4, f8 = full
    n1, n2, n4 = counts
    r1, r2, r4 = rest
    past1 = (o_x >= r1).to(gl.int32)
    past2 = (o_x >= r1 + r2).to(gl.int32)
    past4 = (o_x >= r1 + r2 + r4).to(gl.int32)
    rank = past1 + past2 + past4
    bits = LOG2_N - rank
    o_r = o_x + f1 * T + past1 * ((f2 - f1) * T - r1) + past2 * ((f4 - f2) * T - r2) + past4 * ((f8 - f4) * T - r4)
    o_list = past1 * n1 + past2 * n2 + past4 * n4 + (o_r >> bits)
    i_j = gl.load(p_list + o_list, mask=m_list, other=0).to(gl.int32)
    base = (n_full * (2 * past2 + past4)) << (LOG2_N - 2)
    return rank, base + (i_j << bits) + (o_r & ((1 << bits) - 1))


@gluon.jit
def _part(x_s, st, b, c, R: gl.constexpr):
    """Rows from b * R and columns from c * 64 of x_s[st], R rows and 64 columns."""
    PARTS: gl.constexpr = x_s.shape[1] // R
    COLUMNS: gl.constexpr = x_s.shape[2] // 64
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    boxes = x_s._reinterpret(x_s.dtype, [x_s.shape[0] * COLUMNS * PARTS, R, 64], layout)
    return boxes.index((st * COLUMNS + c) * PARTS + b).reshape((1, 1, 1, R, 64))


@gluon.jit
def _expect_tile(x_s, full, empty, i_tile):
    """The place and the barrier of the program's tile ``i_tile``, once the place is free; the barrier counts the
    threads and the bytes that are to come."""
    STAGES: gl.constexpr = x_s.shape[0]
    st = i_tile % STAGES
    mbarrier.wait(at(empty, st), (i_tile // STAGES) & 1 ^ 1)
    bar = at(full, st)
    mbarrier.expect(bar, x_s.shape[1] * x_s.shape[2] * 2)
    mbarrier.arrive(bar, count=127)
    return st, bar


@gluon.jit
def _copy_blocks(x_s, full, empty, desc, i_b, i_h, first_rows, i_tile, N: gl.constexpr):
    """Have a tile of whole blocks copied."""
    st, bar = _expect_tile(x_s, full, empty, i_tile)
    for b in gl.static_range(x_s.shape[1] // N):
        for c in gl.static_range(x_s.shape[2] // 64):
            tma.async_copy_global_to_shared(desc, [i_b, i_h, c, first_rows[b], 0], bar, _part(x_s, st, b, c, N))


@gluon.jit
def _copy_means(x_s, full, empty, desc, i_b, i_h, first, i_tile):
    """Have a tile of means copied, from block ``first`` on (zeros past the end)."""
    st, bar = _expect_tile(x_s, full, empty, i_tile)
    tma.async_copy_global_to_shared(desc, [i_b, i_h, 0, first, 0], bar, whole(x_s, st))


@gluon.jit
def _copy_pooled(
    x_s, full, empty, p_x, row_s, o_d, layout: gl.constexpr, i_tile, D: gl.constexpr, T: gl.constexpr, C: gl.constexpr
):  # fmt: skip
    """Copy a tile of pooled rows, 16 bytes a thread at a time; ``full`` counts each thread's copies when done."""
    STAGES: gl.constexpr = x_s.shape[0]
    st = i_tile % STAGES
    mbarrier.wait(at(empty, st), (i_tile // STAGES) & 1 ^ 1)
    for c in gl.static_range(T // C):
        rows = row_s.slice(c * C, C).load(gl.SliceLayout(1, layout))
        async_copy.async_copy_global_to_shared(
            x_s.index(st).slice(c * C, C), p_x + ((rows.to(gl.int64) * D)[:, None] + o_d)
        )
    async_copy.mbarrier_arrive(at(full, st), increment_count=False)


@gluon.jit
def _copy_rows(
    x_s, row_s, p_x, p_pooled, stride, o_d, layout: gl.constexpr, D: gl.constexpr, T: gl.constexpr, C: gl.constexpr,
):  # fmt: skip
    """Copy a tile row by row: row r of the tensor, row -1 - r of the pooled buffer, or zeros for NEVER."""
    for c in gl.static_range(T // C):
        code = row_s.slice(c * C, C).load(gl.SliceLayout(1, layout))
        m_c = code != NEVER
        p = p_x + gl.where(m_c, code, 0).to(gl.int64) * stride
        p = gl.where(code < 0, p_pooled + (-1 - code).to(gl.int64) * D, p)
        async_copy.async_copy_global_to_shared(x_s.slice(c * C, C), p[:, None] + o_d, mask=m_c[:, None])


@gluon.jit
def producer(
    q_desc, k_desc, v_desc, mean_k_desc, mean_v_desc, k, v, pooled_k, pooled_v, lists, counts, levels, kv_start,
    turns, shared, numbers,
    M: gl.constexpr, N: gl.constexpr, D: gl.constexpr, T: gl.constexpr, CAUSAL: gl.constexpr, POOLED: gl.constexpr,
):  # fmt: skip
    q_s, k_s, v_s, place_s, row_s, ticket_s, full_k, full_v, empty_k, empty_v, full_t, empty_t = shared
    stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl, lq_all, lk_all = numbers[:8]
    n_i, n_first, n_j, n_full, hkv, group, n_rows = numbers[8:]
    STAGES_K: gl.constexpr = k_s.shape[0]
    STAGES_V: gl.constexpr = v_s.shape[0]
    LOG2_N: gl.constexpr = 5 if N == 32 else 6 if N == 64 else 7
    C: gl.constexpr = 32  # rows at a time, so that their addresses fit the producer's registers
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    o_d = gl.arange(0, D, gl.SliceLayout(0, layout))[None, :]
    o_t = gl.arange(0, T, gl.BlockedLayout([1], [32], [4], [0]))  # one thread looks up one row, for keys and values
    done = 0  # tiles of earlier rows
    turn = 0
    i_place = gl.program_id(0)
    while i_place < n_rows:
        i_next = gl.num_programs(0) + gl.atomic_add(turns, 1)
        i_i, i_kv, i_g = place_of(i_place, n_rows, n_first, n_i, group)
        i_b = i_kv // hkv
        o_q, o_k, lq, lk = sample_span(kv_start, i_b, lq_all, lk_all, CAUSAL)
        n_list, n_valid = row_span(i_i, lq, lk, M, N, CAUSAL)
        i_row = (i_kv * group + i_g) * n_i + i_i
        p_count = counts + i_row * 5
        p_list = lists + i_row * n_j
        next_rows = _first_rows(p_list, o_k, 0, n_j, N, T)  # on their way while the counts are
        n1, n2, n4, f1, f2, f4, f8, r1, r2, r4, r8, tail = _schedule(p_count, n_list, n_valid, lk, N, T)
        kept = gl.load(p_count + 4)
        plain = f1 + f2 + f4 + f8
        rest = r1 + r2 + r4 + r8
        n_tiles = plain + (rest + tail + T - 1) // T
        n_all = n_tiles
        if levels is not None:
            n_all += (n_list + T - 1) // T
        b_32, h_32 = i_b.to(gl.int32), (i_kv % hkv).to(gl.int32)
        ticket = (
            b_32, h_32 * group + i_g, o_q + i_i * M, i_i * M + lk - lq, o_q, f1, f1 + f2, f1 + f2 + f4, plain, n_all,
            done,
        )  # fmt: skip
        _write(ticket_s, empty_t, turn, ticket)
        full = at(full_t, turn & 1)
        mbarrier.expect(full, M * D * 2)
        for half in gl.static_range(2):
            first = o_q + i_i * M + half * (M // 2)
            corner = [b_32, h_32 * group + i_g, 0, first, 0]
            tma.async_copy_global_to_shared(q_desc, corner, full, whole(q_s, (turn & 1) * 2 + half))
        if POOLED:
            p_k = k + i_b * stride_kb + i_kv % hkv * stride_kh + o_k.to(gl.int64) * stride_kl
            p_v = v + i_b * stride_vb + i_kv % hkv * stride_vh + o_k.to(gl.int64) * stride_vl
            p_pk = pooled_k + i_kv * n_full * (N // 8 * 7) * D
            p_pv = pooled_v + i_kv * n_full * (N // 8 * 7) * D
        for t in range(0, f1):
            first_rows = next_rows
            next_rows = _first_rows(p_list, o_k, t + 1, n_j, N, T)
            _copy_blocks(k_s, full_k, empty_k, k_desc, b_32, h_32, first_rows, done + t, N)
            _copy_blocks(v_s, full_v, empty_v, v_desc, b_32, h_32, first_rows, done + t, N)
        if POOLED:
            for t in range(f1, plain):
                past2 = (t >= f1 + f2).to(gl.int32)
                past4 = (t >= f1 + f2 + f4).to(gl.int32)
                o_r = (t - f1 - past2 * f2 - past4 * f4) * T + o_t
                bits = LOG2_N - 1 - past2 - past4
                i_j = gl.load(p_list + n1 + past2 * n2 + past4 * n4 + (o_r >> bits)).to(gl.int32)
                base = (n_full * (2 * past2 + past4)) << (LOG2_N - 2)
                row_s.store(base + (i_j << bits) + (o_r & ((1 << bits) - 1)))
                _copy_pooled(k_s, full_k, empty_k, p_pk, row_s, o_d, layout, done + t, D, T, C)
                _copy_pooled(v_s, full_v, empty_v, p_pv, row_s, o_d, layout, done + t, D, T, C)
        for t in range(plain, n_tiles):  # what is left over, level by level, then the tail
            o_x = (t - plain) * T + o_t
            m_list = o_x < rest
            i_c = n_list * N + o_x - rest  # key position of a tail row
            m_tail = (o_x >= rest) & (o_x < rest + tail)
            m_kept = m_tail & (((kept >> ((i_c // N - n_list) & 31)) & 1) == 1)
            place = gl.where(m_kept, i_c if CAUSAL else 0, NEVER)
            st = (done + t) % STAGES_K
            if POOLED:
                rank, rows = _left_over_rows(
                    p_list, o_x, m_list, (f1, f2, f4, f8), (n1, n2, n4), (r1, r2, r4), n_full, LOG2_N, T
                )
                row_s.store(gl.where(m_list, gl.where(rank > 0, -1 - rows, rows), gl.where(m_tail, i_c, NEVER)))
                mbarrier.wait(at(empty_k, st), ((done + t) // STAGES_K) & 1 ^ 1)
                place_s.index(st).store(gl.where(m_list, -1 - rank, place))
                _copy_rows(k_s.index(st), row_s, p_k, p_pk, stride_kl, o_d, layout, D, T, C)
                async_copy.mbarrier_arrive(at(full_k, st), increment_count=False)
                st = (done + t) % STAGES_V
                mbarrier.wait(at(empty_v, st), ((done + t) // STAGES_V) & 1 ^ 1)
                _copy_rows(v_s.index(st), row_s, p_v, p_pv, stride_vl, o_d, layout, D, T, C)
                async_copy.mbarrier_arrive(at(full_v, st), increment_count=False)
            else:  # whole blocks, too, but for the end of the keys
                first_rows = ()
                for b in gl.static_range(T // N):
                    i_tail = (t - plain) * (T // N) + b - rest // N
                    row = gl.where(i_tail * N < tail, (n_list + i_tail) * N + o_k, lk_all)
                    first_rows = first_rows + (gl.where(i_tail < 0, next_rows[b], row),)
                mbarrier.wait(at(empty_k, st), ((done + t) // STAGES_K) & 1 ^ 1)
                place_s.index(st).store(gl.where(m_list, -1, place))
                _copy_blocks(k_s, full_k, empty_k, k_desc, b_32, h_32, first_rows, done + t, N)
                _copy_blocks(v_s, full_v, empty_v, v_desc, b_32, h_32, first_rows, done + t, N)
        if levels is not None:  # the means of the blocks before the tail, of which the kept ones are masked
            for m in range(0, (n_list + T - 1) // T):
                t = n_tiles + m
                o_j = m * T + o_t
                level = gl.load(levels + (i_row * n_j + o_j), mask=o_j < n_list, other=1)
                st = (done + t) % STAGES_K
                mbarrier.wait(at(empty_k, st), ((done + t) // STAGES_K) & 1 ^ 1)
                place_s.index(st).store(gl.where(level == 0, -1 - LOG2_N, NEVER))
                _copy_means(k_s, full_k, empty_k, mean_k_desc, b_32, h_32, m * T, done + t)
                _copy_means(v_s, full_v, empty_v, mean_v_desc, b_32, h_32, m * T, done + t)
        done += n_all
        turn += 1
        i_place = i_next
    _write(ticket_s, empty_t, turn, (0, 0, 0, 0, 0, 0, 0, 0, 0, -1))
    mbarrier.arrive(at(full_t, turn & 1), count=1)
    if gl.atomic_add(turns + 1, 1) == gl.num_programs(0) - 1:  # the last one leaves zeros for the next launch
        gl.store(turns, 0)
        gl.store(turns + 1, 0)
    async_copy.wait_group(0)
