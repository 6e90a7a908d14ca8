"""TriangleMix's pattern (arXiv:2507.21526) in numbers: which keys a query sees. Needs neither Paddle nor Triton."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pattern:
    """The keys that a query sees; positions count keys from 0, see ``TriangleMixConfig`` for the formulas."""

    sink: int
    window: int
    last: int

    def first_full(self, lk: int) -> int:
        """Position of the first row that sees every key before it."""
        return max(0, lk - self.last + 1)

    def seen_pairs(self, lq: int, lk: int) -> int:
        """Pairs of a query and a key that it sees, for the last ``lq`` of ``lk`` positions."""
        most = self.sink + 1 + self.window + 1  # keys that a row of the band sees
        start = lk - lq
        full = min(max(start, self.first_full(lk)), lk)
        knee = min(max(most, start), full)  # up to here a row of the band sees every key before it
        return _sum_to(knee) - _sum_to(start) + (full - knee) * most + _sum_to(lk) - _sum_to(full)

    def ranges(self, first: int, stop: int, full: bool) -> list[tuple[int, int]]:
        """Ranges of keys that some query at a position in [first, stop) sees."""
        low = max(0, first - self.window)
        if full or low <= self.sink + 1:
            return [(0, stop)]
        return [(0, self.sink + 1), (low, stop)]

    def hidden(self, first: int, stop: int, full: bool, piece: list[tuple[int, int]]):
        """Bool [stop - first, columns of ``piece``], the pairs that stay masked; None when there are none."""
        rows = np.arange(first, stop)[:, None]
        cols = np.concatenate([np.arange(*part) for part in piece])
        if cols[-1] <= first and (full or cols[-1] <= self.sink or cols[0] >= stop - 1 - self.window):
            return None
        hidden = cols > rows
        if not full:
            hidden |= (cols > self.sink) & (cols < rows - self.window)
        return hidden if hidden.any() else None


def _sum_to(n: int) -> int:
    return n * (n + 1) // 2
