"""Mends for ``generate``, applied from outside.

PaddleFormers 1.2's ``update_model_kwargs_for_generation`` recognises the KV cache by the class of the output and misses
Qwen2.5-VL's own, so that every new token prefills the whole prompt again; so what only decoding with a cache reads is
partly wrong there. And it and PaddleMIX compute logits for the whole prompt where only the last ones are read.
"""

from __future__ import annotations

import time
from contextlib import contextmanager

from ..patches import Patches
from . import families
from .families import Layout
from .plugs import bare_model

MEND = "_psa_generation"  # attribute of a mended model; gone when nobody uses it


def mend_positions(model, layout: Layout, inputs: dict, given: dict) -> None:
    """Without media and with a mask the library keeps one number, the first sample's: positions less tokens of it."""
    inner, mask = model.model, given.get("attention_mask")
    if mask is not None and inner.rope_deltas is not None and inner.rope_deltas.ndim == 0:
        inner.rope_deltas = (mask != 0).astype("int64").sum(-1, keepdim=True) - mask.shape[-1]


def mend_sliding_cache(model, layout: Layout, inputs: dict, given: dict) -> None:
    """A sliding cache drops keys that the model's mask still counts; one that keeps all takes its place."""
    if inputs.get("use_cache") and getattr(layout.text_of(model), "has_sliding_layers", False):
        from paddleformers.transformers.cache_utils import DynamicCache

        inputs["past_key_values"] = DynamicCache()


# What the tokens after a prompt rely on, and a model may get wrong: (model, layout, inputs made, inputs given) -> None.
MENDS = {"positions": mend_positions, "sliding cache": mend_sliding_cache}


class GenerationMend:
    """Makes a model's ``generate`` keep its KV cache and compute only the last logits, for as long as it has users."""

    def __init__(self, model, layout: Layout):
        self.users, self._layout = 0, layout
        self._model, self._patches = model, Patches()
        self._update, self._prepare = model.update_model_kwargs_for_generation, model.prepare_inputs_for_generation
        self._prepared_ids, self._cut = None, False
        self._patches.attribute(model, MEND, self)
        self._patches.attribute(model, "update_model_kwargs_for_generation", self.update)
        self._patches.attribute(model, "prepare_inputs_for_generation", self.prepare)
        self._patches.pre_hook(model, self._before_model)
        self._patches.pre_hook(model.lm_head, self._before_head)

    def undo(self) -> None:
        """Give the model its own ``generate`` back."""
        self._patches.undo()

    def update(self, outputs, model_kwargs, *args, **kwargs) -> dict:
        """The model's ``update_model_kwargs_for_generation``, and the cache."""
        model_kwargs = self._update(outputs, model_kwargs, *args, **kwargs)
        cache = getattr(outputs, "past_key_values", None)
        if cache is not None:
            model_kwargs["past_key_values"] = cache
        return model_kwargs

    def prepare(self, *args, **kwargs) -> dict:
        """The model's ``prepare_inputs_for_generation``, right also for one token after a cache; the head then sees the
        last position alone, in forwards that ``generate`` prepared and in no other."""
        inputs = self._prepare(*args, **kwargs)
        given, ids = kwargs.get("position_ids"), inputs.get("input_ids")
        if given is not None and ids is not None:
            inputs["position_ids"] = given[..., -ids.shape[1] :]  # some cut the batch where there are three axes
        if kwargs.get("past_key_values") is None:
            for name in self._layout.mends:
                MENDS[name](self._model, self._layout, inputs, kwargs)
        self._prepared_ids = ids
        return inputs

    def _before_model(self, layer, args, kwargs) -> None:
        ids = kwargs.get("input_ids")
        self._cut = ids is not None and ids is self._prepared_ids

    def _before_head(self, layer, args, kwargs):
        return ((args[0][:, -1:], *args[1:]), kwargs) if self._cut else None


def mend_generation(model) -> None:
    """Make ``model.generate`` keep its KV cache and compute only the last logits; undone by ``unmend_generation``,
    called as often."""
    mend = model.__dict__.get(MEND) or GenerationMend(model, families.check(model).layout)
    mend.users += 1


def unmend_generation(model) -> None:
    """Take one ``mend_generation`` back."""
    mend = model.__dict__[MEND]
    mend.users -= 1
    if not mend.users:
        mend.undo()


@contextmanager
def cached_generation(model):
    """``with cached_generation(model): model.generate(...)`` decodes with the KV cache."""
    model = bare_model(model)
    mend_generation(model)
    try:
        yield model
    finally:
        unmend_generation(model)


class TokenClock:
    """A ``generate`` streamer that notes when each token appeared and hands them on to another streamer, if any."""

    def __init__(self, inner=None):
        self.inner = inner
        self.started = time.perf_counter()
        self.times: list[float] = []
        self._prompt_seen = False

    def put(self, value) -> None:
        """Token ids from ``generate``: the prompt's first, then each new one."""
        if self._prompt_seen:
            self.times.append(time.perf_counter() - self.started)
        self._prompt_seen = True
        if self.inner is not None:
            self.inner.put(value)

    def end(self) -> None:
        """The answer is complete."""
        if self.inner is not None:
            self.inner.end()

    def timings(self) -> dict:
        """Seconds to the first token (prefill, vision tower included) and tokens a second after it (None for one)."""
        decode = self.times[-1] - self.times[0] if len(self.times) > 1 else 0.0
        return {
            "ttft_s": self.times[0],
            "decode_tokens_per_s": (len(self.times) - 1) / decode if decode else None,
            "new_tokens": len(self.times),
        }
