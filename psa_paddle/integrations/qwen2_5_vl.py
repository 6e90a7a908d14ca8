"""The published place of ``language.attention``."""

from .language.attention import (
    attention_in,
    layer_statistics,
    plug_of,
    psa_attention_in,
    replace_attention,
    replace_attention_with_psa,
    restore_attention,
)

__all__ = [
    "attention_in", "layer_statistics", "plug_of", "psa_attention_in", "replace_attention",
    "replace_attention_with_psa", "restore_attention",
]  # fmt: skip
