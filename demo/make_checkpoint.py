"""Write demo/checkpoint: a tiny Qwen2.5-VL with seeded random weights and its own tokenizer.

The architecture, tensor names and file layout are those of Qwen/Qwen2.5-VL-7B-Instruct, only the sizes are small, so
that every line of code which loads and runs the real model also runs on the demo. The weights are random: the answers
mean nothing. Needs torch, transformers and safetensors.

    python demo/make_checkpoint.py
"""

import json
from pathlib import Path

import torch
from demo_corpus import corpus
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

OUT = Path(__file__).parent / "checkpoint"
SEED = 20
BPE_TOKENS = 1200
SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip

# One system turn unless the conversation has its own, then the turns; a picture or a clip is one placeholder token
# between the vision marks, which the processor later repeats once for every merged patch.
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{%- endif -%}"
    "{%- for turn in messages -%}"
    "{{ '<|im_start|>' + turn['role'] + '\n' }}"
    "{%- if turn['content'] is string -%}"
    "{{ turn['content'] }}"
    "{%- else -%}"
    "{%- for part in turn['content'] -%}"
    "{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part['type'] == 'video' or 'video' in part -%}"
    "{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part -%}"
    "{{ part['text'] }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def write_json(name, content):
    """Write one JSON file of the checkpoint."""
    (OUT / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make_tokenizer():
    """Train a byte-level BPE with Qwen2's normalisation and word splitting, and write its four files.

    All 256 bytes are in the vocabulary, so any (NFC) string survives encoding and decoding.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    if tokenizer.get_vocab_size() != BPE_TOKENS:
        raise RuntimeError(f"the corpus only yields {tokenizer.get_vocab_size()} tokens")
    tokenizer.model.save(str(OUT))  # vocab.json and merges.txt, without the special tokens
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.save(str(OUT / "tokenizer.json"))

    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write_json(
        "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(tokenizer.token_to_id(token)): {"content": token, **flags} for token in SPECIAL_TOKENS
            },
            "additional_special_tokens": SPECIAL_TOKENS[1:],
            "bos_token": None,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )
    write_json("chat_template.json", {"chat_template": CHAT_TEMPLATE})
    return tokenizer


def make_config(tokenizer):
    """Write config.json, generation_config.json and preprocessor_config.json; return the first as a dict."""
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 256,
        "max_position_embeddings": 128000,
        "max_window_layers": 4,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": 2,
            "fullatt_block_indexes": [1],
            "hidden_act": "silu",
            "hidden_size": 64,
            "in_channels": 3,
            "in_chans": 3,
            "intermediate_size": 160,
            "num_heads": 2,
            "out_hidden_size": 128,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
        "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
    }
    write_json("config.json", config)
    write_json(
        "generation_config.json",
        {
            "bos_token_id": ids["<|endoftext|>"],
            "do_sample": False,
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "pad_token_id": ids["<|endoftext|>"],
        },
    )
    write_json(
        "preprocessor_config.json",
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
    return config


def speakable(tokenizer, vocab_size):
    """Mark the tokens that decode to whole printable characters: only they get an output row, so answers are text."""
    mask = torch.zeros(vocab_size, dtype=torch.bool)
    for token_id in range(BPE_TOKENS):
        text = tokenizer.decode([token_id])
        mask[token_id] = text.isprintable() and "\ufffd" not in text
    return mask


def initialise(model, mask):
    """Fill the weights from one seeded generator.

    A matrix gets the spread that keeps its output at about unit variance. Queries and keys get more, so that
    attention picks out a few places instead of averaging over all. Rows of the output head that are not speakable,
    the end marks among them, stay zero: greedy decoding never takes them, so an answer never ends at once.
    """
    generator = torch.Generator().manual_seed(SEED)
    for name, weight in sorted(model.named_parameters()):
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name or "ln_q" in name:
            values = 1 + 0.1 * noise
        elif name.endswith("bias"):
            values = 0.1 * noise
        elif "embed_tokens" in name:
            values = noise
        elif "lm_head" in name:
            values = noise * mask[:, None] / weight.shape[1] ** 0.5
        else:
            gain = 1.7 if any(part in name for part in ("q_proj", "k_proj", "qkv", "merger.mlp.2")) else 1.0
            values = noise * gain / weight[0].numel() ** 0.5
        weight.data.copy_(values)


def main():
    """Write the whole folder."""
    OUT.mkdir(exist_ok=True)
    tokenizer = make_tokenizer()
    config = make_config(tokenizer)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))
    initialise(model, speakable(tokenizer, config["vocab_size"]))
    # The library's own names have an inner "model."; the published checkpoint does not.
    tensors = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value.bfloat16()
        for name, value in model.state_dict().items()
    }
    save_file(tensors, OUT / "model.safetensors", metadata={"format": "pt"})
    size = sum(path.stat().st_size for path in OUT.iterdir())
    print(f"{OUT.name}: {len(tensors)} tensors, vocabulary {tokenizer.get_vocab_size()}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
