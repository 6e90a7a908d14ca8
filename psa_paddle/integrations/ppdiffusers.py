"""The published place of ``video.attention``."""

from .video.attention import plug_of, psa_attention_in, replace_attention_with_psa, restore_attention

__all__ = ["plug_of", "psa_attention_in", "replace_attention_with_psa", "restore_attention"]
