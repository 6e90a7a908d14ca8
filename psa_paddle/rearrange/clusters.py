"""k-means on the tokens of each head: a fixed number of iterations, and nothing read back from the device."""

from __future__ import annotations

import paddle

TOKENS_PER_CLUSTER = 256
FIRST_ITERATIONS = 8
LATER_ITERATIONS = 2
SCORES_AT_ONCE = 1 << 24


def nearest(x, centres):
    """Index of the nearest centre, int64 [N, L]; x [N, L, D] and centres [N, C, D], float32."""
    half_norm = 0.5 * (centres * centres).sum(-1).unsqueeze(1)
    step = max(1, SCORES_AT_ONCE // (x.shape[0] * centres.shape[1]))
    spans = [x[:, i : i + step] for i in range(0, x.shape[1], step)]
    return paddle.concat([(paddle.bmm(s, centres.transpose([0, 2, 1])) - half_norm).argmax(-1) for s in spans], axis=1)


def means(x, labels, centres):
    """Mean of each cluster, [N, C, D]; a cluster without tokens keeps its centre."""
    n, c, d = centres.shape
    rows = (labels + paddle.arange(n, dtype="int64").unsqueeze(-1) * c).reshape([-1, 1])
    sums = paddle.scatter_nd_add(paddle.zeros([n * c, d]), rows, x.reshape([-1, d]))
    counts = paddle.scatter_nd_add(paddle.zeros([n * c]), rows, paddle.ones([rows.shape[0]])).unsqueeze(-1)
    return paddle.where(counts > 0, sums / counts.clip(min=1.0), centres.reshape([-1, d])).reshape([n, c, d])


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
        self.centres = None
        self._shape: tuple[int, ...] | None = None

    def order(self, x):
        """Tokens sorted by cluster, the model's order within each: int64 [B, H, L] for x [B, H, L, D]."""
        b, h, length, d = x.shape
        flat = x.detach().astype("float32").reshape([b * h, length, d])
        if self._shape == (b, h, length, d):
            centres, iterations = self.centres, LATER_ITERATIONS
        else:
            count = min(length, self.clusters or -(-length // TOKENS_PER_CLUSTER))
            places = (2 * paddle.arange(count, dtype="int64") + 1) * length // (2 * count)
            centres, iterations = paddle.gather(flat, places, axis=1), FIRST_ITERATIONS
        for _ in range(iterations):
            centres = means(flat, nearest(flat, centres), centres)
        self.centres, self._shape = centres, (b, h, length, d)
        return paddle.argsort(nearest(flat, centres), axis=-1, stable=True).reshape([b, h, length])
