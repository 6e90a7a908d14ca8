"""PaddleFormers' Qwen2.5-VL with random weights, small enough to build one for every example."""

import numpy as np
import paddle
from paddleformers.transformers import Qwen2_5_VLForConditionalGeneration
from paddleformers.transformers.qwen2_5_vl.configuration import Qwen2_5_VLConfig
from shared_demo import SPARSE

VOCABULARY, IMAGE, VIDEO, VISION_START, VISION_END = 64, 60, 61, 62, 63
LAYERS = 3
# Skips whatever may be skipped, which a prompt has from 65 tokens on.
TINY_SPARSE = SPARSE.replace(mask_ratios={0: (0.0, 1.0)}, text_length=0)
TINY_ONE = TINY_SPARSE.replace(mask_ratios={1: (0.0, 1.0)})


def tiny_config(attention="sdpa", head_dim=32, window=None, full_layers=0):
    """window: of a sliding layer; full_layers: the first layers, which see everything."""
    hidden = 2 * head_dim
    text = {
        "vocab_size": VOCABULARY, "hidden_size": hidden, "intermediate_size": 64, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
        "rope_scaling": {"type": "mrope", "mrope_section": [head_dim // 8, 3 * head_dim // 16, 3 * head_dim // 16]},
        "use_sliding_window": window is not None, "sliding_window": window, "max_window_layers": full_layers,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.3,
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": hidden,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=VISION_START, vision_end_token_id=VISION_END, pad_token_id=0,
    )  # fmt: skip
    config.text_config._attn_implementation = attention
    for part in (config, config.text_config, config.vision_config):
        part.fuse_rms_norm = False
    config.vision_config._attn_implementation = "sdpa"
    return config


def tiny_model(seed=0, **settings):
    """A model in evaluation mode; the same weights for the same seed and head dimension."""
    paddle.seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(tiny_config(**settings))
    model.eval()
    return model


def tiny_prompts(lengths, images=(), seed=0, mask=True) -> dict:
    """A left-padded batch of prompts of ``lengths`` tokens, with an image of 16 tokens in the samples ``images``."""
    rng = np.random.default_rng(seed)
    longest = max(lengths)
    ids, real = np.zeros((len(lengths), longest), np.int64), np.zeros((len(lengths), longest), np.int64)
    for i, length in enumerate(lengths):
        row = rng.integers(2, IMAGE, length)
        if i in images:
            row[2:20] = [VISION_START, *[IMAGE] * 16, VISION_END]
        ids[i, longest - length :], real[i, longest - length :] = row, 1
    inputs = {"input_ids": paddle.to_tensor(ids)}
    if mask:
        inputs["attention_mask"] = paddle.to_tensor(real)
    if images:
        pixels = rng.standard_normal((64 * len(images), 3 * 2 * 14 * 14)).astype(np.float32)
        grid = np.array([[1, 8, 8]] * len(images))
        inputs |= {"pixel_values": paddle.to_tensor(pixels), "image_grid_thw": paddle.to_tensor(grid)}
    return inputs


def real_logits(model, inputs) -> np.ndarray:
    """Logits of the tokens that are not padding, [tokens, vocabulary]."""
    with paddle.no_grad():
        logits = model(**inputs, use_cache=False).logits.numpy()
    mask = inputs.get("attention_mask")
    return logits.reshape([-1, VOCABULARY]) if mask is None else logits[mask.numpy().astype(bool)]


def closeness(got, want) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(got - want).max() / np.abs(want).max())
