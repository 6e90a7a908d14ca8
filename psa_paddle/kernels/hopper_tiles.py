"""Which rows make up each tile of a query block, for the producer of attend_hopper.py."""

from __future__ import annotations

from typing import NamedTuple

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .hopper_shared import (
    DONE,
    FIELDS,
    FIRST_ROW,
    HEAD,
    LEVEL2,
    LEVEL4,
    LEVEL8,
    LINE,
    MASKED,
    N_TILES,
    PADDING,
    POSITION,
    SAMPLE,
)
from .pooled import level_start

# What the consumers must know of a column of a masked tile, int32: the position of its key, which rows from there on
# see; or -1 - log2 of the tokens that it stands for, where every row sees it; or NEVER, where none does.
NEVER = gl.constexpr(0x7FFFFFFF)


class Schedule(NamedTuple):
    """The tiles of a query block, of T rows each: ``plain`` tiles of one level each, then tiles of rows left over."""

    n1: gl.tensor  # blocks of level 1, 2, 4
    n2: gl.tensor
    n4: gl.tensor
    full1: gl.tensor  # full tiles of each level
    full2: gl.tensor
    full4: gl.tensor
    full8: gl.tensor
    rest1: gl.tensor  # rows of each level that fill no tile
    rest2: gl.tensor
    rest4: gl.tensor
    tail: gl.tensor  # rows of the tail, the blocks from ``n_list`` on
    kept: gl.tensor  # bit t: block t of the tail is kept
    plain: gl.tensor  # all full tiles
    rest: gl.tensor  # all rows left over
    n_tiles: gl.tensor  # tiles but for those of means


@gluon.jit
def schedule_of(p_count, n_list, n_valid, lk, N: gl.constexpr, T: gl.constexpr):
    """The ``Schedule`` of the row whose counts, int32 [5], are at ``p_count``."""
    n1 = gl.load(p_count)
    n2 = gl.load(p_count + 1)
    n4 = gl.load(p_count + 2)
    n8 = gl.load(p_count + 3)
    full1 = n1 * N // T
    full2 = n2 * (N // 2) // T
    full4 = n4 * (N // 4) // T
    full8 = n8 * (N // 8) // T
    rest1 = n1 * N - full1 * T
    rest2 = n2 * (N // 2) - full2 * T
    rest4 = n4 * (N // 4) - full4 * T
    rest8 = n8 * (N // 8) - full8 * T
    tail = gl.maximum(gl.minimum(n_valid * N, lk) - n_list * N, 0)
    kept = gl.load(p_count + 4)
    plain = full1 + full2 + full4 + full8
    rest = rest1 + rest2 + rest4 + rest8
    n_tiles = plain + (rest + tail + T - 1) // T
    return Schedule(
        n1=n1, n2=n2, n4=n4, full1=full1, full2=full2, full4=full4, full8=full8, rest1=rest1, rest2=rest2, rest4=rest4,
        tail=tail, kept=kept, plain=plain, rest=rest, n_tiles=n_tiles,
    )  # fmt: skip


@gluon.jit
def ticket_of(sample, head, first_row, position, padding, plan, n_all, done):
    """The ticket, int32 [FIELDS], see ``hopper_shared``."""
    o_f = gl.arange(0, FIELDS, LINE)
    b_f = gl.zeros([FIELDS], gl.int32, LINE)
    b_f = gl.where(o_f == SAMPLE, sample, b_f)
    b_f = gl.where(o_f == HEAD, head, b_f)
    b_f = gl.where(o_f == FIRST_ROW, first_row, b_f)
    b_f = gl.where(o_f == POSITION, position, b_f)
    b_f = gl.where(o_f == PADDING, padding, b_f)
    b_f = gl.where(o_f == LEVEL2, plan.full1, b_f)
    b_f = gl.where(o_f == LEVEL4, plan.full1 + plan.full2, b_f)
    b_f = gl.where(o_f == LEVEL8, plan.full1 + plan.full2 + plan.full4, b_f)
    b_f = gl.where(o_f == MASKED, plan.plain, b_f)
    b_f = gl.where(o_f == N_TILES, n_all, b_f)
    return gl.where(o_f == DONE, done, b_f)


@gluon.jit
def first_rows_of(p_list, o_k, t, n_j, N: gl.constexpr, T: gl.constexpr):
    """First row of each of the T / N blocks of tile ``t`` of level 1; past the end of the list, of some other block."""
    rows = ()
    for b in gl.static_range(T // N):
        first = gl.load(p_list + gl.minimum(t * (T // N) + b, n_j - 1)).to(gl.int32) * N
        rows = rows + (first + o_k,)  # type: ignore[assignment]  # grows while Triton unrolls the loop
    return rows


@gluon.jit
def pooled_rows_of(p_list, t, o_t, plan, n_full, N: gl.constexpr, LOG2_N: gl.constexpr, T: gl.constexpr):
    """Rows of the pooled buffer, int32 [T], that make up tile ``t``, a full one of level 2, 4 or 8."""
    past2 = (t >= plan.full1 + plan.full2).to(gl.int32)
    past4 = (t >= plan.full1 + plan.full2 + plan.full4).to(gl.int32)
    o_r = (t - plan.full1 - past2 * plan.full2 - past4 * plan.full4) * T + o_t
    bits = LOG2_N - 1 - past2 - past4  # log2 of the rows of a block
    i_j = gl.load(p_list + plan.n1 + past2 * plan.n2 + past4 * plan.n4 + (o_r >> bits)).to(gl.int32)
    base = n_full * level_start(past2, past4, 1) * (N // 4)
    return base + (i_j << bits) + (o_r & ((1 << bits) - 1))


@gluon.jit
def left_over_rows(p_list, o_x, m_list, plan, n_full, N: gl.constexpr, LOG2_N: gl.constexpr, T: gl.constexpr):
    """``(rank, row)``, int32 [T], of places in the run of what is left over of levels 1, 2, 4, 8 (rank 0, 1, 2, 3); a
    pooled row counts from the start of the pooled buffer."""
    past1 = (o_x >= plan.rest1).to(gl.int32)
    past2 = (o_x >= plan.rest1 + plan.rest2).to(gl.int32)
    past4 = (o_x >= plan.rest1 + plan.rest2 + plan.rest4).to(gl.int32)
    rank = past1 + past2 + past4
    bits = LOG2_N - rank
    o_r = o_x + plan.full1 * T
    o_r += past1 * ((plan.full2 - plan.full1) * T - plan.rest1)
    o_r += past2 * ((plan.full4 - plan.full2) * T - plan.rest2)
    o_r += past4 * ((plan.full8 - plan.full4) * T - plan.rest4)
    o_list = past1 * plan.n1 + past2 * plan.n2 + past4 * plan.n4 + (o_r >> bits)
    i_j = gl.load(p_list + o_list, mask=m_list, other=0).to(gl.int32)
    base = n_full * level_start(past2, past4, 1) * (N // 4)
    return rank, base + (i_j << bits) + (o_r & ((1 << bits) - 1))
