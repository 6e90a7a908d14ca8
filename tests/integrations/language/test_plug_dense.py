"""What the plug runs dense is what the model computes without it: masks, scaling, gradients, shared configurations."""

import numpy as np
import paddle
import pytest
from paddleformers.transformers import GlmOcrForConditionalGeneration, Qwen2_5_VLForConditionalGeneration
from paddleformers.transformers.cache_utils import DynamicCache
from shared_tiny import LAYERS, TINY_ONE, TINY_SPARSE, closeness, real_logits, tiny_config, tiny_model, tiny_prompts

from psa_paddle import AttentionConfig
from psa_paddle.integrations.language import choice
from psa_paddle.integrations.language.attention import (
    attention_in,
    plug_of,
    psa_attention_in,
    replace_attention_with_psa,
    restore_attention,
)
from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.integrations.language.measuring.triangle_layers import measure_middle_gradients
from psa_paddle.trianglemix import TriangleMixConfig


def reasons(model) -> set:
    return {call.reason for _, call in plug_of(model).calls}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_head_dimension_that_psa_lacks_gives_the_models_own_logits(attention):
    model, inputs = tiny_model(attention=attention, head_dim=16), tiny_prompts([50], mask=False)
    dense = real_logits(model, inputs)
    with psa_attention_in(model, TINY_SPARSE):
        assert np.array_equal(real_logits(model, inputs), dense)
        assert reasons(model) == {"head dimension 16"}


@pytest.mark.parametrize("head_dim", [16, 32], ids=["dense", "sparse"])
def test_scaling_is_honoured_in_prefill_and_decode(head_dim):
    """PaddleFormers' sdpa does not read it; its eager attention does."""
    want, model = (tiny_model(attention=name, head_dim=head_dim) for name in ("eager", "sdpa"))
    for layer in [*want.model.language_model.layers, *model.model.language_model.layers]:
        layer.self_attn.scaling *= 0.5
    inputs = tiny_prompts([40], mask=False)
    right = real_logits(want, inputs)
    assert closeness(real_logits(model, inputs), right) > 0.01
    with psa_attention_in(model, TINY_ONE), paddle.no_grad():
        assert closeness(real_logits(model, inputs), right) < 1e-5
        ids = inputs["input_ids"]
        cache = model(ids[:, :-1], use_cache=True).past_key_values
        last = model(ids[:, -1:], past_key_values=cache, cache_position=paddle.to_tensor([39])).logits.numpy()
    assert closeness(last[0, 0], right[-1]) < 1e-5


def test_a_sliding_layer_says_why_it_is_dense_and_the_others_stay_sparse():
    model, inputs = tiny_model(window=20, full_layers=1), tiny_prompts([120, 90])
    dense = real_logits(model, inputs)
    with psa_attention_in(model, TINY_ONE):
        assert closeness(real_logits(model, inputs), dense) < 1e-5
    with psa_attention_in(model, TINY_SPARSE):
        real_logits(model, tiny_prompts([120, 90]))
        calls = dict(plug_of(model).calls)
    assert [calls[i].mode for i in range(LAYERS)] == ["sparse", "dense", "dense"]
    assert {calls[1].reason, calls[2].reason} == {"sliding window"} and calls[1].backend == "sdpa"
    assert calls[0].lengths == ((120, 120), (90, 90)) and calls[0].sparsity() > 0.05


def test_no_square_mask_is_made_for_padding_that_only_sparse_layers_see(monkeypatch):
    model, made = tiny_model(attention="eager"), []
    text = model.model.language_model
    make = text._prepare_decoder_attention_mask
    object.__setattr__(text, "_prepare_decoder_attention_mask", lambda **k: made.append(k["input_shape"]) or make(**k))
    with psa_attention_in(model, TINY_SPARSE):
        real_logits(model, tiny_prompts([120, 90]))
        assert not made
    real_logits(model, tiny_prompts([120, 90]))
    assert made == [(2, 120)]


REASONS = {
    "not causal": dict(is_causal=False),
    "attention sink": dict(sink=paddle.zeros([2])),
    "attn_mask_startend_row_indices": dict(attn_mask_startend_row_indices=paddle.full([1, 1, 100, 1], 100, "int32")),
}


BASES = [(reason, name) for reason in REASONS for name in ("eager", "sdpa")]


@pytest.mark.parametrize("reason,attention", [base for base in BASES if base != ("attention sink", "sdpa")])  # GPU only
def test_what_a_call_may_ask_for_beside_psa(reason, attention):
    model, inputs = tiny_model(attention=attention), tiny_prompts([100], mask=False)
    with paddle.no_grad():
        want = model(**inputs, **REASONS[reason]).logits.numpy()
        with psa_attention_in(model, TINY_SPARSE):
            assert np.array_equal(model(**inputs, **REASONS[reason]).logits.numpy(), want)
            assert reasons(model) == {reason}


