"""Token rearrangements: the blocks of the operator become coherent, and so cheaper to pool and easier to rank.

Source: PSA (arXiv:2512.04025); the clusters follow Sparse VideoGen2 (arXiv:2505.18875).
"""

from __future__ import annotations

import numpy as np

from .clusters import TokenClusters
from .curves import check_triple, gilbert_order, tile_order
from .permutation import Permutation, backend_of, device_table, with_text

DEFAULT_TILE = (2, 8, 8)


def check_text(text_length, text_first) -> None:
    """Refuse what is no number of text tokens and no place of theirs.

    Raises:
        TypeError: not an integer, not a bool. ValueError: a negative length.
    """
    if isinstance(text_length, bool) or not isinstance(text_length, (int, np.integer)):
        raise TypeError(f"text_length must be an integer, got {text_length!r}.")
    if text_length < 0:
        raise ValueError(f"text_length must not be negative, got {text_length}.")
    if not isinstance(text_first, bool):
        raise TypeError(f"text_first must be True or False, got {text_first!r}.")


class Rearrangement:
    """A token order for sequences of vision tokens on a grid, with text before or after them.

    Text tokens are never mixed with vision tokens and keep their own order and place.

    Args:
        grid: (depth, height, width) in tokens, or None where the method needs no grid.
        text_length: text tokens in the sequence.
        text_first: whether they stand before the vision tokens or after them.
        text_to_end: in the new order, put them last, where the operator keeps them at full resolution.
        backend: ``"auto"`` (Triton for a CUDA tensor of Paddle or torch, Paddle ops elsewhere), ``"triton"`` or
            ``"eager"``.

    Raises:
        TypeError, ValueError: a grid, tile or text length that makes no sense.
    """

    needs_grid = True
    follows_tokens = False  # whether the order depends on the tokens, and state is kept from call to call
    settings: tuple[str, ...] = ()  # fields of ``PSAConfig`` that it takes as arguments beside

    def __init__(
        self, grid, text_length: int = 0, text_first: bool = True, *, text_to_end: bool = False, backend: str = "auto"
    ) -> None:
        check_text(text_length, text_first)
        if grid is None and self.needs_grid:
            raise ValueError(f"{type(self).__name__} needs the grid of the vision tokens: (depth, height, width).")
        self.grid = None if grid is None else check_triple("grid", grid)
        self.text_length, self.text_first, self.text_to_end = int(text_length), text_first, text_to_end
        self.backend = backend

    def plan(self, q, k) -> Permutation:
        """The orders for q [B, H, L, D] and k [B, Hkv, L, D].

        Raises:
            ValueError: lengths that are not the grid and the text.
        """
        raise NotImplementedError

    def vision_tokens(self, q, k) -> int:
        """How many vision tokens q and k have.

        Raises:
            ValueError: lengths that are not the grid and the text.
        """
        length = q.shape[2]
        if k.shape[2] != length:
            raise ValueError(f"rearrangement needs as many keys as queries, got {length} and {k.shape[2]}.")
        vision = length - self.text_length
        if self.grid is not None and int(np.prod(self.grid)) != vision:
            raise ValueError(
                f"grid {self.grid} has {int(np.prod(self.grid))} tokens, but a sequence of {length} with "
                f"{self.text_length} text tokens has {vision}."
            )
        if vision < 1:
            raise ValueError(f"no vision tokens: {length} tokens, {self.text_length} of them text.")
        return vision

    def reset(self) -> None:
        """Forget what earlier calls left."""

    def _table(self, kind: tuple, vision_order, backend, like):
        """The order of all tokens on ``like``'s device, int32 [L]; ``vision_order()`` is that of the vision tokens."""
        text = (self.text_length, self.text_first, self.text_to_end)
        return device_table((*kind, *text), lambda: with_text(vision_order(), *text), backend, like)


class _Fixed(Rearrangement):
    """One order for all heads and calls."""

    def plan(self, q, k) -> Permutation:
        vision, backend = self.vision_tokens(q, k), backend_of(q, self.backend)
        order = self._table(self._kind(vision), lambda: self._vision_order(vision), backend, q)
        return Permutation(order, order, backend)

    def permute(self, x):
        """x [B, H, L, D] in the new order."""
        return self.plan(x, x).permute(x)

    def restore(self, x):
        """Undo ``permute``, bitwise."""
        return self.plan(x, x).restore(x)

    def _kind(self, vision: int) -> tuple:
        """What the order of the vision tokens depends on."""
        return type(self).__name__, self.grid

    def _vision_order(self, vision: int) -> np.ndarray:
        """Raster index of the vision token at each place, int64 [vision]."""
        raise NotImplementedError


