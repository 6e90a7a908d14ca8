"""What bench_language.py asks beyond the loss: which tokens are long-range copies, and prompts whose answer was planted
far before the question. Needs no framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CONTEXT = 6  # tokens before a copy that stood there before
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


def long_copies(ids, far: int, context: int = CONTEXT) -> np.ndarray:
    """Which next tokens continue a run of ``context`` tokens as it went on when it last stood there, ``far`` or more
    tokens before: bool [len(ids) - 1], of ids[1:]."""
    ids = np.asarray(ids).tolist()
    found, last = np.zeros(len(ids) - 1, bool), {}
    for place in range(context, len(ids)):
        run = tuple(ids[place - context : place])
        before = last.get(run)
        found[place - 1] = before is not None and place - before >= far and ids[before] == ids[place]
        last[run] = place
    return found


@dataclass(frozen=True)
class Prompt:
    """ids: int64 [length]; answers: places in ids of the values' tokens, asked at the end; question: the last tokens,
    which are not of the text."""

    ids: np.ndarray
    answers: np.ndarray
    question: int


def make_prompt(text, length: int, pairs: int, encode: Callable[[str], list[int]], rng) -> Prompt:
    """A prompt of ``length`` tokens: so many keys and values stand at random places of ``text`` (token ids, at least
    ``length``), each a line of its own; at the end the keys come again in another order, each with its value.

    Raises:
        ValueError: a text that is too short, or a length that the planted lines fill by more than half.
    """
    keys, values, breaks = [], [], encode("\n")
    for _ in range(pairs):
        word = "".join(rng.choice(SYLLABLES, 4))
        keys.append(encode(f"\nThe code of {word} is"))
        values.append(encode(f" {rng.integers(10**7, 10**8)}"))
    lines = [key + value + breaks for key, value in zip(keys, values, strict=True)]
    question, answers = [], []
    for n in rng.permutation(pairs):
        question += keys[n]
        answers += range(len(question), len(question) + len(values[n]))
        question += values[n]
    rest = length - len(question) - sum(map(len, lines))
    if rest < length // 2 or rest > len(text):
        raise ValueError(
            f"a prompt of {length:,} tokens needs at least half of them, and not more than there are, from a text: "
            f"{rest:,} are due of {len(text):,}."
        )
    cuts = [0, *sorted(rng.integers(0, rest + 1, pairs).tolist()), rest]
    ids: list[int] = []
    text = np.asarray(text)[:rest].tolist()
    for n, line in enumerate([*lines, question]):
        ids += text[cuts[n] : cuts[n + 1]] + line
    places = np.array(answers) + length - len(question)
    return Prompt(np.array(ids, np.int64), places, len(question))


def mean_and_error(values) -> tuple[float, float | None]:
    """Mean over files and its standard error, which one file does not have."""
    values = np.asarray(values, np.float64)
    error = float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None
    return float(values.mean()), error


def choose_texts(held: list, length: int, files: int) -> list:
    """The first ``files`` documents that are long enough.

    Raises:
        ValueError: there are fewer.
    """
    long = [text for text in held if len(text) > length]
    if len(long) < files:
        raise ValueError(
            f"{len(long)} of {len(held)} documents held out have more than {length:,} tokens; ask for fewer --files or "
            "shorter --lengths."
        )
    return long[:files]
