"""Prefill in one call or in chunks: the cache filled, and the logits of what comes next."""

from __future__ import annotations

import paddle

from ...patches import Patches
from ..request import whole_number
from .parts import Parts
from .prompt import Prompt
from .reports import Report, silent

ALIGNED = 128  # rows of the largest query block: so chunks have the blocks that one call has


def check_chunk(rows: int | None) -> int | None:
    """The rows of a chunk as an ``int``; None for one call.

    Raises:
        TypeError, ValueError: not a multiple of 128.
    """
    if rows is None:
        return None
    rows = whole_number(rows, "prefill_chunk", ALIGNED)
    if rows % ALIGNED:
        raise ValueError(f"prefill_chunk must be a multiple of {ALIGNED}, got {rows}.")
    return rows


class _Layers:
    """Reports each layer that a forward reaches, while it is entered."""

    def __init__(self, parts: Parts, forwards: int, report: Report):
        self._layers, self._report, self._patches = parts.text.layers, report, Patches()
        self._done, self._total = 0, forwards * parts.layers

    def __enter__(self):
        if self._report is not silent:
            for layer in self._layers:
                self._patches.pre_hook(layer, self._reached)
        return self

    def _reached(self, layer, args, kwargs) -> None:
        self._report("prefill", self._done, self._total)
        self._done += 1

    def __exit__(self, *error) -> None:
        self._patches.undo()
        if self._report is not silent and error[0] is None:
            self._report("prefill", self._total, self._total)


def prefill(parts: Parts, prompt: Prompt, cache, plug, chunk: int | None, report: Report) -> paddle.Tensor:
    """Fill the cache with the prompt's rows; returns logits [B, vocabulary] of the token after them.

    Each chunk sees every key so far. The rows that stay at full resolution, and those that TriangleMix lets see
    everything, are the last of the whole prompt: a chunk has as many of them as fall into it.
    """
    rows = prompt.embeds.shape[1]
    past, step = cache.get_seq_length(), chunk or rows
    starts = range(0, rows, step)
    with _Layers(parts, len(starts), report):
        try:
            for start in starts:
                stop = min(start + step, rows)
                if plug is not None:
                    plug.expect(prompt.question, rows - stop)
                mask = None if prompt.mask is None else prompt.mask[:, : past + stop]
                embeds, positions = prompt.embeds[:, start:stop], prompt.positions[:, :, start:stop]
                logits = parts.logits(embeds, positions, cache, mask)
        finally:
            if plug is not None:
                plug.expect(prompt.question, 0)
    return logits
