"""Heads whose attention an estimate by blocks finds, and heads that defeat it."""

import numpy as np

ORDINARY, HOSTILE = ("near", "wide"), ("hot keys", "one key", "back")
HEADS = ORDINARY + HOSTILE


def audited_heads(length: int, dim: int = 32, seed: int = 0):
    """NumPy float32 q, k, v [1, heads, length, dim]. ``near``: keys that are near in position; ``wide``: all keys a
    little; ``hot keys``: one key in a hundred at random places; ``one key``: one random earlier key for each query;
    ``back``: the key a fixed distance back."""
    rng = np.random.default_rng(seed)

    def randn(*shape):
        return rng.standard_normal(shape)

    places = np.arange(length)
    anchors = randn(length // 64 + 2, dim)
    drift = anchors[places // 64] + (anchors[places // 64 + 1] - anchors[places // 64]) * (places % 64 / 64)[:, None]
    mark = randn(dim)
    mark *= dim**0.5 / np.linalg.norm(mark)
    hot = rng.random(length) < 0.01
    plain = randn(4, length, dim)
    keys = [drift + 0.3 * randn(length, dim), plain[0], plain[1] + hot[:, None] * mark, plain[2], plain[3]]
    queries = [
        4 * drift + 0.3 * randn(length, dim),
        0.3 * randn(length, dim),
        0.3 * randn(length, dim) + 1.4 * mark,
        2.5 * plain[2][(rng.random(length) * (places + 1)).astype(int)],
        2.5 * plain[3][np.maximum(places - length // 8, 0)],
    ]
    return tuple(np.asarray(x, np.float32).reshape(1, -1, length, dim) for x in (queries, keys, randn(5, length, dim)))
