"""Models of text alone of PaddleFormers: Llama, Qwen3 and others, with random weights."""

from functools import partial

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddleformers.nn.attention.interface import AttentionInterface
from shared_demo import SPARSE, greedy
from shared_text import build
from shared_tiny import TINY_ONE, TINY_SPARSE, closeness, real_logits, tiny_prompts

from psa_paddle.integrations.language.attention import attention_in, layer_statistics, plug_of, psa_attention_in
from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.integrations.language.families import FAMILIES
from psa_paddle.integrations.language.generation import cached_generation
from psa_paddle.integrations.language.paddleformers import dense
from psa_paddle.integrations.language.paddleformers.linear_memory import linear_memory_in
from psa_paddle.stats import totals
from psa_paddle.trianglemix import TriangleMixInferenceConfig

TEXT = {family.name: family for family in FAMILIES if not family.vision_tokens}
LONG = 3000


@pytest.fixture(scope="module", params=["Llama", "Qwen3"])
def model(request):
    return build(TEXT[request.param])


def logits_of(model, inputs) -> np.ndarray:
    return real_logits(partial(model, return_dict=True), inputs)


def test_a_long_prompt(model):
    """Level 1 is dense, in every layer; TriangleMix, alone and beside PSA, skips work and gives something
    else."""
    inputs = tiny_prompts([LONG], mask=False)
    want = logits_of(model, inputs)
    with linear_memory_in(model):
        assert closeness(logits_of(model, inputs), want) < 1e-5
    triangle = TriangleMixInferenceConfig.for_qwen3("14B", num_triangle_layers=1).to_trianglemix_config()
    choices = {"trianglemix": AttentionChoice("trianglemix", None, triangle)}
    choices["mix"] = AttentionChoice("mix", SPARSE, triangle)
    sparsity = {}
    for name, choice in {"level 1": AttentionChoice("psa", TINY_ONE), **choices}.items():
        with attention_in(model, choice):
            got = logits_of(model, inputs)
            modes = ["sparse", "dense" if name == "trianglemix" else "sparse"]
            assert [call.mode for _, call in plug_of(model).calls] == modes
            sparsity[name] = [row["sparsity"] for row in layer_statistics(model)]
        assert closeness(got, want) < 1e-5 if name == "level 1" else closeness(got, want) > 1e-3
    assert sparsity["level 1"] == [0, 0]
    assert sparsity["mix"][0] == sparsity["trianglemix"][0] > 0.8
    assert sparsity["trianglemix"][1] == 0 and sparsity["mix"][1] > 0.3
    assert np.array_equal(logits_of(model, inputs), want)


@pytest.mark.parametrize("family", TEXT.values(), ids=TEXT)
@pytest.mark.parametrize("config", [None, TINY_ONE, TINY_SPARSE], ids=["dense", "level 1", "sparse"])
def test_left_padded_prompts_answer_as_each_alone(family, config, monkeypatch):
    """With the cache: after the prompt every token is one query row; and only the last logits are computed."""
    model, both = build(family), tiny_prompts([150, 110], seed=4)
    alone = [{name: both[name][i : i + 1, pad:] for name in both} for i, pad in enumerate((0, 40))]
    rows, heads = [], []
    sdpa = AttentionInterface._global_mapping["sdpa"]

    def noting(module, query, *args, **how):
        rows.append(query.shape[2])
        return sdpa(module, query, *args, **how)

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", noting)
    of_one_row = dense.grouped_attention
    monkeypatch.setattr(dense, "grouped_attention", lambda q, *rest: rows.append(q.shape[2]) or of_one_row(q, *rest))
    hook = model.lm_head.register_forward_post_hook(lambda layer, args, logits: heads.append(logits.shape[1]))
    with cached_generation(model) if config is None else psa_attention_in(model, config):
        answers = greedy(model, both)
        layers = len(model.model.layers)
        assert rows == ([150] * layers if config is None else []) + [1] * (5 * layers) and heads == [1] * 6
        if config is not None:
            assert all(call.mode == "sparse" for _, call in plug_of(model).calls)
        assert answers == [greedy(model, one)[0] for one in alone]
    hook.remove()


