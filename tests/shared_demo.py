"""What the tests of the bundled Qwen2.5-VL share."""

import json
from pathlib import Path

import paddle

from psa_paddle import AttentionConfig

ROOT = Path(__file__).parents[1]
CONFIG = json.loads((ROOT / "demo" / "checkpoint" / "config.json").read_text(encoding="utf-8"))
LAYERS, HIDDEN = CONFIG["num_hidden_layers"], CONFIG["hidden_size"]
NEVER = CONFIG["vocab_size"] - 1  # no token of the tokenizer: generation goes on to the limit
SPARSE = AttentionConfig.preset(
    "seed",
    query_block=64,
    key_block=32,
    xattn_stride=8,
    mask_ratios={1: (0.0, 0.2), 4: (0.2, 0.5), 0: (0.5, 1.0)},
    use_sim_mask=False,
    dense_below=0,
)
ALL_ONE = SPARSE.replace(mask_ratios={1: (0.0, 1.0)})


def greedy(model, inputs, new_tokens=6):
    """New tokens [B, new_tokens] as lists."""
    with paddle.no_grad():
        ids, _ = model.generate(
            **inputs, max_new_tokens=new_tokens, decode_strategy="greedy_search", eos_token_id=NEVER, pad_token_id=0
        )
    return ids.tolist()
