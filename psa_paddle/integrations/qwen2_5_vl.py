"""The published place of ``language.attention`` and of ``fast`` and ``pruner`` in ``language.paddleformers``."""

from .language.attention import (
    attention_in,
    layer_statistics,
    plug_of,
    psa_attention_in,
    replace_attention,
    replace_attention_with_psa,
    restore_attention,
)
from .language.paddleformers.fast import fast_layers_in, use_fast_layers, use_own_layers
from .language.paddleformers.pruner import keep_video_tokens, prune_video_tokens, pruner_of, video_tokens_in

__all__ = [
    "attention_in", "fast_layers_in", "keep_video_tokens", "layer_statistics", "plug_of", "prune_video_tokens",
    "pruner_of", "psa_attention_in", "replace_attention", "replace_attention_with_psa", "restore_attention",
    "use_fast_layers", "use_own_layers", "video_tokens_in",
]  # fmt: skip
