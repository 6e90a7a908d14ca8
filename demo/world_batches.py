"""Batches of the visual world for training and evaluation: drawn scenes, questions, token ids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from world import ask, sample_scene
from world.render import Plan, plan

CHECKPOINT = Path(__file__).parent / "checkpoint"
TOKEN_SIDE = 28  # pixels of a vision token
TOKENS_PER_SECOND = 2  # time positions a second, as in the model's config
FRAME_SIZES = ((168, 168), (196, 168), (224, 168), (224, 224), (252, 196), (280, 224), (336, 252))
FPS = (1.0, 2.0, 4.0)
# Vision tokens of a clip: (least, most). "image" has one frame.
BUCKETS = {
    "image": None,
    "short": (70, 700),
    "1k": (850, 1150),
    "2k": (1700, 2300),
    "4k": (3400, 4400),
    "8k": (7400, 8400),
}
UNSEEN = {"16k": (15000, 17000), "32k": (30000, 34000)}  # longer than any training clip; only to be measured on
# Only clips whose number of frame pairs this divides are tested; all others are for training.
TEST_PAIRS = 5
PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
SUFFIX = "<|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))


@lru_cache(maxsize=200_000)
def encode(text: str) -> tuple[int, ...]:
    return tuple(tokenizer().encode(text).ids)


@dataclass(frozen=True)
class Batch:
    """Clips of one size with as many questions each.

    plan: what to draw. ids: int64 [B, questions, length], question and answer, padded. answer: bool like ids, the
    tokens to be predicted (the answer and its end mark). step: float32 [B], time positions between pairs of frames.
    """

    plan: Plan
    ids: np.ndarray
    answer: np.ndarray
    step: np.ndarray
    questions: list


def clip_shape(bucket: str, rng, test: bool) -> tuple[int, int, int]:
    """(width, height, frames) of a clip of a bucket's size; training and test never share a number of frames."""
    while True:
        width, height = FRAME_SIZES[rng.integers(len(FRAME_SIZES))]
        if bucket == "image":
            return width, height, 1
        least, most = (BUCKETS | UNSEEN)[bucket]
        tokens = width * height // TOKEN_SIDE**2
        pairs = [n for n in range(max(2, -(-least // tokens)), most // tokens + 1) if (n % TEST_PAIRS == 0) == test]
        if pairs:
            return width, height, 2 * int(pairs[rng.integers(len(pairs))])


def make_batch(split: str, indices, shape, fps, questions: int, rng, types=None, weights=None) -> Batch:
    """The scenes ``indices`` of a split, drawn at one shape (width, height, frames), asked ``questions`` times each.

    types and weights are those of ``ask``.
    """
    width, height, frames = shape
    scenes = [sample_scene(split, int(i), width, height, frames, float(f)) for i, f in zip(indices, fps, strict=True)]
    asked = [ask(scene, rng, questions, types, weights) for scene in scenes]
    rows = [[(encode(SUFFIX.format(q.prompt)), encode(q.answer + END)) for q in qs] for qs in asked]
    length = max(len(a) + len(b) for row in rows for a, b in row)
    length = -(-length // 8) * 8
    ids = np.zeros((len(scenes), questions, length), dtype=np.int64)
    answer = np.zeros(ids.shape, dtype=bool)
    for i, row in enumerate(rows):
        for j, (question, reply) in enumerate(row):
            n, m = len(question), len(reply)
            ids[i, j, : n + m] = question + reply
            answer[i, j, n : n + m] = True
    step = np.array([2 / s.fps * TOKENS_PER_SECOND if s.kind == "video" else 0 for s in scenes], dtype=np.float32)
    return Batch(plan(scenes), ids, answer, step, asked)
