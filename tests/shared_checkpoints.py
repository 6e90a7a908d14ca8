"""Checkpoints with random weights, in Hugging Face's names and files, small enough for every test: Qwen3-VL, text."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demo" / "checkpoint"  # whose tokenizer it takes
TOKENIZER = ("merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json", "chat_template.json")
VOCABULARY, END, NEVER = 1216, 1202, 1215  # NEVER: no token of the tokenizer
IMAGE, VIDEO = 1212, 1213
LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP = 3, 64, 4, 2, 32, 96
DEPTH, VISION, VISION_HEADS, VISION_MLP, GRID = 3, 144, 2, 160, 8  # 72 a head, as Qwen3-VL has
DEEPSTACK = [0, 1]
CASES = {"image": ["image"], "images": ["image", "image"], "video": ["video"], "both": ["image", "video"]}
TEXTS = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
STEP = 16  # of a case's logits the golden file has every sixteenth token's, from the last one back

CONFIG = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": 1209,
    "vision_end_token_id": 1210,
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "qwen3_vl_text", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": MLP,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM, "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "rope_theta": 5000000, "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1200,
        "eos_token_id": END, "dtype": "float32", "use_cache": True,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
    },
    "vision_config": {
        "model_type": "qwen3_vl", "depth": DEPTH, "hidden_size": VISION, "hidden_act": "gelu_pytorch_tanh",
        "intermediate_size": VISION_MLP, "num_heads": VISION_HEADS, "in_channels": 3, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": HIDDEN,
        "num_position_embeddings": GRID * GRID, "deepstack_visual_indexes": DEEPSTACK,
    },
}  # fmt: skip
PREPROCESSOR = {
    "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "processor_class": "Qwen3VLProcessor",
}  # fmt: skip
IMAGES = {
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
VIDEOS = {"size": {"shortest_edge": 4096, "longest_edge": 25165824}, "video_processor_type": "Qwen3VLVideoProcessor"}


def shapes(tied: bool = False) -> dict[str, tuple[int, ...]]:
    """Every weight of the checkpoint and its shape."""
    text, tower, merged = "model.language_model.", "model.visual.", 4 * VISION
    sizes = {f"{text}embed_tokens.weight": (VOCABULARY, HIDDEN), f"{text}norm.weight": (HIDDEN,)}
    if not tied:
        sizes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    for i in range(LAYERS):
        layer = f"{text}layers.{i}."
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            sizes[f"{layer}self_attn.{name}_proj.weight"] = (heads * HEAD_DIM, HIDDEN)
        sizes[f"{layer}self_attn.o_proj.weight"] = (HIDDEN, HEADS * HEAD_DIM)
        sizes |= {f"{layer}self_attn.{name}_norm.weight": (HEAD_DIM,) for name in "qk"}
        sizes |= {f"{layer}mlp.{name}_proj.weight": (MLP, HIDDEN) for name in ("gate", "up")}
        sizes[f"{layer}mlp.down_proj.weight"] = (HIDDEN, MLP)
        sizes |= {f"{layer}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    sizes[f"{tower}patch_embed.proj.weight"], sizes[f"{tower}patch_embed.proj.bias"] = (VISION, 3, 2, 16, 16), (VISION,)
    sizes[f"{tower}pos_embed.weight"] = (GRID * GRID, VISION)
    linear = {}
    for i in range(DEPTH):
        block = f"{tower}blocks.{i}."
        sizes |= {f"{block}norm{n}.{part}": (VISION,) for n in "12" for part in ("weight", "bias")}
        linear |= {f"{block}attn.qkv": (3 * VISION, VISION), f"{block}attn.proj": (VISION, VISION)}
        linear |= {f"{block}mlp.linear_fc1": (VISION_MLP, VISION), f"{block}mlp.linear_fc2": (VISION, VISION_MLP)}
    for merger in ("merger", *(f"deepstack_merger_list.{i}" for i in range(len(DEEPSTACK)))):
        width = VISION if merger == "merger" else merged
        sizes |= {f"{tower}{merger}.norm.{part}": (width,) for part in ("weight", "bias")}
        linear |= {f"{tower}{merger}.linear_fc1": (merged, merged), f"{tower}{merger}.linear_fc2": (HIDDEN, merged)}
    for name, shape in linear.items():
        sizes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return sizes


def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Matrices drawn so that each keeps the size of what it multiplies; biases small, norms near one."""
    rng = np.random.default_rng(0)
    drawn = {}
    for name, shape in sorted(shapes.items()):
        values = rng.standard_normal(shape, np.float32)
        if len(shape) > 1:
            values /= np.sqrt(np.prod(shape[1:])) if "embed_tokens" not in name else 1
        else:
            values = 0.1 * values + ("norm" in name and name.endswith("weight"))
        drawn[name] = values.astype(np.float32)
    return drawn


