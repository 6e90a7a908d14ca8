"""Step 3: importance -> level of every pair of blocks -> the lists that step 4 walks. No sort.

A row's order matters only through "how much importance comes before this block", which for a value x is the mass of the
values above x. So each interval's bound is found by bisecting the bits of the value where that mass passes the bound;
equal values are told apart by their position, as a stable descending sort does. Levels: PSA (arXiv:2512.04025), 3.3.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge
from ..geometry import ceil_div
from ..plan import Plan
from . import tuning
from .common import next_power_of_2, row_span, sample_span
from .lists import Selection, clear, empty_selection, store_lists
from .selection_inputs import Scores, check_scores


@triton.jit
def _join_groups(p_e, p_t, i_j, m_j, n_groups, n_a, n_j, TILE: tl.constexpr, NJ: tl.constexpr):
    """Sum over a query block's groups of each group's softmax over the blocks; [NJ]. TILE 0: a block's score is its
    largest logit, not a sum. The softmax's sums are float64, so that they do not depend on the width that they run
    over: rows that are computed in another call choose the same blocks."""
    b_sum = tl.zeros([NJ], tl.float32)
    for a in range(0, n_groups):
        if TILE > 0:
            b_top = tl.load(p_t + (i_j // TILE) * n_a + a, mask=m_j, other=-float("inf"))
            b_e = tl.load(p_e + a * n_j + i_j, mask=m_j, other=0.0).to(tl.float32)
            b_e *= tl.exp2(b_top - tl.max(b_top, 0))
        else:
            b_top = tl.load(p_e + a * n_j + i_j, mask=m_j, other=-float("inf")).to(tl.float32)
            b_e = tl.exp2(b_top - tl.max(b_top, 0))
        b_sum += b_e * (1.0 / tl.sum(b_e.to(tl.float64), 0).to(tl.float32))
    return b_sum


@triton.jit
def _bound_targets(total, n_valid, i_c, budgets, i_h, BOUNDS: tl.constexpr, MODE: tl.constexpr):
    """How much must come before a block to pass each bound: importance, or (by rank) a whole number of blocks; [C]."""
    if budgets is not None:
        factor = tl.load(budgets + i_h)
        if MODE == "topk_sqrt":
            factor *= factor
    b_target = tl.full(i_c.shape, float("inf"), tl.float32)
    for c in tl.static_range(len(BOUNDS)):
        if MODE == "energybound":
            target = total * BOUNDS[c]
        else:
            bound = tl.full([], BOUNDS[c], tl.float64)
            if budgets is not None:
                bound *= factor
            n = tl.maximum(n_valid, 1).to(tl.float64)
            if MODE == "topk":
                # The smallest rank with rank / n >= bound in float64, as the reference divides.
                rank = tl.ceil(bound * n)
                rank = tl.where((rank - 1.0) / n >= bound, rank - 1.0, rank)
                rank = tl.where(rank / n < bound, rank + 1.0, rank)
            else:
                # The smallest rank with rank * rank >= bound * n in float64, from a root that is off by less than 1.
                rank = tl.maximum(tl.ceil(tl.sqrt((bound * n).to(tl.float32))) - 1.0, 0.0).to(tl.float64)
                rank = tl.where(rank * rank < bound * n, rank + 1.0, rank)
                rank = tl.where(rank * rank < bound * n, rank + 1.0, rank)
            target = rank.to(tl.float32)
        b_target = tl.where(i_c == c, target, b_target)
    return b_target


@triton.jit
def _first_to_pass(b_key, b_end, b_mass_end, b_target, b_ties, MODE: tl.constexpr, C: tl.constexpr, NJ: tl.constexpr):
    """The position of the first of the equal blocks at each bound, in order of position, that passes it; [C]."""
    i_j = tl.arange(0, NJ)
    b_w = (b_end - 1).to(tl.float32, bitcast=True) if MODE == "energybound" else tl.full([C], 1.0, tl.float32)
    b_rank = tl.clamp(tl.ceil((b_target - b_mass_end) / tl.maximum(b_w, 1e-38)), 0.0, NJ * 1.0).to(tl.int32)
    # b_rank of them stay below the bound: none, all, or a number that is bisected for by position.
    b_hi = tl.where(b_rank > 0, NJ, 0)
    b_lo = tl.where((b_rank > 0) & (b_rank < b_ties), 0, b_hi)
    while tl.max(b_hi - b_lo, 0) > 0:
        b_mid = (b_lo + b_hi) >> 1
        m_tie = (b_key[None, :] == b_end[:, None]) & (i_j[None, :] < b_mid[:, None])
        m_c = tl.sum(m_tie.to(tl.int32), 1) >= b_rank
        b_lo, b_hi = tl.where(m_c, b_lo, b_mid + 1), tl.where(m_c, b_mid, b_hi)
    return b_hi


@triton.jit
def _interval_of(
    b_x, m_j, n_valid, budgets, i_h, BOUNDS: tl.constexpr, MODE: tl.constexpr, C: tl.constexpr, NJ: tl.constexpr
):
    """How many bounds each block passes: its interval; [NJ]."""
    # Non-negative floats order as their bits; 0 is left to the invalid blocks.
    b_key = tl.where(m_j, b_x.to(tl.int32, bitcast=True) + 1, 0)
    i_c, i_j = tl.arange(0, C), tl.arange(0, NJ)
    total = tl.sum(tl.where(m_j, b_x, 0.0), 0)
    b_target = _bound_targets(total, n_valid, i_c, budgets, i_h, BOUNDS, MODE)
    # Keys up to b_cut have at least the target above them, all above b_end less: b_mass_end.
    b_cut = tl.zeros([C], tl.int32) + tl.min(tl.where(m_j, b_key, 0x7F800002), 0) - 1
    b_end = tl.zeros([C], tl.int32) + tl.max(b_key, 0)
    b_mass_end = tl.zeros([C], tl.float32)
    b_n_cut, b_n_end = tl.where(i_c < len(BOUNDS), n_valid, 0), tl.zeros([C], tl.int32)
    # Until one key or one value is left between the two: it straddles the bound.
    while tl.max(tl.where(b_n_cut - b_n_end > 1, b_end - b_cut, 0), 0) > 1:
        b_mid = b_cut + ((b_end - b_cut) >> 1)
        m_above = b_key[None, :] > b_mid[:, None]
        b_n = tl.sum(m_above.to(tl.int32), 1)  # [C]
        b_mass = tl.sum(tl.where(m_above, b_x[None, :], 0.0), 1) if MODE == "energybound" else b_n.to(tl.float32)
        m_c = b_mass >= b_target
        b_cut, b_end = tl.where(m_c, b_mid, b_cut), tl.where(m_c, b_end, b_mid)
        b_n_cut, b_n_end = tl.where(m_c, b_n, b_n_cut), tl.where(m_c, b_n_end, b_n)
        b_mass_end = tl.where(m_c, b_mass_end, b_mass)
    b_first = _first_to_pass(b_key, b_end, b_mass_end, b_target, b_n_cut - b_n_end, MODE, C, NJ)
    m_pass = b_key[None, :] <= b_cut[:, None]
    m_pass |= (b_key[None, :] <= b_end[:, None]) & (i_j[None, :] >= b_first[:, None])
    return tl.sum(m_pass.to(tl.int32), 0)


@triton.jit
def _select_kernel(
    scores, tops, cap, kv_start, budgets, lists, counts, work, turns, levels, importance,
    lq, lk, n_i, n_j, n_a, tiles_b, heads, group, text_length,
    M: tl.constexpr, N: tl.constexpr, CAUSAL: tl.constexpr, GROUPS: tl.constexpr, TILE: tl.constexpr,
    LEVELS: tl.constexpr, BOUNDS: tl.constexpr, MODE: tl.constexpr, KEPT: tl.constexpr,
    C: tl.constexpr, NJ: tl.constexpr, MEANS: tl.constexpr,
):  # fmt: skip
    i_i, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_row = i_bh * n_i + i_i
    _, _, lq, lk = sample_span(kv_start, i_bh // heads, lq, lk, CAUSAL)
    n_list, n_valid = row_span(i_i, lq, lk, M, N, CAUSAL)
    i_j = tl.arange(0, NJ)
    m_j = i_j < n_valid
    b_level = tl.full([NJ], LEVELS[0], tl.int32)
    if len(BOUNDS) > 0:
        if GROUPS > 0:
            S: tl.constexpr = M // GROUPS
            first_a = i_i * GROUPS
            n_groups = tl.minimum(GROUPS, (lq + S - 1) // S - first_a)
            p_e = scores + (i_bh * n_a + first_a) * n_j
            p_t = tops + i_bh * tiles_b * n_a + first_a if TILE > 0 else p_e
            b_x = _join_groups(p_e, p_t, i_j, m_j, n_groups, n_a, n_j, TILE, NJ)
        else:
            b_x = tl.load(scores + i_row * n_j + i_j, mask=m_j, other=0.0)
        b_x = tl.where(b_x > 0.0, b_x, 0.0)  # NaN too
        if importance is not None:
            b_out = b_x if GROUPS > 0 else b_x / tl.maximum(tl.sum(b_x, 0), 1e-30)
            tl.store(importance + i_row * n_j + i_j, b_out, mask=i_j < n_j)
        b_interval = _interval_of(b_x, m_j, n_valid, budgets, i_bh % heads, BOUNDS, MODE, C, NJ)
        for c in tl.static_range(1, len(LEVELS)):
            b_level = tl.where(b_interval == c, LEVELS[c], b_level)
    if cap is not None:
        b_cap = tl.load(cap + i_bh // group * n_j + i_j, mask=m_j, other=1).to(tl.int32)
        b_level = tl.minimum(b_level, b_cap)
    m_ragged = (i_j + 1) * N > lk
    b_level = tl.where(m_ragged, tl.minimum(b_level, 1), b_level)
    m_one = i_j == 0
    if CAUSAL:
        m_one |= i_j >= n_list
    text_row = tl.minimum((i_i + 1) * M, lq) > lq - text_length
    m_one |= (text_length > 0) & (((i_j + 1) * N > lk - text_length) | text_row)
    b_level = tl.where(m_one, 1, b_level)
    b_level = tl.where(m_j, b_level, 0)
    if levels is not None:
        tl.store(levels + i_row * n_j + i_j, b_level.to(tl.int8), mask=i_j < n_j)
    clear(turns, i_row)
    store_lists(b_level, i_j, n_list, i_row, n_j, lists, counts, work, KEPT, N, MEANS)


def select_fwd(
    given: Scores, plan: Plan, lq: int, lk: int, *, cap=None, kv_start=None, return_levels: bool = False,
    return_importance: bool = False,
) -> Selection:  # fmt: skip
    """Choose every pair's level and write the lists of kept blocks.

    Args:
        given: ``xattn_fwd``'s result or an importance map, see ``Scores``.
        plan: its intervals, mode, budgets, forced text and block means; for the means the levels are returned, too.
        lq, lk: queries and keys, in tokens.
        cap: int8 [B, Hkv, nJ], largest level of each key block, or None.
        kv_start: int32 [B], first key of each sample, or None.

    Returns:
        ``Selection``; importance rows sum to the number of query groups (xattn) or to 1 (map), invalid pairs are 0.

    Raises:
        ValueError: scores or a cap of other shapes, too many blocks, budgets that are not H factors of shares by rank.
    """
    check_scores(given, plan, lq, lk, cap, kv_start)
    wanted = return_levels, return_importance
    return run_select(given, plan, lq, lk, cap, kv_start, wanted)


def run_select(given: Scores, plan: Plan, lq: int, lk: int, cap, kv_start, wanted: tuple[bool, bool]) -> Selection:
    """``select_fwd`` of checked tensors; wanted: the levels, the importance."""
    scores, tops, tile, query_stride = given
    (b, h), query_block, key_block = scores.shape[:2], plan.query_block, plan.key_block
    n_i, n_j = ceil_div(lq, query_block), ceil_div(lk, key_block)
    n_a, tiles_b = scores.shape[2] if query_stride else 0, tops.shape[2] if tops is not None else 0
    shape, bounds = (b, h, n_i, n_j), plan.bounds
    levels = bridge.empty(shape, "int8", scores) if wanted[0] or plan.reads_means else None
    importance = bridge.empty(shape, "float32", scores) if wanted[1] and bounds else None
    found = empty_selection(scores, shape, levels, importance)
    width = max(16, next_power_of_2(n_j))
    factors = bridge.constant(plan.budgets, "float64", scores) if plan.budgets is not None and bounds else None
    # One scan does for levels 1 and 8; a cap may turn an 8 into any level.
    kept = (1, 8) if cap is None and {0, 1, 8}.issuperset(plan.levels) else (1, 2, 4, 8)
    bridge.launch(
        _select_kernel, (n_i, b * h), like=scores,
        scores=scores, tops=tops, cap=cap, kv_start=kv_start, budgets=factors, **found._asdict(),
        lq=lq, lk=lk, n_i=n_i, n_j=n_j, n_a=n_a, tiles_b=tiles_b, heads=h,
        group=h // cap.shape[1] if cap is not None else 1, text_length=plan.forced_text,
        M=query_block, N=key_block, CAUSAL=plan.causal, TILE=tile,
        GROUPS=query_block // query_stride if query_stride else 0,
        LEVELS=plan.levels, BOUNDS=bounds, MODE=plan.mask_mode, KEPT=kept,
        C=next_power_of_2(len(bounds)), NJ=width, MEANS=plan.reads_means,
        num_warps=tuning.warps(width, tuning.SELECT_BLOCKS_PER_WARP),
    )  # fmt: skip
    return found