class TextOnly(_Fixed):
    """Vision tokens as they come: only the text moves, and only with ``text_to_end``."""

    needs_grid = False

    def _kind(self, vision: int) -> tuple:
        return "TextOnly", vision

    def _vision_order(self, vision: int) -> np.ndarray:
        return np.arange(vision, dtype=np.int64)


class Gilbert(_Fixed):
    """Vision tokens along a 3-D generalised Hilbert curve; arguments as ``Rearrangement``."""

    def _vision_order(self, vision: int) -> np.ndarray:
        return gilbert_order(self.grid)


class STA(_Fixed):
    """Vision tokens tile after tile, along a Hilbert curve within each; arguments as ``Rearrangement``, and

    tile_size: (depth, height, width) of a tile; partial tiles stand at the border. 2 x 8 x 8 fills one query block.
    """

    settings = ("tile_size",)

    def __init__(self, grid, text_length: int = 0, text_first: bool = True, *, tile_size=DEFAULT_TILE, **keywords):
        super().__init__(grid, text_length, text_first, **keywords)
        self.tile_size = check_triple("tile_size", tile_size)

    def _kind(self, vision: int) -> tuple:
        return "STA", self.grid, self.tile_size

    def _vision_order(self, vision: int) -> np.ndarray:
        return tile_order(self.grid, self.tile_size)


class _Clustered(Rearrangement):
    follows_tokens = True

    def _base(self, vision: int, backend, like):
        """The order before clustering: the Gilbert curve if there is a grid."""
        if self.grid is None:
            return self._table(("TextOnly", vision), lambda: np.arange(vision, dtype=np.int64), backend, like)
        return self._table(("Gilbert", self.grid), lambda: gilbert_order(self.grid), backend, like)

    def _sorted(self, x, clusters: TokenClusters, vision: int, backend):
        """Integers [B, H, L]: x's tokens cluster after cluster, in the order of ``_base`` within each."""
        first = self.text_length if self.text_first and not self.text_to_end else 0
        return clusters.order(x, self._base(vision, backend, x), backend, first=first, n=vision)


class SemanticAware(_Clustered):
    """Vision tokens cluster after cluster: k-means on the queries and, apart, on the keys of each head.

    The centres that one call leaves are where the next one starts, so that a later denoising step needs few
    iterations; ``reset`` forgets them. Nothing is read back from the device. Arguments as ``Rearrangement`` (with a
    grid, tokens follow the Gilbert curve within their cluster; it may be None), and

    q_clusters, k_clusters: clusters of a head; None: one for every 256 tokens.
    """

    needs_grid = False

    def __init__(self, grid=None, text_length=0, text_first=True, *, q_clusters=None, k_clusters=None, **keywords):
        super().__init__(grid, text_length, text_first, **keywords)
        self._q, self._k = TokenClusters(q_clusters), TokenClusters(k_clusters)

    def plan(self, q, k) -> Permutation:
        """One order of the queries and one of the keys, of each head; see ``Rearrangement.plan``."""
        n, backend = self.vision_tokens(q, k), backend_of(q, self.backend)
        return Permutation(self._sorted(q, self._q, n, backend), self._sorted(k, self._k, n, backend), backend)

    def reset(self) -> None:
        """Forget the centres: the next call starts anew."""
        self._q.reset()
        self._k.reset()


class Hybrid(_Clustered):
    """Queries along the Gilbert curve, keys and values cluster after cluster; arguments as ``Rearrangement``, and

    k_clusters: as ``SemanticAware``.
    """

    def __init__(self, grid, text_length=0, text_first=True, *, k_clusters=None, **keywords):
        super().__init__(grid, text_length, text_first, **keywords)
        self._k = TokenClusters(k_clusters)

    def plan(self, q, k) -> Permutation:
        """One order of the queries and one of the keys, of each head; see ``Rearrangement.plan``."""
        n, backend = self.vision_tokens(q, k), backend_of(q, self.backend)
        return Permutation(self._base(n, backend, q), self._sorted(k, self._k, n, backend), backend)

    def reset(self) -> None:
        """Forget the centres: the next call starts anew."""
        self._k.reset()


METHODS: dict[str, type[Rearrangement]] = {
    "Gilbert": Gilbert,
    "STA": STA,
    "SemanticAware": SemanticAware,
    "Hybrid": Hybrid,
}
