"""Write the demo tokenizer into demo/checkpoint: a byte-level BPE of Qwen2's kind, trained on a page of text.

Needs tokenizers and transformers.

    python demo/make_tokenizer.py
"""

import json
from pathlib import Path

from demo_corpus import corpus
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

OUT = Path(__file__).parent / "checkpoint"
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


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    print(f"{OUT.name}: vocabulary {make_tokenizer().get_vocab_size()}")
