"""What the halves of attend_hopper.py share: barriers, tickets, and shared memory as the copy engine takes it."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

# A ticket is what the consumers must know of a query block: its sample and head, its first row in q and the position of
# that row among the sample's keys, the rows of padding before it; the tiles at which levels 2, 4, 8 and what needs a
# mask begin, all tiles (-1: no query block is left), and the tiles of the query blocks before.
SAMPLE, HEAD, FIRST_ROW, POSITION, PADDING = (gl.constexpr(i) for i in range(5))
LEVEL2, LEVEL4, LEVEL8, MASKED, N_TILES, DONE = (gl.constexpr(i) for i in range(5, 11))
FIELDS = gl.constexpr(16)


@gluon.jit
def idle():
    """The warps that hand out the roles take none: had they met at a barrier of their own before the end,
    compute-sanitizer's racecheck would report a race on the roles (benchmarks/racecheck_roles.cu)."""


@gluon.jit
def barriers(N: gl.constexpr, COUNT: gl.constexpr):
    """N barriers for COUNT arrivals; apart, since Triton synchronises warps between two that share an allocation."""
    bars = ()
    for _ in gl.static_range(N):
        bar = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
        mbarrier.init(bar, count=COUNT)
        bars = bars + (bar,)
    return bars


@gluon.jit
def at(bars, i):
    """bars[i]"""
    bar = bars[0]
    for s in gl.static_range(1, len(bars)):
        if i == s:
            bar = bars[s]
    return bar


@gluon.jit
def read(ticket_s, slot, FIELD: gl.constexpr):
    """A field of the ticket in ``slot``, as a scalar."""
    return gl.max(ticket_s.index(slot).slice(FIELD, 1).load(gl.BlockedLayout([1], [32], [4], [0])), 0)


@gluon.jit
def whole(x_s, slot):
    """x_s[slot], [R, D], as the tensor memory accelerator takes it: 64 columns at a time, as the 128-byte swizzle
    keeps it."""
    R: gl.constexpr = x_s.shape[1]
    COLUMNS: gl.constexpr = x_s.shape[2] // 64
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    boxes = x_s._reinterpret(x_s.dtype, [x_s.shape[0], COLUMNS * R, 64], layout)
    return boxes.index(slot).reshape((1, 1, COLUMNS, R, 64))