def write_qwen3_vl(folder: Path, tied: bool = False, **changes) -> Path:
    """Write the checkpoint into a folder, made when needed; changes: of config.json. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER:
        shutil.copy(DEMO / name, folder / name)
    files = {
        "config.json": {**CONFIG, "tie_word_embeddings": tied, **changes},
        "generation_config.json": {"do_sample": False, "eos_token_id": [END, 1200], "pad_token_id": 1200},
        "preprocessor_config.json": {**PREPROCESSOR, **IMAGES},
        "video_preprocessor_config.json": {**PREPROCESSOR, **VIDEOS},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_file(draw(shapes(tied)), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def pictures_of(case: str) -> list[Image.Image]:
    """The pictures of a case, of sizes that no processor changes."""
    rng = np.random.default_rng(1)
    sizes = [(256, 320), (288, 256)][: CASES[case].count("image")]
    return [Image.fromarray(_blocks(rng, 1, *size)[0]) for size in sizes]


def video_of(case: str) -> tuple[np.ndarray, float] | None:
    """Frames uint8 [8, 64, 96, 3] and frames a second of a case's clip, if it has one."""
    return (_blocks(np.random.default_rng(2), 8, 64, 96), 0.8) if "video" in CASES[case] else None


def _blocks(rng, frames: int, height: int, width: int) -> np.ndarray:
    """Random colours in squares of 8 pixels."""
    small = rng.integers(0, 256, (frames, height // 8, width // 8, 3), np.uint8)
    return small.repeat(8, 1).repeat(8, 2)


def write_text_model(folder: Path, kind: str) -> Path:
    """Write a checkpoint of ``TEXTS`` with random weights, in Hugging Face's names; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER:
        shutil.copy(DEMO / name, folder / name)
    config = {
        "architectures": [TEXTS[kind]], "model_type": kind,
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": HEAD_DIM, "hidden_act": "silu",
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "bos_token_id": 1200, "eos_token_id": 1202, "torch_dtype": "float32", "attention_bias": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    sizes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    sizes["model.norm.weight"] = (HIDDEN,)
    for i in range(2):
        layer = f"model.layers.{i}."
        for name, heads in (("q", 2), ("k", 1), ("v", 1)):
            sizes[f"{layer}self_attn.{name}_proj.weight"] = (heads * HEAD_DIM, HIDDEN)
        sizes[f"{layer}self_attn.o_proj.weight"] = (HIDDEN, HIDDEN)
        if kind == "qwen3":
            sizes |= {f"{layer}self_attn.{name}_norm.weight": (HEAD_DIM,) for name in "qk"}
        sizes |= {f"{layer}mlp.{name}_proj.weight": (MLP, HIDDEN) for name in ("gate", "up")}
        sizes[f"{layer}mlp.down_proj.weight"] = (HIDDEN, MLP)
        sizes |= {f"{layer}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    save_file(draw(sizes), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def text_prompt() -> np.ndarray:
    """Tokens [1, 200] for the text models."""
    return np.random.default_rng(5).integers(5, 1000, (1, 200))
