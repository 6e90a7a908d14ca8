"""What the partitions of attend_hopper.py share: rings of tiles, tickets, barriers, and what they are told of the call.

Every hand-over has a pair of barriers: ``full``, on which the reader waits, and ``empty``, on which the writer waits
before it writes the same place again. When a place is used for the i-th time, from 0, the reader waits for phase i % 2
of ``full``, and the writer for the other phase of ``empty``: at first, that is the one before the barrier's first.
"""

from __future__ import annotations

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

# A ticket is what the consumers must know of a query block, int32: its sample and head, its first row in q and the
# position of that row among the sample's keys, the rows of padding before it; the tiles at which levels 2, 4, 8 and
# what needs a mask begin, all tiles (-1: no query block is left), and the program's tiles of the query blocks before.
SAMPLE, HEAD, FIRST_ROW, POSITION, PADDING = (gl.constexpr(i) for i in range(5))
LEVEL2, LEVEL4, LEVEL8, MASKED, N_TILES, DONE = (gl.constexpr(i) for i in range(5, 11))
FIELDS = gl.constexpr(16)

LINE = gl.constexpr(gl.BlockedLayout([1], [32], [4], [0]))  # one element a thread of a warpgroup


class Ring(NamedTuple):
    """Tiles on their way from the producer to both consumers; the program's tile i is in place i % STAGES."""

    tiles: gl.shared_memory_descriptor  # [STAGES, T, D], the inputs' dtype, 128-byte swizzle
    full: tuple  # STAGES barriers, 128 arrivals: each producer thread's, when its copies have landed
    empty: tuple  # STAGES barriers, 2 arrivals: the consumers', when their products are done


class Shared(NamedTuple):
    """The shared memory of a program. Its query block number i (its turn) uses place i % 2 of queries and tickets."""

    queries: gl.shared_memory_descriptor  # [4, M / 2, D]: two places of two halves; then the output
    k: Ring
    v: Ring
    positions: gl.shared_memory_descriptor  # int32 [STAGES, T], with the keys of a masked tile, see ``NEVER``
    rows: gl.shared_memory_descriptor  # int32 [T], the producer's own: the rows of the tile that it gathers
    tickets: gl.shared_memory_descriptor  # int32 [2, FIELDS]
    full: tuple  # 2 barriers, 1 arrival and the bytes of the queries
    empty: tuple  # 2 barriers, 2 arrivals: the consumers', when their outputs have left


class Strides(NamedTuple):
    """In elements, of a sample, a head and a row."""

    batch: gl.tensor
    head: gl.tensor
    row: gl.tensor


class Inputs(NamedTuple):
    """What the producer reads; None for what the call does not have. Shapes of descriptors: ``hopper_arguments``."""

    q_desc: gl.tensor
    k_desc: gl.tensor
    v_desc: gl.tensor
    mean_k_desc: gl.tensor
    mean_v_desc: gl.tensor
    k: gl.tensor
    v: gl.tensor
    pooled_k: gl.tensor
    pooled_v: gl.tensor
    lists: gl.tensor
    counts: gl.tensor
    levels: gl.tensor
    kv_start: gl.tensor
    turns: gl.tensor


class Sizes(NamedTuple):
    """What the producer knows of the call's shapes."""

    lq: gl.tensor  # rows of q and of k
    lk: gl.tensor
    n_i: gl.tensor  # query blocks of a head
    n_first: gl.tensor  # of which so many start first, see ``block_at``
    n_j: gl.tensor  # key blocks
    n_full: gl.tensor  # of which so many are full
    hkv: gl.tensor  # kv heads
    group: gl.tensor  # query heads of a kv head
    n_places: gl.tensor  # query blocks of all heads and samples


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
        bars = bars + (bar,)  # type: ignore[assignment]  # grows while Triton unrolls the loop
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
def place_in(ring, i_tile):
    """The place of the program's tile ``i_tile``."""
    STAGES: gl.constexpr = len(ring.full)
    return i_tile % STAGES


@gluon.jit
def wait_full(ring, st, i_tile):
    """Wait until tile ``i_tile`` is there, in place ``st``."""
    STAGES: gl.constexpr = len(ring.full)
    mbarrier.wait(at(ring.full, st), (i_tile // STAGES) & 1)


@gluon.jit
def wait_empty(ring, st, i_tile):
    """Wait until the tile before ``i_tile`` in place ``st`` is done with."""
    STAGES: gl.constexpr = len(ring.empty)
    mbarrier.wait(at(ring.empty, st), (i_tile // STAGES) & 1 ^ 1)


@gluon.jit
def read(tickets, slot, FIELD: gl.constexpr):
    """A field of the ticket in ``slot``, as a scalar."""
    return gl.max(tickets.index(slot).slice(FIELD, 1).load(LINE), 0)


@gluon.jit
def whole(x_s, slot):
    """x_s[slot], [R, D], as the tensor memory accelerator takes it: 64 columns at a time, as the 128-byte swizzle
    keeps it."""
    R: gl.constexpr = x_s.shape[1]
    COLUMNS: gl.constexpr = x_s.shape[2] // 64
    layout: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    boxes = x_s._reinterpret(x_s.dtype, [x_s.shape[0], COLUMNS * R, 64], layout)
    return boxes.index(slot).reshape((1, 1, COLUMNS, R, 64))
