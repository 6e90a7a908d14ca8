"""Block arithmetic of one call: which pairs of blocks exist, which may be pooled, how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


@dataclass(frozen=True)
class Geometry:
    """Lengths in tokens; causal is aligned bottom-right, so query i sits at key position i + offset."""

    lq: int
    lk: int
    query_block: int
    key_block: int
    causal: bool

    @property
    def offset(self) -> int:
        """Keys before the first query."""
        return self.lk - self.lq

    @property
    def n_i(self) -> int:
        """Number of query blocks."""
        return ceil_div(self.lq, self.query_block)

    @property
    def n_j(self) -> int:
        """Number of key blocks."""
        return ceil_div(self.lk, self.key_block)

    def rows(self, i: int) -> tuple[int, int]:
        """Query rows [start, stop) of query block i."""
        return i * self.query_block, min((i + 1) * self.query_block, self.lq)

    def n_free(self, i: int) -> int:
        """Key blocks [0, n_free) of query block i may be pooled or skipped."""
        if not self.causal:
            return self.n_j
        return min((i * self.query_block + self.offset) // self.key_block, self.n_j)

    def n_means(self, i: int) -> int:
        """Key blocks [0, n_means) of query block i are free and full: skipped, they may take part by their means."""
        return min(self.n_free(i), self.lk // self.key_block)

    def n_valid(self, i: int) -> int:
        """Key blocks [0, n_valid) of query block i hold a key that some of its rows may see."""
        if not self.causal:
            return self.n_j
        return min((self.rows(i)[1] - 1 + self.offset) // self.key_block + 1, self.n_j)

    def n_pairs(self) -> int:
        """Valid pairs of blocks, a head."""
        return _n_pairs(self)


@lru_cache(maxsize=256)  # every layer of a prompt asks for the same
def _n_pairs(geo: Geometry) -> int:
    return sum(geo.n_valid(i) for i in range(geo.n_i))
