"""One answer, stage by stage: vision tower, prefill, decoding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from ..paddleformers.pruner import pruner_of
from .decode import decode
from .media import Medium
from .parts import Parts
from .prefill import prefill
from .prompt import Prompt, question_length
from .reports import Report, Stopwatch
from .sampling import Sampler, Sampling


@dataclass(frozen=True)
class Asked:
    """One conversation, or a left-padded batch of them, of which a cache may hold the beginning.

    ids: int64 [B, L], whole conversations; mask: as in ``Prompt``; media: theirs, in order; new_media: those that come
    after what is cached; cached: tokens that the cache stands for, in as many rows, or fewer where video tokens went.
    """

    ids: np.ndarray
    mask: np.ndarray | None
    media: list[Medium]
    new_media: list[Medium]
    cached: int = 0


@dataclass(frozen=True)
class Settings:
    """How to answer.

    max_tokens: most new tokens; sampling: how they are drawn, nothing left to the model; chance: where drawing without
    a seed starts; chunk: rows of a prefill chunk, None for one call; streamer: hears the new prompt and every token;
    report: is told how far it is.
    """

    max_tokens: int
    sampling: Sampling
    chance: int
    chunk: int | None
    streamer: Any
    report: Report


@dataclass
class Answer:
    """tokens: of each sample, the end token included; asked: what for; prefilled: rows that the layers took in for it,
    without padding and dropped video tokens; watch: seconds of each stage."""

    tokens: list[list[int]]
    asked: Asked
    finished: list[bool]
    vision_tokens: int
    prefilled: int
    watch: Stopwatch = field(repr=False)

    def figures(self) -> dict:
        """For ``stats()``: times, lengths, and why the answer ended."""
        seconds, new = self.watch.seconds, max(map(len, self.tokens))
        return {
            "ttft_s": seconds["vision"] + seconds["prefill"],
            "decode_tokens_per_s": (new - 1) / seconds["decode"] if new > 1 else None,
            "new_tokens": sum(map(len, self.tokens)),
            "finish_reason": "stop" if all(self.finished) else "length",
            "sequence_length": self._real,
            "vision_tokens": self.vision_tokens,
            "text_tokens": self._real - self.vision_tokens,
            "prefill_tokens": self.prefilled,
            "timings_s": dict(seconds),
            **self._frame_times(),
        }

    def _frame_times(self) -> dict:
        """Seconds at which the frames are seen; a list a clip where there are several clips."""
        times = [list(medium.times) for medium in self.asked.media if medium.kind == "video"]
        return {"frame_times_s": times[0] if len(times) == 1 else times} if times else {}

    @property
    def _real(self) -> int:
        """Tokens that are not padding."""
        return int(self.asked.ids.size if self.asked.mask is None else self.asked.mask.sum())


def answer(parts: Parts, asked: Asked, cache, plug, settings: Settings, watch: Stopwatch) -> Answer:
    """Answer each conversation; the cache then holds everything but the last token.

    plug: the model's sparse attention in force, None for dense; watch: goes on from the stages that were before.
    """
    report, ends = settings.report, parts.end_tokens()
    with watch.stage("vision"):
        prompt = make_prompt(parts, asked, report)
    new = asked.ids[:, asked.cached :]
    if settings.streamer is not None:
        settings.streamer.put(paddle.to_tensor(new))
    with watch.stage("prefill"):
        logits = prefill(parts, prompt, cache, plug, settings.chunk, report)
        sampler = Sampler(settings.sampling, _real_rows(asked), settings.chance)
        first = sampler.choose(logits)
    tokens = []

    def hear(step: np.ndarray) -> None:
        tokens.append(step)
        report("decode", len(tokens), settings.max_tokens)
        if settings.streamer is not None:
            settings.streamer.put(paddle.to_tensor(step[:, None]))

    with watch.stage("decode"):
        limits = ends, parts.padding(), settings.max_tokens
        answers = decode(parts, prompt, first, cache, sampler, *limits, hear)
    if settings.streamer is not None:
        settings.streamer.end()
    vision = int(np.isin(asked.ids, list(parts.vision_tokens.values())).sum())
    return Answer(answers, asked, [row[-1] in ends for row in answers], vision, prompt.rows, watch)


def make_prompt(parts: Parts, asked: Asked, report: Report) -> Prompt:
    """What the first layer is handed."""
    embeds = parts.embed(asked.ids[:, asked.cached :], parts.look(asked.new_media, report))
    positions, following = parts.positions(asked.ids, asked.media, asked.mask)
    question = [question_length(row, parts.vision_tokens.values()) for row in asked.ids]
    prompt = Prompt(embeds, positions[:, :, asked.cached :], following, asked.mask, question)
    pruner = pruner_of(parts.model)
    if pruner is None:
        return prompt
    grids = [medium.grid for medium in asked.new_media if medium.kind == "video"]
    return prompt.shorter(pruner.stays(asked.ids[:, asked.cached :], embeds, grids))


def _real_rows(asked: Asked) -> list[list[int]]:
    """The tokens of each conversation without padding."""
    mask = np.ones_like(asked.ids) if asked.mask is None else asked.mask
    return [row[real.astype(bool)].tolist() for row, real in zip(asked.ids, mask, strict=True)]
