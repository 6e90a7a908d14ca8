"""Plug Pyramid Sparse Attention, TriangleMix or both into a Qwen2.5-VL model of PaddleFormers or PaddleMIX.

model = replace_attention_with_psa(model, psa_config)   # until restore_attention(model)
with psa_attention_in(model, psa_config): ...           # restored at the end, whatever happens
with attention_in(model, AttentionChoice("mix", triangle_layers=[2, 5])): ...   # TriangleMix there, PSA elsewhere
layer_statistics(model)                                 # what each layer did since the plug or the last reset
"""

from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.integrations.qwen2_5_vl import (
    attention_in,
    layer_statistics,
    plug_of,
    psa_attention_in,
    replace_attention,
    replace_attention_with_psa,
    restore_attention,
)
from psa_paddle.integrations.triangle_layers import choose_triangle_layers

__all__ = [
    "AttentionChoice",
    "attention_in",
    "choose_triangle_layers",
    "layer_statistics",
    "plug_of",
    "psa_attention_in",
    "replace_attention",
    "replace_attention_with_psa",
    "restore_attention",
]
