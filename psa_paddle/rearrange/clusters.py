"""k-means from call to call: how many clusters, how many iterations, and where the last call ended."""

from __future__ import annotations

TOKENS_PER_CLUSTER = 256
FIRST_ITERATIONS = 8
LATER_ITERATIONS = 2


class TokenClusters:
    """Orders tokens by cluster, and starts from where the last call with these shapes ended.

    Args:
        clusters: clusters of a head; None: one for every 256 tokens.

    Raises:
        TypeError: not an integer. ValueError: below 1.
    """

    def __init__(self, clusters: int | None = None) -> None:
        if clusters is not None:
            if isinstance(clusters, bool) or not isinstance(clusters, int):
                raise TypeError(f"the number of clusters must be an integer, got {clusters!r}.")
            if clusters < 1:
                raise ValueError(f"the number of clusters must be at least 1, got {clusters}.")
        self.clusters = clusters
        self.reset()

    def reset(self) -> None:
        """Forget the centres: the next call starts from evenly spaced tokens."""
        self.state: object = None
        self._key: tuple | None = None

    def order(self, x, base, backend, *, first: int, n: int):
        """Tokens sorted by cluster, in the order of ``base`` within each: integers [B, H, L].

        Args:
            x: [B, H, L, D].
            base: int32 [L], a permutation of all tokens; the n from place ``first`` on are clustered.
            backend: the module that does it, of ``backend_of``.
        """
        key = (backend.__name__, tuple(x.shape), str(x.dtype), str(x.place if hasattr(x, "place") else x.device), n)
        if self._key != key:
            self.state, self._key = None, key
        order, self.state = backend.cluster_tokens(
            x,
            base,
            first=first,
            n=n,
            n_clusters=min(n, self.clusters or -(-n // TOKENS_PER_CLUSTER)),
            iterations=FIRST_ITERATIONS if self.state is None else LATER_ITERATIONS,
            state=self.state,
        )
        return order
