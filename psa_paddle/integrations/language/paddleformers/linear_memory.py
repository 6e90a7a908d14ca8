"""Dense attention with linear memory for PaddleFormers' models.

Some layers of the vision tower let every patch of a picture see every other: 61,000 patches at 12 megapixels, whose
weights take 14 GiB a head where they are made at once, as Paddle's own attention does on a CPU; so does the text model
with a long prompt. The plug goes through PaddleFormers' attention registry, under a name that says what the model had
before: nothing else is kept, so that taking it out is setting the name back.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from itertools import chain

import paddle

from ....attention import dense_attention
from ....config import HEAD_DIMS, AttentionConfig
from ....plan import DenseReason
from .. import families
from .dense import own_attention

PREFIX = "linear_memory_or_"
SHORT = 1024  # keys up to which the model's own attention is taken: windows, small frames


def _registry():
    """PaddleFormers' attention registry; imported late, as PaddleMIX comes without it."""
    from paddleformers.nn.attention import interface

    return interface


def _configs(model) -> tuple[list, list]:
    """The configurations of the vision tower's and of the text model's attention, each once; TypeError for others."""
    layout = families.check(model, "paddleformers").layout
    tower, text = layout.tower_of(model), layout.text_of(model)
    vision = [] if tower is None else [block.attn.config for block in tower.blocks]
    language = [text.config, *(layer.self_attn.config for layer in text.layers)]
    return list({id(c): c for c in vision}.values()), list({id(c): c for c in language}.values())


def use_linear_memory(model, text: bool = False):
    """Let a PaddleFormers model attend with linear memory in its vision tower, until ``use_own_memory``.

    Exact to rounding: pictures, frames and windows stay what they are. On a GPU the kernel takes the tower's long
    sequences. Returns the model.

    Args:
        text: prefill the text model so too, on a CPU.

    Raises:
        TypeError: not such a model. ValueError: ``text`` on a model whose text attention is not ``sdpa``.
    """
    vision, language = _configs(model)
    for config in language if text else ():
        if config._attn_implementation.removeprefix(PREFIX) != "sdpa":
            raise ValueError(f"the text model's attention must be 'sdpa', it is '{config._attn_implementation}'.")
    for config in [*vision, *(language if text else ())]:
        own = config._attn_implementation
        if not own.startswith(PREFIX):
            _registry().AttentionInterface.register(PREFIX + own, partial(_attend, own))
            config._attn_implementation = PREFIX + own
    return model


def use_own_memory(model):
    """Undo ``use_linear_memory``; does nothing on a model without it. Returns the model."""
    for config in chain(*_configs(model)):
        config._attn_implementation = config._attn_implementation.removeprefix(PREFIX)
    return model


@contextmanager
def linear_memory_in(model, text: bool = False):
    """``with linear_memory_in(model): ...`` puts back what the model had, whatever happens inside."""
    configs = list(chain(*_configs(model)))
    before = [config._attn_implementation for config in configs]
    try:
        yield use_linear_memory(model, text)
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


@contextmanager
def aligned_in(model, library: str, plug):
    """While rows come after a KV cache: a PaddleFormers model without a plug, whose ``sdpa`` aligns causal attention
    top-left, attends with linear memory, which does not."""
    if library != "paddleformers" or plug is not None:
        yield
        return
    text = families.check(model).layout.text_of(model).config._attn_implementation.removeprefix(PREFIX) == "sdpa"
    with linear_memory_in(model, text):
        yield


def _attend(own: str, layer, query, key, value, **how):
    """The registry's entry: [B, H, Lq, D] and [B, Hkv, Lk, D] -> ([B, Lq, H * D], None)."""
    batch, heads, rows, dim = query.shape
    cached = layer.is_causal and 1 < rows < key.shape[2]
    if not (rows > SHORT or cached) or not _can(layer, query, how, cached):
        names = ("attention_mask", "attn_mask_startend_row_indices", "dropout", "scaling", "is_causal")
        given = [how.pop(name, None) for name in names]
        return own_attention(own, layer, query, key, value, *given, **how)
    how = {"scale": how.get("scaling"), "heads_last": True}
    out, _ = dense_attention(query, key, value, AttentionConfig(causal=layer.is_causal), DenseReason.ASKED_FOR, **how)
    return out.reshape([batch, rows, heads * dim]), None


def _can(layer, query, how: dict, cached: bool) -> bool:
    """Whether nothing but whole or causal attention is asked for; cached: after keys of a cache."""
    if how.get("attention_mask") is not None or how.get("attn_mask_startend_row_indices") is not None:
        return False
    if how.get("sink") is not None or how.get("dropout") or query.shape[3] not in HEAD_DIMS:
        return False
    if paddle.is_grad_enabled() and not query.stop_gradient:
        return False
    asked = how.get("is_causal")
    if layer.is_causal:
        here = query.place.is_cpu_place() or cached
        return here and asked in (None, True) and getattr(layer, "sliding_window", None) is None
    return asked is False
