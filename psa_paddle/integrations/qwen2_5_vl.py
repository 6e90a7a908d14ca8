"""Plug Pyramid Sparse Attention into Qwen2.5-VL, of PaddleFormers or of PaddleMIX, and take it out again."""

from __future__ import annotations

from contextlib import contextmanager

from ..config import AttentionConfig
from . import paddleformers, paddlemix
from .paddleformers import plug_of, restore_attention

__all__ = ["plug_of", "psa_attention_in", "replace_attention_with_psa", "restore_attention"]


def replace_attention_with_psa(model, psa_config: AttentionConfig | None = None):
    """Make a Qwen2.5-VL model prefill with Pyramid Sparse Attention; returns the same model.

    Args:
        model: ``Qwen2_5_VLForConditionalGeneration`` of PaddleFormers, or of PaddleMIX with eager, SDPA or flash
            attention.
        psa_config: ``AttentionConfig()`` by default. With ``text_length=None`` the tokens after the last vision token
            stay at full resolution. A model that is plugged in already gets the new configuration.

    Raises:
        TypeError: not such a model. ValueError: a bidirectional configuration.
    """
    library = paddlemix if paddlemix.is_paddlemix_qwen(model) else paddleformers
    return library.replace_attention_with_psa(model, psa_config)


@contextmanager
def psa_attention_in(model, psa_config: AttentionConfig | None = None):
    """``with psa_attention_in(model): ...`` plugs in, and restores whatever happens inside."""
    try:
        yield replace_attention_with_psa(model, psa_config)
    finally:
        restore_attention(model)
