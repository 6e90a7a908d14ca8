"""The demo checkpoint's files: sizes, settings, and weights under Hugging Face's names."""

import copy
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from world_batches import CHECKPOINT

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.json")
HIDDEN = 256
TEXT_LAYERS, TEXT_HEADS, TEXT_KV_HEADS, TEXT_MLP = 6, 4, 2, 768
VISION_LAYERS, VISION_HIDDEN, VISION_HEADS, VISION_MLP = 4, 128, 4, 384


def write_json(path: Path, content) -> None:
    """Write one JSON file of the checkpoint."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def config_of(tokenizer) -> dict:
    """config.json: Qwen2.5-VL's architecture with small sizes, for a ``tokenizers.Tokenizer``."""
    token = tokenizer.token_to_id
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "vision_token_id": token("<|vision_pad|>"),
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": TEXT_MLP,
        "max_position_embeddings": 128000,
        "max_window_layers": TEXT_LAYERS,
        "num_attention_heads": TEXT_HEADS,
        "num_hidden_layers": TEXT_LAYERS,
        "num_key_value_heads": TEXT_KV_HEADS,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": VISION_LAYERS,
            "fullatt_block_indexes": [VISION_LAYERS - 1],
            "hidden_act": "silu",
            "hidden_size": VISION_HIDDEN,
            "in_channels": 3,
            "in_chans": 3,
            "intermediate_size": VISION_MLP,
            "num_heads": VISION_HEADS,
            "out_hidden_size": HIDDEN,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
        "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
    }


def new_model(config: dict):
    """The model with fresh weights in float32; seed torch first."""
    # The library writes into the dictionaries that it is given.
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**copy.deepcopy(config))).float()


# The library's own names have an inner "model."; the published checkpoint does not.
INNER = (("visual.", "model.visual."), ("model.", "model.language_model."))


def read_weights(folder: Path, model) -> None:
    """Load a checkpoint's model.safetensors into a model of the same sizes."""
    tensors = {}
    for name, value in load_file(folder / "model.safetensors").items():
        outer, inner = next((pair for pair in INNER if name.startswith(pair[0])), ("", ""))
        tensors[inner + name.removeprefix(outer)] = value.float()
    model.load_state_dict(tensors)


def write_checkpoint(folder: Path, config: dict, model) -> int:
    """Write config.json, generation_config.json, preprocessor_config.json and model.safetensors (bfloat16), and copy
    demo/checkpoint's tokenizer where the folder is another.

    Returns the bytes of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() != CHECKPOINT.resolve():
        for name in TOKENIZER_FILES:
            shutil.copy(CHECKPOINT / name, folder / name)
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": config["bos_token_id"],
            "do_sample": False,
            "eos_token_id": [config["eos_token_id"], config["bos_token_id"]],
            "pad_token_id": config["bos_token_id"],
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "Qwen2VLImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "max_pixels": 12845056,
            "merge_size": 2,
            "min_pixels": 3136,
            "patch_size": 14,
            "processor_class": "Qwen2_5_VLProcessor",
            "temporal_patch_size": 2,
        },
    )
    tensors = {}
    for name, value in model.state_dict().items():
        outer, inner = next((pair for pair in INNER if name.startswith(pair[1])), ("", ""))
        tensors[outer + name.removeprefix(inner)] = value.bfloat16().cpu()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return (folder / "model.safetensors").stat().st_size
