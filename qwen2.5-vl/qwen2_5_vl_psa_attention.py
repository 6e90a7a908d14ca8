"""Plug Pyramid Sparse Attention into a Qwen2.5-VL model of PaddleFormers or PaddleMIX, and take it out again.

model = replace_attention_with_psa(model, psa_config)   # until restore_attention(model)
with psa_attention_in(model, psa_config): ...           # restored at the end, whatever happens
layer_statistics(model)                                 # what each layer did since the plug or the last reset
"""

from psa_paddle.integrations.qwen2_5_vl import (
    plug_of,
    psa_attention_in,
    replace_attention_with_psa,
    restore_attention,
)
from psa_paddle.integrations.summary import layer_statistics

__all__ = ["layer_statistics", "plug_of", "psa_attention_in", "replace_attention_with_psa", "restore_attention"]
