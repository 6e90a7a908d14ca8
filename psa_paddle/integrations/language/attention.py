"""Plug sparse attention into a language model, of PaddleFormers or of PaddleMIX, and take it out again."""

from __future__ import annotations

from contextlib import contextmanager

from ...config import AttentionConfig
from ...stats import per_layer
from . import families, plugs
from .choice import AttentionChoice
from .paddleformers import plug as paddleformers_plug
from .paddleformers.plug import restore_attention
from .paddlemix import plug as paddlemix_plug
from .plugs import bare_model, plug_of

__all__ = [
    "attention_in", "layer_statistics", "plug_of", "psa_attention_in", "replace_attention",
    "replace_attention_with_psa", "restore_attention",
]  # fmt: skip
WAYS = {"paddleformers": paddleformers_plug, "paddlemix": paddlemix_plug}


def replace_attention(model, choice: AttentionChoice):
    """Make a language model prefill as ``choice`` says, until ``restore_attention``; returns the same model.

    Args:
        model: of one of ``families.FAMILIES``, built by PaddleFormers, or by PaddleMIX with eager, SDPA or flash
            attention; a ``QwenVLInference`` stands for its model. One that is plugged in already gets the new choice.

    Raises:
        TypeError: not such a model. ValueError: triangle layers that the model does not have.
    """
    bare = bare_model(model)
    plugs.replace(bare, _plug(bare, choice))
    return model


def _plug(model, choice: AttentionChoice):
    return WAYS[families.check(model).library].make_plug(model, choice)


def replace_attention_with_psa(model, psa_config: AttentionConfig | None = None):
    """Make a language model prefill with Pyramid Sparse Attention; returns the same model.

    Args:
        model: as for ``replace_attention``.
        psa_config: ``AttentionConfig()`` by default. With ``text_length=None`` the tokens after the last vision token
            stay at full resolution.

    Raises:
        TypeError: not such a model, or not an ``AttentionConfig``. ValueError: a bidirectional configuration.
    """
    return replace_attention(model, AttentionChoice("psa", psa_config))


@contextmanager
def attention_in(model, choice: AttentionChoice):
    """``with attention_in(model, choice): ...`` plugs in, and afterwards, whatever happens inside, takes out its own
    plug: a model that was plugged in before is so again."""
    bare = bare_model(model)
    entry = plugs.enter(bare, _plug(bare, choice))
    try:
        yield model
    finally:
        plugs.leave(bare, entry)


@contextmanager
def psa_attention_in(model, psa_config: AttentionConfig | None = None):
    """``with psa_attention_in(model): ...`` is ``attention_in`` with Pyramid Sparse Attention."""
    with attention_in(model, AttentionChoice("psa", psa_config)):
        yield model


def layer_statistics(model) -> list[dict]:
    """``stats.per_layer`` of a plugged model since the plug or its last reset; empty when nothing is plugged in."""
    plug = plug_of(model)
    return per_layer(plug.calls) if plug else []
