"""Checkpoints of text models in Hugging Face's names: loaded, equal to transformers, refused without paddlefleet."""

import numpy as np
import paddle
import pytest
from shared_checkpoints import TEXTS, text_prompt, write_text_model
from shared_demo import ROOT, greedy
from shared_text import paddlefleet
from shared_tiny import TINY_ONE, closeness

from psa_paddle.integrations.language import families
from psa_paddle.integrations.language.attention import psa_attention_in
from psa_paddle.integrations.language.families import find
from psa_paddle.integrations.language.generation import cached_generation
from psa_paddle.integrations.language.loading import checkpoint_family, load_qwen2_5_vl
from psa_paddle.integrations.language.request import chat


@pytest.mark.parametrize("kind", TEXTS)
def test_logits_and_answers_agree_with_transformers(kind, tmp_path):
    """tests/golden/make_text.py wrote them."""
    with np.load(ROOT / "tests" / "golden" / "text_logits.npz") as file:
        want, tokens = file[f"{kind}.logits"], [file[f"{kind}.tokens"].tolist()]
    folder = str(write_text_model(tmp_path, kind))
    with paddlefleet():
        model, processor = load_qwen2_5_vl(folder, "float32")
    assert find(model).family is checkpoint_family(folder) and find(model).family.model_type == kind
    assert processor.tokenizer.padding_side == "left"
    inputs = {"input_ids": paddle.to_tensor(text_prompt())}
    for plug in (cached_generation(model), psa_attention_in(model, TINY_ONE)):
        with plug, paddle.no_grad():
            assert closeness(model(**inputs, return_dict=True).logits[0, -4:].numpy(), want) < 1e-4
            assert greedy(model, inputs, 6) == tokens


def test_a_tokenizer_takes_the_place_of_a_processor(tmp_path):
    _, processor = load_qwen2_5_vl(str(write_text_model(tmp_path, "llama")), "float32")
    settings = {"tokenize": False, "add_generation_prompt": True}
    text = processor.apply_chat_template(chat([], "Hello"), **settings)
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    assert processor(text=[text], return_tensors="pd")["input_ids"].shape[0] == 1
    processor.tokenizer.chat_template = None
    assert processor.apply_chat_template(chat([], "Hello"), **settings) == "Hello"


def test_without_paddlefleet_one_sentence_says_so(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError("paddlefleet is required for gpt_provider.")

    monkeypatch.setattr(families, "import_module", missing)
    with pytest.raises(ValueError, match=r"imports paddlefleet for this model, which PyPI does not have; .*\]\.$"):
        load_qwen2_5_vl(str(write_text_model(tmp_path, "qwen3")), "float32")
