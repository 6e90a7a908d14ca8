"""Which token comes next: the most likely one, or one drawn as temperature, top-k and top-p say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from pathlib import Path

import numpy as np
import paddle
from huggingface_hub import try_to_load_from_cache

HUGGING_FACE_TOP_K = 50  # what a generation_config.json with do_sample and without top_k means


def _number(value, name: str, least: float, most: float, open_below: bool = False) -> None:
    if value is None:
        return
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if not least <= value <= most or (open_below and value == least):
        if open_below:
            raise ValueError(f"{name} must be above {least:g} and at most {most:g}, got {value!r}.")
        raise ValueError(f"{name} must be at least {least:g} and at most {most:g}, got {value!r}.")


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; what is None is as the model's ``generation_config.json`` says, and greedy where that says
    nothing.

    temperature: 0 takes the most likely token; top_k: draw among so many, 0 for all; top_p: draw among the most likely
    that together have this probability; repetition_penalty: above 1, tokens that were there before get less likely
    (arXiv:1909.05858); seed: the same one gives the same answer.

    Raises:
        TypeError, ValueError: what makes no sense.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        _number(self.temperature, "temperature", 0.0, 100.0)
        _number(self.top_p, "top_p", 0.0, 1.0, open_below=True)
        _number(self.repetition_penalty, "repetition_penalty", 0.0, 100.0, open_below=True)
        for name in ("top_k", "seed"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral)):
                raise TypeError(f"{name} must be an integer, got {value!r}.")
            if value is not None and value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}.")

    def over(self, own: Sampling) -> Sampling:
        """These settings, and a model's own where there are none.

        Raises:
            ValueError: settings of drawing where nothing is drawn.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        made = replace(own, **given)
        for name in ("top_p", "top_k", "seed"):
            if name in given and not made.temperature:
                raise ValueError(f"{name} does nothing at temperature 0, the model's default; give a temperature.")
        return made

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time."""
        return not self.temperature and self.repetition_penalty in (None, 1.0)


GREEDY = Sampling(temperature=0.0)


def own_sampling(name: str, cache_dir: str | None = None) -> Sampling:
    """What the ``generation_config.json`` of a model asks for; greedy without the file.

    name: the model's folder, or its hub name, whose files were downloaded into Hugging Face's cache.

    Raises:
        ValueError: the file is no JSON object, or asks for what makes no sense.
    """
    path = Path(name) / "generation_config.json"
    if not path.is_file():
        found = None if Path(name).is_dir() else try_to_load_from_cache(name, path.name, cache_dir=cache_dir)
        if not isinstance(found, str):
            return GREEDY
        path = Path(found)
    try:
        return _said_in(path)
    except json.JSONDecodeError as error:
        reason = f"it is no JSON ({error})"
    except UnicodeDecodeError:
        reason = "it is no JSON in UTF-8"
    except (TypeError, ValueError) as error:
        reason = str(error).rstrip(".")
    raise ValueError(f"'{path}' cannot be used: {reason}; mend it, or remove it for greedy decoding.")


def _said_in(path: Path) -> Sampling:
    said = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(said, dict):
        raise TypeError("it is no JSON object")
    penalty = said.get("repetition_penalty")
    if not said.get("do_sample"):
        return replace(GREEDY, repetition_penalty=penalty)
    return Sampling(
        temperature=said.get("temperature", 1.0),
        top_p=said.get("top_p", 1.0),
        top_k=said.get("top_k", HUGGING_FACE_TOP_K),
        repetition_penalty=penalty,
    )


class Sampler:
    """Chooses the next token of each sample, given settings of which none is left to the model.

    Every sample draws from a stream of its own that starts at the seed, so that a sample of a batch gets the answer
    that it gets alone; without a seed, the streams follow from ``chance``.
    """

    def __init__(self, settings: Sampling, prompts: list[list[int]], chance: int | None = None):
        self.settings = settings
        spawned = np.random.SeedSequence(chance).spawn(len(prompts))
        starts = spawned if settings.seed is None else [settings.seed] * len(prompts)
        self._draws = [np.random.default_rng(start) for start in starts]
        self._seen = [np.unique(np.array(ids, np.int64)) for ids in prompts]

    def choose(self, logits: paddle.Tensor) -> np.ndarray:
        """The next tokens [B] of logits [B, vocabulary]."""
        if self.settings.greedy:
            return logits.argmax(axis=-1).numpy()
        rows = logits.astype("float32").numpy().astype(np.float64)
        tokens = np.array([self._one(i, row) for i, row in enumerate(rows)], np.int64)
        self._seen = [np.union1d(seen, token) for seen, token in zip(self._seen, tokens, strict=True)]
        return tokens

    def _one(self, i: int, logits: np.ndarray) -> int:
        s, seen = self.settings, self._seen[i]
        if s.repetition_penalty not in (None, 1.0):
            logits[seen] = np.where(
                logits[seen] > 0, logits[seen] / s.repetition_penalty, logits[seen] * s.repetition_penalty
            )
        if not s.temperature:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")[: s.top_k or len(logits)]
        scaled = (logits[order] - logits[order[0]]) / s.temperature
        shares = np.exp(scaled) / np.exp(scaled).sum()
        if s.top_p is not None:
            before = np.cumsum(shares) - shares  # of the tokens that are more likely
            kept = before < s.top_p
            order, shares = order[kept], shares[kept] / shares[kept].sum()
        place = int(np.searchsorted(np.cumsum(shares), self._draws[i].random()))
        return int(order[min(place, len(order) - 1)])  # rounding may leave the sum below 1
