"""Dense attention with linear memory for PaddleFormers' text models.

Paddle's own attention makes all weights of a head at once on a CPU: a long prompt's take gigabytes. The plug goes
through PaddleFormers' attention registry, under a name that says what the model had before: nothing else is kept, so
that taking it out is setting the name back.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial

import paddle
import paddle.nn.functional as F

from ....attention import dense_attention
from ....config import HEAD_DIMS, AttentionConfig
from ....plan import DenseReason
from .. import families
from .dense import own_attention, registry
from .names import NamePlace, places_of

PREFIX = "linear_memory_or_"
SHORT = 1024  # keys up to which the model's own attention is taken


def name_places(model) -> list[NamePlace]:
    """Where the text model's attention is named; TypeError for models of no family."""
    text = families.check(model, "paddleformers").layout.text_of(model)
    return places_of((layer.self_attn for layer in text.layers), text.config)


def use_linear_memory(model):
    """Let a PaddleFormers model prefill with linear memory on a CPU, until ``use_own_memory``; exact to rounding.
    Returns the model.

    Raises:
        TypeError: not such a model. ValueError: its text attention is not ``sdpa``.
    """
    places = name_places(model)
    for place in places:
        if place.get().removeprefix(PREFIX) != "sdpa":
            raise ValueError(f"the text model's attention must be 'sdpa', it is '{place.get()}'.")
    for place in places:
        own = place.get()
        if not own.startswith(PREFIX):
            registry().AttentionInterface.register(PREFIX + own, partial(_attend, own))
            place.set(PREFIX + own)
    return model


def use_own_memory(model):
    """Undo ``use_linear_memory``; does nothing on a model without it. Returns the model."""
    for place in name_places(model):
        place.set(place.get().removeprefix(PREFIX))
    return model


@contextmanager
def linear_memory_in(model):
    """``with linear_memory_in(model): ...`` puts back what the model had, whatever happens inside."""
    before = [(place, place.get()) for place in name_places(model)]
    try:
        yield use_linear_memory(model)
    finally:
        for place, name in before:
            place.set(name)


@contextmanager
def aligned_in(model, library: str, plug):
    """While rows come after a KV cache: a PaddleFormers model without a plug, whose ``sdpa`` aligns causal attention
    top-left, attends with linear memory, which does not."""
    if library != "paddleformers" or plug is not None or not _is_sdpa(model):
        yield
        return
    with linear_memory_in(model):
        yield


def _is_sdpa(model) -> bool:
    text = families.check(model).layout.text_of(model)
    return text.config._attn_implementation.removeprefix(PREFIX) == "sdpa"


def _attend(own: str, layer, query, key, value, **how):
    """The registry's entry: [B, H, Lq, D] and [B, Hkv, Lk, D] -> ([B, Lq, H * D], None)."""
    batch, heads, rows, dim = query.shape
    cached = 1 < rows < key.shape[2]
    if not (rows > SHORT or cached) or not _can(layer, query, value, how, cached):
        names = ("attention_mask", "attn_mask_startend_row_indices", "dropout", "scaling", "is_causal")
        given = [how.pop(name, None) for name in names]
        return own_attention(own, layer, query, key, value, *given, **how)
    wide = next(d for d in HEAD_DIMS if d >= dim) - dim  # zeros change no product
    q, k, v = (F.pad(x, [0, wide], data_format="NCHW") if wide else x for x in (query, key, value))
    how = {"scale": how.get("scaling", dim**-0.5), "heads_last": True}
    out, _ = dense_attention(q, k, v, AttentionConfig(), DenseReason.ASKED_FOR, **how)
    return out[..., :dim].reshape([batch, rows, heads * dim]), None


def _can(layer, query, value, how: dict, cached: bool) -> bool:
    """Whether nothing but causal attention is asked for; cached: after keys of a cache."""
    if how.get("attention_mask") is not None or how.get("attn_mask_startend_row_indices") is not None:
        return False
    if how.get("sink") is not None or how.get("dropout") or query.shape[3] > max(HEAD_DIMS):
        return False
    if value.shape[3] != query.shape[3] or getattr(layer, "sliding_window", None) is not None:
        return False
    if paddle.is_grad_enabled() and not query.stop_gradient:
        return False
    return (query.place.is_cpu_place() or cached) and how.get("is_causal") in (None, True)