@pytest.mark.parametrize("family", TEXT.values(), ids=TEXT)
def test_padding_is_not_seen(family):
    model, both = build(family), tiny_prompts([150, 110], seed=4)
    want = logits_of(model, both)
    with psa_attention_in(model, TINY_ONE):
        assert closeness(logits_of(model, both), want) < 1e-5


def dense_reasons(model, inputs, config=TINY_SPARSE) -> dict:
    """Why layers ran dense with the plug in, which gave the model's own logits."""
    want = logits_of(model, inputs)
    with psa_attention_in(model, config):
        assert closeness(logits_of(model, inputs), want) < 1e-5
        return totals(plug_of(model).calls)["dense_reasons"]


@pytest.mark.parametrize("lengths", [[150], [150, 110]], ids=["one", "padded"])
@pytest.mark.parametrize("name", ["Qwen3", "Phi-3"])
def test_sliding_windows_run_dense(name, lengths):
    """The layer that has one, which the library masks itself; the other runs sparse, here at level 1."""
    windows = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 40, "use_sliding_window": True}
    model, inputs = build(TEXT[name], **windows), tiny_prompts(lengths)
    assert dense_reasons(model, inputs, TINY_ONE) == {"attention mask" if lengths == [150] else "sliding window": 1}
    with cached_generation(model):
        dense = greedy(model, inputs)
    with psa_attention_in(model, TINY_ONE):
        assert greedy(model, inputs) == dense


@pytest.mark.parametrize("lengths", [[150], [150, 110]], ids=["one", "padded"])
def test_sinks_run_dense(lengths, monkeypatch):
    """As GPT-OSS's layers hand them over; on a CPU the library has them in ``eager`` alone."""
    model, whole = build(TEXT["Llama"]), AttentionInterface.__getitem__
    model.config._attn_implementation = "eager"
    sink = paddle.to_tensor([1.0, 2.0])
    monkeypatch.setattr(AttentionInterface, "__getitem__", lambda self, name: partial(whole(self, name), sink=sink))
    assert dense_reasons(model, tiny_prompts(lengths)) == {"attention sink": 2}


@pytest.mark.parametrize("lengths", [[150], [150, 110]], ids=["one", "padded"])
def test_values_of_another_width_run_dense(model, lengths, monkeypatch):
    """As in multi-head latent attention: here the values' second half is cut off, and zeros stand for it afterwards."""
    whole = AttentionInterface.__getitem__

    def narrow(self, name):
        def attend(layer, query, key, value, **how):
            if value.shape[3] == 16:  # the plug asks for the model's own
                return whole(self, name)(layer, query, key, value, **how)
            out, _ = whole(self, name)(layer, query, key, value[..., :16], **how)
            shape = [*out.shape[:2], query.shape[1], 16]
            return F.pad(out.reshape(shape), [0, 16]).reshape([*out.shape[:2], -1]), None

        return attend

    monkeypatch.setattr(AttentionInterface, "__getitem__", narrow)
    assert dense_reasons(model, tiny_prompts(lengths)) == {"values of another width than keys": 2}


def test_layers_need_not_know_their_number(model):
    numbers = [layer.self_attn.layer_idx for layer in model.model.layers]
    inputs = tiny_prompts([150])
    with psa_attention_in(model, TINY_SPARSE):
        want = logits_of(model, inputs)
    try:
        for layer in model.model.layers:
            del layer.self_attn.layer_idx
        with psa_attention_in(model, TINY_SPARSE):
            got = real_logits(partial(model, return_dict=True), inputs)
            assert [row["layer"] for row in layer_statistics(model)] == [0, 1]
    finally:
        for layer, number in zip(model.model.layers, numbers, strict=True):
            layer.self_attn.layer_idx = number
    assert np.array_equal(got, want)


def test_names_are_put_back():
    """ERNIE-4.5's layers keep one of their own beside the configuration's."""
    model = build(TEXT["ERNIE-4.5"])
    layer = model.model.layers[0].self_attn
    with psa_attention_in(model):
        assert layer.attn_implementation == layer.config._attn_implementation == "psa+sdpa"
    with linear_memory_in(model):
        assert layer.attn_implementation == "linear_memory_or_sdpa"
    assert layer.attn_implementation == layer.config._attn_implementation == "sdpa"
