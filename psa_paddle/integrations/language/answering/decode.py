"""Decoding: one token a step for each sample, until it ends or there are enough."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .parts import Parts
from .prompt import Prompt
from .sampling import Sampler


def decode(
    parts: Parts,
    prompt: Prompt,
    first: np.ndarray,
    cache,
    sampler: Sampler,
    ends: list[int],
    padding: int,
    max_tokens: int,
    hear: Callable[[np.ndarray], None],
) -> list[list[int]]:
    """The new tokens of each sample, the end token included; the cache then holds all of them but the last.

    first: the first new tokens, [B]; hear: called with the tokens [B] of every step, padding for samples that have
    ended.
    """
    answers: list[list[int]] = [[] for _ in first]
    unfinished, mask, following, tokens = np.ones(len(answers), bool), prompt.mask, prompt.following, first
    while True:
        tokens = np.where(unfinished, tokens, padding)
        for i in np.flatnonzero(unfinished):
            answers[i].append(int(tokens[i]))
        hear(tokens)
        unfinished &= ~np.isin(tokens, ends)
        if not unfinished.any() or max(map(len, answers)) == max_tokens:
            return answers
        if mask is not None:
            mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        positions = following.unsqueeze(0).expand([3, *following.shape])
        logits = parts.logits(parts.embed(tokens[:, None], None), positions, cache, mask)
        tokens, following = sampler.choose(logits), following + 1
