"""What a configuration costs: the share of dense attention's work, known beforehand where levels go by rank."""

from __future__ import annotations

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
    geo = Geometry(tokens, tokens, config.query_block, config.key_block, config.causal)
    ends = [hi for _, _, hi in config.intervals[:-1]]
    mean = 1 / config.key_block if config.block_means else 0.0
    costs = np.array([1 / level if level else mean for level, _, _ in config.intervals])
    work = 0.0
    for i in range(geo.n_i):
        n = geo.n_valid(i)
        rank = np.arange(n)
        if config.mask_mode == "topk_sqrt":
            passed = [rank * rank >= sqrt_bound(end, geo.key_block) * n for end in ends]
        else:
            passed = [rank / n >= end for end in ends]
        cost = costs[np.sum(passed, axis=0, dtype=int)] if ends else np.full(n, costs[0])
        forced = (rank == 0) | (rank >= geo.n_free(i))
        if question:
            forced |= ((rank + 1) * geo.key_block > tokens - question) | (geo.rows(i)[1] > tokens - question)
        cost[: forced.sum()] = 1.0
        work += cost.sum()
    return float(work / geo.n_pairs())
