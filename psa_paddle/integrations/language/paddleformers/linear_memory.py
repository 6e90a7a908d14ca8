"""Dense attention with linear memory for PaddleFormers' models.

Some layers of the vision tower let every patch of a picture see every other: 61,000 patches at 12 megapixels, whose
weights take 14 GiB a head where they are made at once, as Paddle's own attention does on a CPU; so does the text model
with a long prompt. Qwen3-VL's tower attends over all patches of a clip and masks other frames: here frames are taken
one by one. The plug goes through PaddleFormers' attention registry, under a name that says what the model had before:
nothing else is kept, so that taking it out is setting the name back.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from itertools import chain

import numpy as np
import paddle
import paddle.nn.functional as F

from ....attention import dense_attention
from ....config import HEAD_DIMS, AttentionConfig
from ....plan import DenseReason
from .. import families
from .dense import own_attention, registry
from .names import NamePlace, places_of

PREFIX = "linear_memory_or_"
SHORT = 1024  # keys up to which the model's own attention is taken: windows, small frames


def name_places(model) -> tuple[list[NamePlace], list[NamePlace]]:
    """Where the vision tower's and the text model's attention is named; TypeError for models of no family."""
    layout = families.check(model, "paddleformers").layout
    tower, text = layout.tower_of(model), layout.text_of(model)
    vision = [] if tower is None else places_of(block.attn for block in tower.blocks)
    return vision, places_of((layer.self_attn for layer in text.layers), text.config)


def use_linear_memory(model, text: bool = False):
    """Let a PaddleFormers model attend with linear memory in its vision tower, until ``use_own_memory``.

    Exact to rounding: pictures, frames and windows stay what they are. On a GPU the kernel takes the tower's long
    sequences. Returns the model.

    Args:
        text: prefill the text model so too, on a CPU.

    Raises:
        TypeError: not such a model. ValueError: ``text`` on a model whose text attention is not ``sdpa``.
    """
    vision, language = name_places(model)
    for place in language if text else ():
        if place.get().removeprefix(PREFIX) != "sdpa":
            raise ValueError(f"the text model's attention must be 'sdpa', it is '{place.get()}'.")
    for place in [*vision, *(language if text else ())]:
        own = place.get()
        if not own.startswith(PREFIX):
            registry().AttentionInterface.register(PREFIX + own, partial(_attend, own))
            place.set(PREFIX + own)
    return model


def use_own_memory(model):
    """Undo ``use_linear_memory``; does nothing on a model without it. Returns the model."""
    for place in chain(*name_places(model)):
        place.set(place.get().removeprefix(PREFIX))
    return model


@contextmanager
def linear_memory_in(model, text: bool = False):
    """``with linear_memory_in(model): ...`` puts back what the model had, whatever happens inside."""
    before = [(place, place.get()) for place in chain(*name_places(model))]
    try:
        yield use_linear_memory(model, text)
    finally:
        for place, name in before:
            place.set(name)


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
    lengths = frame_lengths(how.get("attn_mask_startend_row_indices"))
    if lengths is not None:
        how = {**how, "attn_mask_startend_row_indices": None, "is_causal": False}
        frames = zip(*(paddle.split(x, lengths, 2) for x in (query, key, value)), strict=True)
        return paddle.concat([_attend(own, layer, *frame, **how)[0] for frame in frames], 1), None
    batch, heads, rows, dim = query.shape
    cached = _is_causal(layer) and 1 < rows < key.shape[2]
    if not (rows > SHORT or cached) or not _can(layer, query, value, how, cached):
        return _own(own, layer, query, key, value, how)
    wide = next(d for d in HEAD_DIMS if d >= dim) - dim  # zeros change no product; Qwen3-VL's tower has 72 a head
    q, k, v = (F.pad(x, [0, wide], data_format="NCHW") if wide else x for x in (query, key, value))
    how = {"scale": how.get("scaling", dim**-0.5), "heads_last": True}
    out, _ = dense_attention(q, k, v, AttentionConfig(causal=_is_causal(layer)), DenseReason.ASKED_FOR, **how)
    return out[..., :dim].reshape([batch, rows, heads * dim]), None


def frame_lengths(indices) -> list[int] | None:
    """How many patches each frame has, of row indices [1, 1, L, 4] by which frames see themselves alone, as Qwen3-VL's
    tower gives them; None for any other mask."""
    if indices is None or indices.ndim != 4 or list(indices.shape[:2]) != [1, 1] or indices.shape[3] != 4:
        return None
    rows = indices[0, 0].numpy()
    starts = np.unique(rows[:, 3])
    ends = np.append(starts[1:], len(rows))
    lengths = ends - starts
    columns = (ends, np.full_like(ends, len(rows)), np.zeros_like(ends), starts)
    if starts[0] != 0 or not np.array_equal(rows, np.stack(columns, 1).repeat(lengths, 0)):
        return None
    return lengths.tolist()


def _is_causal(layer) -> bool:
    """Text layers need not say so."""
    return getattr(layer, "is_causal", True)


def _own(own: str, layer, query, key, value, how: dict) -> tuple:
    """What the model has without linear memory; a text model's right also after keys of a cache."""
    if not _is_causal(layer):
        return registry().ALL_ATTENTION_FUNCTIONS[own](layer, query, key, value, **how)
    names = ("attention_mask", "attn_mask_startend_row_indices", "dropout", "scaling", "is_causal")
    given = [how.pop(name, None) for name in names]
    return own_attention(own, layer, query, key, value, *given, **how)


def _can(layer, query, value, how: dict, cached: bool) -> bool:
    """Whether nothing but whole or causal attention is asked for; cached: after keys of a cache."""
    if how.get("attention_mask") is not None or how.get("attn_mask_startend_row_indices") is not None:
        return False
    if how.get("sink") is not None or how.get("dropout") or query.shape[3] > max(HEAD_DIMS):
        return False
    if value.shape[3] != query.shape[3]:
        return False
    if paddle.is_grad_enabled() and not query.stop_gradient:
        return False
    asked = how.get("is_causal")
    if _is_causal(layer):
        here = query.place.is_cpu_place() or cached
        return here and asked in (None, True) and getattr(layer, "sliding_window", None) is None
    return asked is False