def test_dropout_in_training_runs_dense_and_in_evaluation_not():
    model, inputs = tiny_model(), tiny_prompts([100], mask=False)
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    with psa_attention_in(model, TINY_SPARSE):
        real_logits(model, inputs)
        assert reasons(model) == {""}
        plug_of(model).reset()
        model.train()
        real_logits(model, inputs)
        assert reasons(model) == {"attention dropout"}


WHOLE = TriangleMixConfig(0, 0, 1 << 20)  # every row is among the last: the pattern is dense
EVERY_KIND = {
    "psa": AttentionChoice("psa", TINY_ONE),
    "psa, question by question": AttentionChoice("psa", TINY_ONE.replace(text_length=None)),
    "trianglemix": AttentionChoice("trianglemix", AttentionConfig(backend="eager"), WHOLE, [0, 2]),
    "mix": AttentionChoice("mix", TINY_ONE, WHOLE, [1]),
}


@pytest.mark.parametrize("bound", [0, 85, 4000], ids=["long", "long and short", "short"])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_of_layer_honours_scaling_and_each_samples_padding(kind, bound, monkeypatch):
    model, inputs = tiny_model(attention="eager"), tiny_prompts([120, 70, 100], (0, 1))
    for layer in model.model.language_model.layers:
        layer.self_attn.scaling *= 0.5
    want = real_logits(model, inputs)
    monkeypatch.setattr(choice, "DENSE_UP_TO", bound)
    with attention_in(model, EVERY_KIND[kind]):
        assert closeness(real_logits(model, inputs), want) < 1e-5
        calls = dict(plug_of(model).calls)
    assert all(calls[i].lengths == ((120, 120), (70, 70), (100, 100)) for i in range(LAYERS))
    if "triangle" in kind:
        assert [calls[i].reason for i in (0, 1)] == [
            "no more than 4000 keys" if bound > 120 else "",
            "not a triangle layer",
        ]


def test_attention_weights_that_are_asked_for_come_from_eager_attention():
    model, inputs = tiny_model(attention="eager"), tiny_prompts([100], mask=False)
    with paddle.no_grad(), psa_attention_in(model, TINY_SPARSE):
        weights = model(**inputs, output_attentions=True).attentions
        assert reasons(model) == {"attention weights asked for"}
    assert [w.shape for w in weights] == [[1, 2, 100, 100]] * LAYERS
    assert float(paddle.triu(weights[0], 1).abs().max()) < 1e-20


def test_a_frozen_model_runs_sparse_also_where_gradients_are_enabled():
    model = tiny_model()
    for p in model.parameters():
        p.stop_gradient = True
    with psa_attention_in(model, TINY_SPARSE):
        model(**tiny_prompts([100], mask=False))
        assert reasons(model) == {""} and plug_of(model).calls[0][1].sparsity() > 0.05


def test_gradients_wanted_by_the_cache_of_an_upper_layer_run_every_layer_dense():
    model, inputs = tiny_model(), tiny_prompts([40], mask=False)
    for p in model.parameters():
        p.stop_gradient = True
    with paddle.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    cache.layers[-1].values.stop_gradient = False
    with psa_attention_in(model, TINY_SPARSE):
        places = paddle.arange(40, 80).expand([3, 1, 40])
        model(inputs["input_ids"], past_key_values=cache, position_ids=places)
        assert reasons(model) == {"gradients"}


