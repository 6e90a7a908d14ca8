"""Inputs and the error budget of the numerical tests, without Paddle: tests/gpu runs where there is none."""

import numpy as np

from psa_paddle import reference
from psa_paddle.plan import Plan

RATIOS = {1: (0.0, 0.3), 2: (0.3, 0.5), 4: (0.5, 0.7), 8: (0.7, 0.9), 0: (0.9, 1.0)}

# (Lq, Lk, H, Hkv, D, query_block, key_block): ragged, chunked, every group size and head dimension.
SHAPES = [
    (1, 1, 1, 1, 32, 64, 32),
    (31, 31, 4, 1, 32, 64, 32),
    (63, 127, 2, 1, 64, 64, 32),
    (127, 127, 7, 1, 80, 64, 64),
    (129, 129, 2, 2, 96, 64, 32),
    (300, 300, 4, 1, 64, 64, 32),
    (300, 300, 2, 2, 128, 128, 128),
    (129, 1000, 4, 1, 64, 128, 64),
    (1000, 1000, 7, 7, 32, 64, 64),
    (1000, 1000, 4, 1, 128, 128, 32),
]
SHAPE_IDS = [f"Lq{a}-Lk{b}-H{c}of{d}-D{e}-M{f}-N{g}" for a, b, c, d, e, f, g in SHAPES]


def smooth_qkv(lq, lk, heads, kv_heads, dim, seed=0, batch=1, dtype=np.float32):
    """q, k, v as NumPy arrays; neighbouring keys are alike, so that every level is chosen somewhere."""
    rng = np.random.default_rng(seed)
    base = np.repeat(rng.standard_normal((batch, kv_heads, -(-lk // 16), dim)), 16, 2)[:, :, :lk]
    k = 2 * base + rng.standard_normal((batch, kv_heads, lk, dim))
    q = rng.standard_normal((batch, heads, lq, dim))
    v = rng.standard_normal((batch, kv_heads, lk, dim))
    return tuple(x.astype(dtype) for x in (q, k, v))


def random_levels(heads, lq, lk, query_block, key_block, causal, seed=0, zeros=0.3):
    """A level map that the operator may be given: pooled only where the geometry allows it."""
    rng = np.random.default_rng(seed)
    valid, free = reference.block_grid(lq, lk, query_block, key_block, causal)
    full = (np.arange(valid.shape[1]) + 1) * key_block <= lk
    chances = [zeros, (1 - zeros) / 4, (1 - zeros) / 4, (1 - zeros) / 4, (1 - zeros) / 4]
    levels = rng.choice([0, 1, 2, 4, 8], size=(heads, *valid.shape), p=chances)
    levels = np.where(full, levels, np.minimum(levels, 1))
    levels = np.where(free, levels, 1)
    return np.where(valid, levels, 0)


def error_budget(q, k, v, scale, causal, levels=None, blocks=()):
    """Allowed maximum error: twice that of the reference in the inputs' own precision, plus rounding.

    The reference attends to all keys, or to what ``levels`` keep in blocks (query block, key block, means or not): few
    keys average less of the rounding away."""

    def attend_in(dtype):
        qkv = [x.astype(dtype) for x in (q, k, v)]
        if levels is None:
            return reference.dense_attention(*qkv, dtype(scale), causal)
        query_block, key_block, means = blocks
        return reference.attend(*qkv, levels, Plan(scale, causal, query_block, key_block, block_means=means))

    rough = attend_in(np.float32).astype(q.dtype).astype(np.float64)
    rounding = 4 * np.finfo(q.dtype).eps * max(1.0, float(np.abs(v.astype(np.float64)).max()))
    return 2 * float(np.abs(rough - attend_in(np.float64)).max()) + rounding
