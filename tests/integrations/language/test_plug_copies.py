"""Copies and pickles of plugged models are plugged in by themselves; contexts leave what others put in."""

import copy
import pickle

import numpy as np
import paddle
import pytest
from integrations.language.test_paddleformers import snapshot
from shared_paddlemix import Qwen2_5_VLForConditionalGeneration as MixModel
from shared_tiny import LAYERS, TINY_ONE, TINY_SPARSE, tiny_model, tiny_prompts

from psa_paddle.integrations.language.attention import (
    plug_of,
    psa_attention_in,
    replace_attention_with_psa,
    restore_attention,
)
from psa_paddle.integrations.language.generation import cached_generation
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.integrations.qwen2_5_vl import layer_statistics

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


def hidden(model, inputs) -> np.ndarray:
    """The last hidden states; the head of a pickled model is of no use, plugged in or not."""
    with paddle.no_grad():
        return model.model(**inputs, use_cache=False)[0].numpy()


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_has_its_own_plug(how):
    model, inputs = tiny_model(), tiny_prompts([100], mask=False)
    dense, shape = hidden(model, inputs), snapshot(model)
    replace_attention_with_psa(model, TINY_SPARSE)
    sparse = hidden(model, inputs)
    assert not np.array_equal(sparse, dense)
    other = COPIES[how](model)
    plug_of(model).reset()
    assert plug_of(other) is not plug_of(model) and np.array_equal(hidden(other, inputs), sparse)
    assert not plug_of(model).calls and len(plug_of(other).calls) == 2 * LAYERS
    restore_attention(other)
    assert plug_of(other) is None and snapshot(other) == shape and np.array_equal(hidden(other, inputs), dense)
    assert plug_of(model) is not None and np.array_equal(hidden(model, inputs), sparse)
    assert len(plug_of(model).calls) == LAYERS
    restore_attention(model)
    assert snapshot(model) == shape and np.array_equal(hidden(model, inputs), dense)


def test_the_original_may_be_restored_first():
    model, inputs = tiny_model(), tiny_prompts([100], mask=False)
    dense = hidden(model, inputs)
    with psa_attention_in(model, TINY_SPARSE):
        other = copy.deepcopy(model)
    assert plug_of(model) is None and plug_of(other).config == TINY_SPARSE
    assert np.array_equal(hidden(model, inputs), dense) and not np.array_equal(hidden(other, inputs), dense)


def test_a_copy_of_a_paddlemix_model_has_its_own_plug():
    model = MixModel("eager")
    ids = paddle.to_tensor(np.random.default_rng(0).integers(0, 80, (1, 200)))
    with paddle.no_grad():
        dense = model(ids).logits.numpy()
        replace_attention_with_psa(model, TINY_SPARSE)
        sparse, other = model(ids).logits.numpy(), copy.deepcopy(model)
        restore_attention(other)
        assert np.array_equal(other(ids).logits.numpy(), dense) and plug_of(other) is None
        assert np.array_equal(model(ids).logits.numpy(), sparse) and not np.array_equal(sparse, dense)


def test_hooks_of_a_pickled_model_do_not_give_way_to_later_ones():
    """Paddle numbers hooks from 0 in each process, and a number that a layer has already is overwritten."""
    model = tiny_model()
    replace_attention_with_psa(model, TINY_ONE)
    inner = [model.model, model.model.language_model]
    assert not any(isinstance(key, int) for part in inner for key in part._forward_pre_hooks)


def test_contexts_of_one_generation_leave_each_other_alone():
    """The plug's mend and that of ``cached_generation``, left in the order in which they were entered."""
    model = tiny_model()
    shape = snapshot(model)
    plugged, cached = psa_attention_in(model, TINY_ONE), cached_generation(model)
    plugged.__enter__()
    cached.__enter__()
    plugged.__exit__(None, None, None)
    assert "prepare_inputs_for_generation" in model.__dict__
    cached.__exit__(None, None, None)
    assert snapshot(model) == shape and "prepare_inputs_for_generation" not in model.__dict__


def test_methods_that_the_user_set_come_back():
    model, calls = tiny_model(), []
    update = model.update_model_kwargs_for_generation
    object.__setattr__(model, "update_model_kwargs_for_generation", lambda *a, **k: calls.append(1) or update(*a, **k))
    mine = model.__dict__["update_model_kwargs_for_generation"]
    with psa_attention_in(model, TINY_ONE), paddle.no_grad():
        model.generate(**tiny_prompts([30]), max_new_tokens=3, decode_strategy="greedy_search", eos_token_id=1)
    assert model.__dict__["update_model_kwargs_for_generation"] is mine and calls


def test_a_choice_made_inside_a_context_ends_with_it():
    model = tiny_model()
    shape = snapshot(model)
    replace_attention_with_psa(model, TINY_ONE)
    with psa_attention_in(model, TINY_SPARSE):
        replace_attention_with_psa(model, TINY_ONE.replace(query_block=128))
        assert plug_of(model).config.query_block == 128
    assert plug_of(model).config == TINY_ONE
    restore_attention(model)
    assert snapshot(model) == shape


def test_restoring_inside_a_context_is_final():
    model = tiny_model()
    shape = snapshot(model)
    with psa_attention_in(model, TINY_ONE):
        with psa_attention_in(model, TINY_SPARSE):
            restore_attention(model)
            assert plug_of(model) is None and snapshot(model) == shape
        assert plug_of(model) is None
    assert snapshot(model) == shape


def test_an_inference_stands_for_its_model():
    inference = QwenVLInference("demo", dtype="float32")
    shape = snapshot(inference.model)
    with psa_attention_in(inference, TINY_ONE) as given:
        assert given is inference and inference.attention == "psa" and plug_of(inference) is plug_of(inference.model)
        assert layer_statistics(inference) == []
    assert replace_attention_with_psa(inference, TINY_ONE) is inference
    assert restore_attention(inference) is inference and snapshot(inference.model) == shape
    with cached_generation(inference):
        assert snapshot(inference.model) != shape
