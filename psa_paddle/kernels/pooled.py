"""Where pooled rows lie, for kernels: ``pooled_layout`` on the device."""

from __future__ import annotations

import triton
import triton.language as tl

from ..pooled_layout import EIGHTHS, POOLED_EIGHTHS, POOLED_START

_EIGHTHS = tl.constexpr(EIGHTHS)
_ALL = tl.constexpr(POOLED_EIGHTHS)
_LEVEL4 = tl.constexpr(POOLED_START[4])
_LEVEL8 = tl.constexpr(POOLED_START[8])


@triton.jit
def pooled_head(i_kv, n_full, N: tl.constexpr, D: tl.constexpr):
    """Elements before the pooled rows of kv head ``i_kv`` (int64)."""
    return i_kv * n_full * (N // _EIGHTHS * _ALL) * D


@triton.jit
def block_start(i_j, n_full, LEVEL: tl.constexpr, N: tl.constexpr):
    """Rows of a head before those of block ``i_j`` at level 2, 4 or 8."""
    START: tl.constexpr = 0 if LEVEL == 2 else _LEVEL4 if LEVEL == 4 else _LEVEL8
    return (n_full * START + i_j * (_EIGHTHS // LEVEL)) * (N // _EIGHTHS)


@triton.jit
def level_start(past2, past4, QUARTER: tl.constexpr):
    """What lies before level 2, for each full block; before level 4, where ``past2`` is 1; before level 8, where
    ``past4`` is, too. QUARTER: what a quarter of a block counts, N // 4 rows or 1."""
    STEP: tl.constexpr = _EIGHTHS // 4
    return past2 * (_LEVEL4 // STEP * QUARTER) + past4 * ((_LEVEL8 - _LEVEL4) // STEP * QUARTER)
