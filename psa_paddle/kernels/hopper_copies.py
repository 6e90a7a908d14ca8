"""How a tile gets into its place of a ring, for the producer of attend_hopper.py; all 128 threads call these.

A barrier counts 128 arrivals: of the threads themselves, at once, with the bytes that the tensor memory accelerator is
to bring; or by each thread's own copies when they have landed.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from .hopper_shared import at, place_in, wait_empty, whole
from .hopper_tiles import NEVER

CHUNK = gl.constexpr(32)  # rows at a time, so that their addresses fit the producer's registers


@gluon.jit
def _part(x_s, st, b, c, R: gl.constexpr):
    """Rows from b * R and columns from c * 64 of x_s[st], R rows and 64 columns."""
    PARTS: gl.constexpr = x_s.shape[1] // R
    COLUMNS: gl.constexpr = x_s.shape[2] // 64
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    boxes = x_s._reinterpret(x_s.dtype, [x_s.shape[0] * COLUMNS * PARTS, R, 64], layout)
    return boxes.index((st * COLUMNS + c) * PARTS + b).reshape((1, 1, 1, R, 64))


@gluon.jit
def _expect_tile(ring, i_tile):
    """The place and the barrier of the program's tile ``i_tile``, once the place is free; the barrier counts the
    threads and the bytes that are to come."""
    st = place_in(ring, i_tile)
    wait_empty(ring, st, i_tile)
    bar = at(ring.full, st)
    mbarrier.expect(bar, ring.tiles.shape[1] * ring.tiles.shape[2] * 2)
    mbarrier.arrive(bar, count=127)
    return st, bar


@gluon.jit
def copy_blocks(ring, desc, i_b, i_h, first_rows, i_tile, N: gl.constexpr):
    """Have a tile of whole blocks of N rows copied, in boxes of [N, 64]."""
    st, bar = _expect_tile(ring, i_tile)
    for b in gl.static_range(ring.tiles.shape[1] // N):
        for c in gl.static_range(ring.tiles.shape[2] // 64):
            box = _part(ring.tiles, st, b, c, N)
            tma.async_copy_global_to_shared(desc, [i_b, i_h, c, first_rows[b], 0], bar, box)


@gluon.jit
def copy_means(ring, desc, i_b, i_h, first, i_tile):
    """Have a tile of means copied, in one box of [T, D], from block ``first`` on (zeros past the end)."""
    st, bar = _expect_tile(ring, i_tile)
    tma.async_copy_global_to_shared(desc, [i_b, i_h, 0, first, 0], bar, whole(ring.tiles, st))


@gluon.jit
def copy_pooled(ring, p_x, row_s, o_d, layout: gl.constexpr, i_tile, D: gl.constexpr):
    """Copy the pooled rows ``row_s``, int32 [T], 16 bytes a thread at a time."""
    st = place_in(ring, i_tile)
    wait_empty(ring, st, i_tile)
    for c in gl.static_range(ring.tiles.shape[1] // CHUNK):
        rows = row_s.slice(c * CHUNK, CHUNK).load(gl.SliceLayout(1, layout))
        async_copy.async_copy_global_to_shared(
            ring.tiles.index(st).slice(c * CHUNK, CHUNK), p_x + ((rows.to(gl.int64) * D)[:, None] + o_d)
        )
    async_copy.mbarrier_arrive(at(ring.full, st), increment_count=False)


@gluon.jit
def copy_rows(ring, st, p_x, p_pooled, row_s, stride, o_d, layout: gl.constexpr, D: gl.constexpr):
    """Copy rows into place ``st``, which is free: row r of the tensor, row -1 - r of the pooled buffer, or zeros for
    NEVER, as ``row_s``, int32 [T], says."""
    x_s = ring.tiles.index(st)
    for c in gl.static_range(x_s.shape[0] // CHUNK):
        code = row_s.slice(c * CHUNK, CHUNK).load(gl.SliceLayout(1, layout))
        m_c = code != NEVER
        p = p_x + gl.where(m_c, code, 0).to(gl.int64) * stride
        p = gl.where(code < 0, p_pooled + (-1 - code).to(gl.int64) * D, p)
        async_copy.async_copy_global_to_shared(x_s.slice(c * CHUNK, CHUNK), p[:, None] + o_d, mask=m_c[:, None])
    async_copy.mbarrier_arrive(at(ring.full, st), increment_count=False)
