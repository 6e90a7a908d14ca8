"""The table of families: what a row says is true, and a row is all that another model needs."""

import numpy as np
import paddle
import pytest
from shared_paddlemix import Qwen2_5_VLForConditionalGeneration as MixModel
from shared_text import build, paddlefleet
from shared_tiny import TINY_ONE, TINY_SPARSE, closeness, tiny_model

from psa_paddle.integrations.language import families
from psa_paddle.integrations.language.attention import plug_of, psa_attention_in
from psa_paddle.integrations.language.families import FAMILIES, Family
from psa_paddle.integrations.language.generation import MENDS
from psa_paddle.integrations.language.loading import LIBRARIES

QWEN = FAMILIES[0]


def traces(model, family: Family) -> list:
    """What a plug could leave behind: attributes, hooks, the implementation's name."""
    text = family.layouts["paddleformers"].text_of(model)
    parts = [model, model.model, text, *(layer.self_attn for layer in text.layers)]
    hooks = [list(part._forward_pre_hooks) + list(part._forward_post_hooks) for part in parts]
    return [text.config._attn_implementation, *(sorted(part.__dict__) for part in parts), *hooks]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_a_row_says(family):
    assert set(family.layouts) <= set(LIBRARIES) and family.layouts
    assert bool(family.vision_tokens) == (family.pixel_factor is not None)
    for layout in family.layouts.values():
        assert set(layout.mends) <= set(MENDS) and layout.config.count(":") == layout.model.count(":") == 1
    with paddlefleet():
        config, model = family.layouts["paddleformers"].classes()
    assert config.model_type == family.model_type and issubclass(model, paddle.nn.Layer)


def test_a_model_is_known_by_its_layers_in_both_libraries():
    ours, mix = tiny_model(), MixModel("sdpa")
    assert families.find(ours)[:2] == (QWEN, "paddleformers") and families.find(mix)[:2] == (QWEN, "paddlemix")
    layout = families.find(ours).layout
    assert layout.text_of(ours) is ours.model.language_model and layout.tower_of(ours) is ours.model.visual
    assert families.find(mix).layout.text_of(mix) is mix.model and families.find(mix).layout.tower_of(mix) is None
    assert QWEN.vision_ids(ours.config) == [60, 61]
    for stranger in (paddle.nn.Linear(2, 2), ours.model, None):
        assert families.find(stranger) is None
    with pytest.raises(TypeError, match="expected PaddleFormers' Qwen2_5_VLForConditionalGeneration, .* or .*, got "):
        families.check(mix, "paddleformers")
    mix.model.layers[1].self_attn = paddle.nn.Linear(2, 2)
    assert families.find(mix) is None, "every layer counts"


@pytest.mark.parametrize("family", FAMILIES[1:], ids=lambda family: family.name)
def test_a_model_is_plugged_by_its_row(family, monkeypatch):
    """Refused without its row; with it plugged, equal at level 1, sparse, restored."""
    inputs = {"use_cache": False, "return_dict": True}
    inputs["input_ids"] = paddle.to_tensor(np.random.default_rng(0).integers(2, 60, (1, 150)))
    model = build(family)
    with monkeypatch.context() as without:
        without.setattr(families, "FAMILIES", tuple(row for row in FAMILIES if row is not family))
        with pytest.raises(TypeError, match=f"got {type(model).__name__}"), psa_attention_in(model):
            pass
    with paddle.no_grad():
        want = model(**inputs).logits.numpy()
        before = traces(model, family)
        with psa_attention_in(model, TINY_ONE):
            assert closeness(model(**inputs).logits.numpy(), want) < 1e-5
            assert {call.mode for _, call in plug_of(model).calls} == {"sparse"}
        with psa_attention_in(model, TINY_SPARSE):
            assert closeness(model(**inputs).logits.numpy(), want) > 1e-3
            assert all(call.sparsity() > 0.05 for _, call in plug_of(model).calls)
        assert np.array_equal(model(**inputs).logits.numpy(), want)
    assert traces(model, family) == before


def test_a_checkpoint_of_no_family_is_named():
    assert families.of_type("qwen2_5_vl", "paddleformers") == (QWEN, QWEN.layouts["paddleformers"])
    with pytest.raises(ValueError, match="it is a 'bert' model, not Qwen2.5-VL$"):
        families.of_type("bert", "paddlemix")


def test_a_model_of_text_alone_has_no_vision_tokens_to_scale_for():
    assert QWEN.vision_factor() == QWEN.pixel_factor
    with pytest.raises(ValueError, match="Llama reads text alone"):
        FAMILIES[2].vision_factor()