@pytest.mark.parametrize("wanted", ["lm_head.weight", "language_model.layers.2.mlp"])
def test_gradients_wanted_above_run_every_layer_below_dense(wanted):
    model = tiny_model()
    for name, p in model.named_parameters():
        p.stop_gradient = wanted not in name
    with psa_attention_in(model, TINY_SPARSE):
        model(**tiny_prompts([100], mask=False))
        assert reasons(model) == {"gradients"} and len(plug_of(model).calls) == LAYERS


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_with_a_hole_behind_it_is_no_padding(attention):
    model, inputs = tiny_model(attention=attention), tiny_prompts([100, 80])
    inputs["attention_mask"][1, 50:60] = 0
    dense = real_logits(model, inputs)
    with psa_attention_in(model, TINY_SPARSE):
        assert np.array_equal(real_logits(model, inputs), dense) and reasons(model) == {"attention mask"}
        assert {call.lengths for _, call in plug_of(model).calls} == {((100, 100), (100, 100))}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_with_recomputed_layers(attention):
    """PaddleFormers runs each layer again in the backward pass, with whatever attention is named then."""
    model, inputs = tiny_model(attention=attention), tiny_prompts([100], mask=False)

    def gradient():
        model(**inputs, use_cache=False).logits.sum().backward()
        got = model.model.language_model.layers[0].self_attn.qkv_proj.weight.grad.numpy().copy()
        model.clear_gradients(set_to_zero=False)
        return got

    model.train()
    want, config = gradient(), model.config.text_config
    config.recompute_granularity, config.recompute_method, config.recompute_num_layers = "full", "uniform", 1
    with psa_attention_in(model, TINY_SPARSE):
        assert closeness(gradient(), want) < 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_two_models_of_one_configuration(attention):
    """Either may be plugged in, or both, and be restored first."""
    config, inputs = tiny_config(attention), tiny_prompts([100], mask=False)
    one, two = (Qwen2_5_VLForConditionalGeneration(config) for _ in range(2))
    dense = [real_logits(model, inputs) for model in (one, two)]
    replace_attention_with_psa(one, TINY_SPARSE)
    assert closeness(real_logits(one, inputs), dense[0]) > 0.01
    assert np.array_equal(real_logits(two, inputs), dense[1])
    replace_attention_with_psa(two, TINY_SPARSE)
    assert closeness(real_logits(two, inputs), dense[1]) > 0.01
    restore_attention(one)
    assert np.array_equal(real_logits(one, inputs), dense[0])
    plug_of(two).reset()
    real_logits(two, inputs)
    assert reasons(two) == {""} and len(plug_of(two).calls) == LAYERS
    restore_attention(two)
    assert config.text_config._attn_implementation == attention
    assert [np.array_equal(real_logits(m, inputs), d) for m, d in zip((one, two), dense, strict=True)] == [True] * 2


def test_the_measure_of_triangle_layers_is_the_same_with_eager_attention():
    pattern, sample = TriangleMixConfig(2, 5, 5), tiny_prompts([60])
    eager, sdpa = (
        np.array(measure_middle_gradients(tiny_model(attention=name), [(sample, 7)], pattern).middle_qk_gradients)
        for name in ("eager", "sdpa")
    )
    assert sdpa[0, 0] > 0 and closeness(eager, sdpa) < 1e-4


def test_another_model_with_a_language_model_is_refused():
    from paddleformers.transformers import GlmOcrConfig

    text = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "pad_token_id": 0}  # fmt: skip
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    model = GlmOcrForConditionalGeneration(GlmOcrConfig(text_config=text, vision_config=vision))
    assert model.model.language_model is not None
    with pytest.raises(TypeError, match="Qwen2_5_VLForConditionalGeneration, .*, got GlmOcrForConditionalGeneration"):
        replace_attention_with_psa(model)


def test_a_model_without_media_tokens_is_refused():
    model = tiny_model()
    del model.config.__dict__["video_token_id"]
    with pytest.raises(TypeError, match="expected PaddleFormers' Qwen2_5_VLForConditionalGeneration"):
        replace_attention_with_psa(model)


def test_chunks_of_a_padded_batch_stay_sparse():
    """The mask has a column for every key so far, the cache's too."""
    model, inputs, cache = tiny_model(), tiny_prompts([120, 90]), DynamicCache()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with paddle.no_grad(), psa_attention_in(model, TINY_SPARSE):
        for start, stop in ((0, 50), (50, 120)):
            places = paddle.arange(start, stop).expand([3, 2, stop - start])
            inside = {"position_ids": places, "attention_mask": mask[:, :stop]}
            model(ids[:, start:stop], past_key_values=cache, use_cache=True, **inside)
        assert reasons(model) == {""}
        assert [call.lengths for _, call in plug_of(model).calls[::LAYERS]] == [
            ((50, 50), (20, 20)),
            ((70, 120), (70, 90)),
        ]


def test_a_cache_given_to_the_unplugged_model_is_not_trimmed_twice():
    """A sliding cache of the user's own, as long as the window: the mask is cut to the keys that are left."""
    model, want = tiny_model(window=20), tiny_model(window=20, attention="eager")
    ids = tiny_prompts([60], mask=False)["input_ids"]
    cache = DynamicCache(config=model.config.text_config)
    with paddle.no_grad(), psa_attention_in(model, TINY_ONE):
        model(ids[:, :59], past_key_values=cache, use_cache=True)
        assert cache.layers[0].keys.shape[2] == 19
        places = paddle.full([3, 1, 1], 59, dtype="int64")
        got = model(ids[:, 59:], past_key_values=cache, use_cache=True, position_ids=places).logits.numpy()
    assert closeness(got[0, 0], real_logits(want, {"input_ids": ids})[-1]) < 1e-5
