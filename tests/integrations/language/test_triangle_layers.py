"""Layers chosen by autograd on the bundled model, against explicit gradients of the attention weights."""

import numpy as np
import paddle
import pytest
from integrations.language.test_paddleformers import snapshot
from paddleformers.nn.attention.interface import AttentionInterface
from shared_text import build
from shared_tiny import tiny_prompts

from psa_paddle.integrations.language.attention import plug_of, psa_attention_in
from psa_paddle.integrations.language.families import FAMILIES, find
from psa_paddle.integrations.language.measuring.triangle_layers import choose_triangle_layers, measure_middle_gradients
from psa_paddle.integrations.language.paddleformers.names import places_of
from psa_paddle.trianglemix import TriangleMixConfig, TriangleMixMaskGenerator

PATTERN = TriangleMixConfig(3, 20, 30)


def explicit_gradients(model, inputs, token=None) -> list[float]:
    """Grad(M, l) of every layer with weights that are built and differentiated as L x L tensors."""
    kept = {}

    def attention(layer, query, key, value, attention_mask=None, scaling=None, **kwargs):
        (b, h, n, d), group = query.shape, query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group, 1) for x in (key, value))
        hidden = paddle.triu(paddle.full([n, n], -1e30), 1)
        weights = paddle.nn.functional.softmax(paddle.matmul(query, key, transpose_y=True) * scaling + hidden, axis=-1)
        weights.retain_grads()
        kept[layer.layer_idx] = weights
        return paddle.matmul(weights, value).transpose([0, 2, 1, 3]).reshape([b, n, h * d]), None

    text = find(model).layout.text_of(model)
    places = places_of((layer.self_attn for layer in text.layers), text.config)
    names = [place.get() for place in places]
    AttentionInterface.register("explicit", attention)
    try:
        for place in places:
            place.set("explicit")
        rest = {name: x for name, x in inputs.items() if name != "attention_mask"}
        logits = model(**rest, return_dict=True, use_cache=False).logits[0, -1]
        logits[int(logits.argmax()) if token is None else token].backward()
    finally:
        for place, name in zip(places, names, strict=True):
            place.set(name)
        model.clear_gradients(set_to_zero=False)
    middle = TriangleMixMaskGenerator(PATTERN)._create_middle_mask(inputs["input_ids"].shape[1], "cpu", "bool").numpy()
    return [float(np.abs(kept[i].grad.numpy())[0][:, middle].mean()) for i in sorted(kept)]


@pytest.mark.parametrize("token", [None, 7], ids=["the model's own token", "a given token"])
def test_measures_equal_explicit_gradients(demo, prompts, token):
    model, _ = demo
    want = explicit_gradients(model, prompts[0], token)
    sample = prompts[0] if token is None else (prompts[0], token)
    got = measure_middle_gradients(model, [sample], PATTERN).middle_qk_gradients
    assert [len(records) for records in got] == [1] * len(want)
    assert [records[0] for records in got] == pytest.approx(want, rel=1e-3, abs=1e-12)
    assert min(want[:-1]) > 0 and want[-1] == 0


@pytest.mark.parametrize("name", ["Llama", "ERNIE-4.5", "Qwen3"])
def test_models_of_text(name):
    model = build(next(family for family in FAMILIES if family.name == name), num_hidden_layers=3)
    inputs = tiny_prompts([150], mask=False)
    want = explicit_gradients(model, inputs)
    found = measure_middle_gradients(model, [inputs], PATTERN)
    assert [records[0] for records in found.middle_qk_gradients] == pytest.approx(want, rel=1e-3, abs=1e-12)
    assert min(want[:2]) > 0 == want[2] and plug_of(model) is None
    assert model.model.layers[0].self_attn.config._attn_implementation == "sdpa"


def test_chooses_the_layers_that_matter_least(demo, prompts):
    model, _ = demo
    samples = [prompts[0], prompts[1]]
    means = np.mean([explicit_gradients(model, sample) for sample in samples], 0)
    for n in range(len(means) + 1):
        assert choose_triangle_layers(model, samples, n, PATTERN) == sorted(
            np.argsort(means, kind="stable")[:n].tolist()
        )
    assert choose_triangle_layers(model, samples, 1, PATTERN) == [len(means) - 1]


def test_leaves_the_model_as_it_was(demo, prompts):
    model, _ = demo
    shape, frozen = snapshot(model), [p.stop_gradient for p in model.parameters()]
    with paddle.no_grad():
        choose_triangle_layers(model, iter([prompts[0]]), 2, PATTERN)
    with pytest.raises(ValueError, match="Middle"):
        choose_triangle_layers(model, [prompts[0]], 2, TriangleMixConfig(4, 5000, 64))
    assert snapshot(model) == shape and [p.stop_gradient for p in model.parameters()] == frozen
    assert all(p.grad is None for p in model.parameters())


def test_gradients_that_are_not_finite_are_refused(demo, prompts, monkeypatch):
    model, _ = demo
    shape = snapshot(model)
    nan = lambda *_: paddle.full([], float("nan"))  # noqa: E731
    monkeypatch.setattr("psa_paddle.integrations.language.measuring.triangle_layers.middle_gradient", nan)
    with pytest.raises(ValueError, match="NaN or Inf"):
        choose_triangle_layers(model, [prompts[0]], 1, PATTERN)
    assert snapshot(model) == shape


def test_refuses(demo, prompts):
    model, _ = demo
    with pytest.raises(ValueError, match="at least one sample"):
        choose_triangle_layers(model, [], 1, PATTERN)
    with pytest.raises(TypeError, match="what the processor returns"):
        choose_triangle_layers(model, prompts[0], 1, PATTERN)
    with pytest.raises(ValueError, match="one by one and without padding"):
        choose_triangle_layers(model, [prompts[2]], 1, PATTERN)
    with pytest.raises(ValueError, match="triangle layers are wanted"):
        choose_triangle_layers(model, [prompts[0]], 99, PATTERN)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        choose_triangle_layers(model, [(prompts[0], 1 << 20)], 1, PATTERN)
    with pytest.raises(TypeError, match="Qwen2_5_VLForConditionalGeneration"):
        choose_triangle_layers(paddle.nn.Linear(2, 2), [prompts[0]], 1)
    with psa_attention_in(model), pytest.raises(ValueError, match="restore_attention"):
        choose_triangle_layers(model, [prompts[0]], 1, PATTERN)
