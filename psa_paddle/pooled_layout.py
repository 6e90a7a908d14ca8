"""Where pooled rows lie: those of level 2 of all full blocks one after the other, then those of level 4, then of 8.

A block of N keys has N / p rows at level p. Places are counted in eighths of a block, N / 8 rows, as a whole number of
these is in every level.
"""

from __future__ import annotations

EIGHTHS = 8
POOLED_START = {2: 0, 4: 4, 8: 6}  # eighths before each level, for each full block
POOLED_EIGHTHS = 7  # of all levels, for each full block


def pooled_rows(n_full: int, key_block: int) -> int:
    """Rows of ``n_full`` blocks of ``key_block`` keys at levels 2, 4 and 8 together."""
    return n_full * POOLED_EIGHTHS * (key_block // EIGHTHS)
