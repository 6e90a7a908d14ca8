"""Two mends for ``generate`` on Qwen2.5-VL, applied from outside.

PaddleFormers 1.2's ``update_model_kwargs_for_generation`` recognises the KV cache by the class of the output and misses
Qwen2.5-VL's own, so that every new token prefills the whole prompt again; and it and PaddleMIX compute logits for the
whole prompt where only the last ones are read.
"""

from __future__ import annotations

import inspect
import time
from contextlib import contextmanager

from .patches import Patches


def mend_generation(model, patches: Patches) -> None:
    """Make ``model.generate`` keep its KV cache and compute only the last logits; undone with ``patches``."""
    update = model.update_model_kwargs_for_generation
    prepare = model.prepare_inputs_for_generation

    def update_with_cache(outputs, model_kwargs, **kwargs):
        model_kwargs = update(outputs, model_kwargs, **kwargs)
        cache = getattr(outputs, "past_key_values", None)
        if cache is not None:
            model_kwargs["past_key_values"] = cache
        return model_kwargs

    def prepare_last_logits(*args, **kwargs):
        inputs = prepare(*args, **kwargs)
        inputs.setdefault("logits_to_keep", 1)
        return inputs

    patches.attribute(model, "update_model_kwargs_for_generation", update_with_cache)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        patches.attribute(model, "prepare_inputs_for_generation", prepare_last_logits)
    else:
        _cut_before_head(model, patches)


def _cut_before_head(model, patches: Patches) -> None:
    """Let the head see the last position alone, in forwards that ``generate`` prepared and in no other."""
    prepare = model.prepare_inputs_for_generation
    state = {"prepared": None, "cut": False}

    def remember(*args, **kwargs):
        inputs = prepare(*args, **kwargs)
        state["prepared"] = inputs.get("input_ids")
        return inputs

    def before_model(layer, args, kwargs):
        ids = kwargs.get("input_ids")
        state["cut"] = ids is not None and ids is state["prepared"]

    def before_head(layer, args, kwargs):
        return ((args[0][:, -1:], *args[1:]), kwargs) if state["cut"] else None

    patches.attribute(model, "prepare_inputs_for_generation", remember)
    patches.pre_hook(model, before_model)
    patches.pre_hook(model.lm_head, before_head)


@contextmanager
def cached_generation(model):
    """``with cached_generation(model): model.generate(...)`` decodes with the KV cache."""
    patches = Patches()
    try:
        mend_generation(model, patches)
        yield model
    finally:
        patches.undo()


class TokenClock:
    """A ``generate`` streamer that notes when each token appeared and hands them on to another streamer, if any."""

    def __init__(self, inner=None):
        self.inner = inner
        self.started = time.perf_counter()
        self.times: list[float] = []
        self._prompt_seen = False

    def put(self, value) -> None:
        if self._prompt_seen:
            self.times.append(time.perf_counter() - self.started)
        self._prompt_seen = True
        if self.inner is not None:
            self.inner.put(value)

    def end(self) -> None:
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
