"""What a configuration costs: the share of dense attention's work, known beforehand where levels go by rank."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .config import AttentionConfig, sqrt_bound
from .config_values import integer
from .geometry import Geometry

QUESTION = 64  # tokens after the last picture, as in README's table


def density(config: AttentionConfig | str, tokens: int, question: int = QUESTION) -> float:
    """Share of dense attention's work on a prompt, in [0, 1], counted in pairs of blocks as ``CallStats`` counts.

    The blocks that are forced to level 1 are taken to be the most important ones, as the first block and the diagonal
    mostly are; where they are not, a few percent more is kept.

    Args:
        config: a configuration or the name of a preset whose mask_mode is ``"topk"`` or ``"topk_sqrt"``.
        tokens: length of the prompt.
        question: its last tokens, which stay at level 1: ``text_length``.

    Raises:
        TypeError, ValueError: another config, no length; levels by share of importance, which depend on the tensors.
    """
    config = AttentionConfig.of(config)
    tokens, question = integer("tokens", tokens), integer("question", question)
    if not tokens:
        raise ValueError("tokens must be at least 1, got 0.")
    if config.mask_mode == "energybound":
        raise ValueError("by share of importance, what is kept depends on the tensors: measure it with return_stats.")
    return float(np.mean([head_density(config, tokens, question, factor) for factor in config.budgets or (1.0,)]))


@lru_cache(maxsize=64)
def _counts(geo: Geometry, text: int) -> tuple[np.ndarray, np.ndarray]:
    """Key blocks of each query block: all, and those that stay at level 1."""
    rows = range(geo.n_i)
    n, n_free = (np.array([count(i) for i in rows]) for count in (geo.n_valid, geo.n_free))
    forced = 1 + n - np.clip(np.minimum(n_free, (geo.lk - text) // geo.key_block), 1, n)
    if text:
        forced = np.where([geo.rows(i)[1] > geo.lq - text for i in rows], n, forced)
    return n, forced


def head_density(config: AttentionConfig, tokens: int, text: int, factor: float = 1.0) -> float:
    """``density`` of a head whose budget is ``factor``."""
    n, forced = _counts(Geometry(tokens, tokens, config.query_block, config.key_block, config.causal), text)
    mean = 1 / config.key_block if config.block_means else 0.0
    work, done = forced.astype(float), forced
    ends = [end for _, _, end in config.intervals[:-1]]
    counts = [_ranks_below(config, end, factor, n) for end in ends]
    for (level, _, _), count in zip(config.intervals, [*counts, n], strict=True):
        upto = np.clip(count, done, n)
        work += (upto - done) * (1.0 / level if level else mean)
        done = upto
    return float(work.sum() / n.sum())


def _ranks_below(config: AttentionConfig, end: float, factor: float, n: np.ndarray) -> np.ndarray:
    """How many ranks of rows of ``n`` blocks lie before an interval ends, by the operator's own comparison."""
    if config.mask_mode == "topk_sqrt":
        bound = sqrt_bound(end, config.key_block) * (factor * factor) * n
        count, past = np.ceil(np.sqrt(bound)), lambda rank: rank * rank >= bound
    else:
        count, past = np.ceil(end * factor * n), lambda rank: rank / n >= end * factor
    count = np.where((count > 0) & past(count - 1), count - 1, count)  # roots and products round
    return np.where(past(count), count, count + 1)
