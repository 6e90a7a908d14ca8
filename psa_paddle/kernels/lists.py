"""The lists that step 4 walks: each row's kept blocks, level by level, compacted from their levels without a sort."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .. import bridge
from ..bridge import Tensor
from ..geometry import ceil_div
from ..plan import Plan
from . import tuning
from .common import check_buffer, next_power_of_2, row_span, sample_span

MAX_BLOCKS = 32767  # a block number is an int16, and packed counts have 16 bits a level
COUNTS = 5  # levels 1, 2, 4, 8, and the bits of the kept tail blocks


class Selection(NamedTuple):
    """lists: int16 [B, H, nI, nJ], each row the kept blocks before the tail, level 1, 2, 4, 8, ascending in a level.
    counts: int32 [B, H, nI, 5]: how many of level 1, 2, 4, 8; bit t of the fifth: tail block t is kept.
    work: float32 [B, H, nI], sum of 1 / level over the row's kept blocks, the tail included; with block means 1 / N
    for each block that is not kept before the tail.
    turns: int32 [2], zeros but during a launch of the attention, which counts there; so one launch at a time.
    levels: int8 [B, H, nI, nJ] or None. importance: float32 [B, H, nI, nJ] or None."""

    lists: Tensor
    counts: Tensor
    work: Tensor
    turns: Tensor
    levels: Tensor | None
    importance: Tensor | None


@triton.jit
def _pair_places(b_level, m_list, LOW: tl.constexpr, HIGH: tl.constexpr):
    """Each block's place among those of its level, from 1, of two levels in one scan; and how many each has."""
    b_one = tl.where(m_list & (b_level == LOW), 1, 0) + tl.where(m_list & (b_level == HIGH), 0x10000, 0)
    b_cum = tl.cumsum(b_one, 0)
    total = tl.sum(b_one, 0)
    return tl.where(b_level == LOW, b_cum & 0xFFFF, b_cum >> 16), total & 0xFFFF, total >> 16


@triton.jit
def store_lists(
    b_level, i_j, n_list, i_row, n_j, lists, counts, work, KEPT: tl.constexpr, N: tl.constexpr, MEANS: tl.constexpr
):
    """Compact one row's levels [NJ] (0 where invalid; else of KEPT, ascending) into its lists. MEANS: skipped blocks of
    N keys take part by their means."""
    m_list = (i_j < n_list) & (b_level > 0)
    b_place, n_low, n_high = _pair_places(b_level, m_list, KEPT[0], KEPT[1])
    n_kept = (n_low, n_high)
    b_place += tl.where(b_level > KEPT[0], n_low, 0)
    if len(KEPT) > 2:
        b_next, n_low, n_high = _pair_places(b_level, m_list, KEPT[2], KEPT[3])
        b_next += n_kept[0] + n_kept[1] + tl.where(b_level > KEPT[2], n_low, 0)
        b_place = tl.where(b_level > KEPT[1], b_next, b_place)
        n_kept = (n_kept[0], n_kept[1], n_low, n_high)  # type: ignore[assignment]  # Triton takes one of the branches
    tl.store(lists + i_row * n_j + b_place - 1, i_j.to(tl.int16), mask=m_list)
    m_tail = (i_j >= n_list) & (b_level > 0)
    b_bit = tl.where(m_tail, tl.full(b_level.shape, 1, tl.int32) << ((i_j - n_list) & 31), 0)
    done = tl.sum(m_tail.to(tl.int32), 0).to(tl.float32)
    n_left = n_list
    p_counts = counts + i_row * 5
    for slot in tl.static_range(4):
        count = 0
        for c in tl.static_range(len(KEPT)):
            if KEPT[c] == 1 << slot:
                count = n_kept[c]
        tl.store(p_counts + slot, count)
        done += count / (1 << slot)
        n_left -= count
    tl.store(p_counts + 4, tl.sum(b_bit, 0))
    if MEANS:
        done += n_left / N
    tl.store(work + i_row, done)


@triton.jit
def clear(turns, i_row):
    """Let the launch's first program write the zeros of ``Selection.turns``."""
    if i_row == 0:
        tl.store(turns + tl.arange(0, 2), tl.zeros([2], tl.int32))


@triton.jit
def _lists_kernel(
    levels, kv_start, lists, counts, work, turns, lq, lk, n_i, n_j, heads,
    M: tl.constexpr, N: tl.constexpr, CAUSAL: tl.constexpr, NJ: tl.constexpr, MEANS: tl.constexpr,
):  # fmt: skip
    i_i, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_row = i_bh * n_i + i_i
    _, _, lq, lk = sample_span(kv_start, i_bh // heads, lq, lk, CAUSAL)
    n_list, n_valid = row_span(i_i, lq, lk, M, N, CAUSAL)
    i_j = tl.arange(0, NJ)
    b_level = tl.load(levels + i_row * n_j + i_j, mask=i_j < n_valid, other=0).to(tl.int32)
    clear(turns, i_row)
    store_lists(b_level, i_j, n_list, i_row, n_j, lists, counts, work, (1, 2, 4, 8), N, MEANS)


def empty_selection(like, shape, levels, importance) -> Selection:
    """A ``Selection`` to be filled by a launch on ``like``'s device; shape: [B, H, nI, nJ].

    Raises:
        ValueError: more key blocks than a list can number.
    """
    if shape[3] > MAX_BLOCKS:
        raise ValueError(f"Lists can number {MAX_BLOCKS} key blocks, got {shape[3]}; use a larger key_block.")
    lists = bridge.empty(shape, "int16", like)
    counts = bridge.empty((*shape[:3], COUNTS), "int32", like)
    work, turns = bridge.empty(shape[:3], "float32", like), bridge.empty((2,), "int32", like)
    return Selection(lists, counts, work, turns, levels, importance)


def lists_from_levels(levels, plan: Plan, lq: int, lk: int, *, kv_start=None) -> Selection:
    """The lists of a given map: int8 [B, H, nI, nJ] of 0, 1, 2, 4, 8. Tail blocks count as kept (level 1) or not.

    Args:
        plan: its blocks, causality and block means.
        lq, lk: queries and keys, in tokens.
        kv_start: int32 [B], first key of each sample, or None.

    Returns:
        ``Selection`` with ``levels`` itself. Pooled levels of a ragged or crossing block are not supported.

    Raises:
        ValueError: another dtype or shape.
    """
    n_i, n_j = ceil_div(lq, plan.query_block), ceil_div(lk, plan.key_block)
    check_buffer("levels", levels, "int8", [*(levels.shape[:2] if len(levels.shape) == 4 else "BH"), n_i, n_j], levels)
    b, h = levels.shape[:2]
    if kv_start is not None:
        check_buffer("kv_start", kv_start, "int32", [b], levels)
    width = max(16, next_power_of_2(n_j))
    found = empty_selection(levels, (b, h, n_i, n_j), levels, None)
    bridge.launch(
        _lists_kernel, (n_i, b * h), like=levels,
        levels=levels, kv_start=kv_start, lists=found.lists, counts=found.counts, work=found.work, turns=found.turns,
        lq=lq, lk=lk, n_i=n_i, n_j=n_j, heads=h, M=plan.query_block, N=plan.key_block, CAUSAL=plan.causal, NJ=width,
        MEANS=plan.block_means,
        num_warps=tuning.warps(width, tuning.SELECT_BLOCKS_PER_WARP),
    )  # fmt: skip
    return found
