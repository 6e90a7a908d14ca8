"""Dense attention with linear memory: the same numbers, less memory, undone exactly."""

import copy

import numpy as np
import paddle
import pytest
from paddleformers.transformers.cache_utils import DynamicCache
from shared_demo import SPARSE

from psa_paddle.integrations.language.attention import psa_attention_in
from psa_paddle.integrations.language.paddleformers import linear_memory
from psa_paddle.integrations.language.paddleformers.linear_memory import (
    linear_memory_in,
    use_linear_memory,
    use_own_memory,
)


@pytest.fixture
def model(demo):
    """The demo model with nothing plugged in, before and after."""
    before = names(demo[0])
    yield demo[0]
    assert names(demo[0]) == before


@pytest.fixture
def taken(monkeypatch):
    """Shapes of the queries that linear memory took."""
    shapes, whole = [], linear_memory.dense_attention

    def noting(query, *args, **how):
        shapes.append(list(query.shape))
        return whole(query, *args, **how)

    monkeypatch.setattr(linear_memory, "dense_attention", noting)
    return shapes


def names(model) -> list[str]:
    return [place.get() for place in linear_memory.name_places(model)]


def long_prompt(batch=1):
    rng = np.random.default_rng(1)
    return paddle.to_tensor(rng.integers(5, 1000, (batch, 1100)))


def test_text_model_answers_the_same(model, taken):
    ids = long_prompt()
    with paddle.no_grad():
        own = model(input_ids=ids)[0].numpy()
        with linear_memory_in(model):
            linear = model(input_ids=ids)[0].numpy()
    assert [shape[2] for shape in taken] == [1100] * len(model.model.language_model.layers)
    assert np.abs(linear - own).max() <= 1e-4 * np.abs(own).max()


def test_rows_after_a_cache_attend_with_linear_memory_however_few(model, taken):
    """An own mask of theirs would grow with the keys; and the model's own attention aligns them with the first keys."""
    ids = long_prompt()[:, :200]
    with paddle.no_grad(), linear_memory_in(model):
        whole = model(input_ids=ids)[0].numpy()
        cache, text = DynamicCache(), model.model.language_model
        for rows in (slice(0, 150), slice(150, 200)):
            places = paddle.arange(200)[rows].expand([3, 1, -1])
            out = text(
                inputs_embeds=text.embed_tokens(ids)[:, rows],
                past_key_values=cache,
                position_ids=places,
                use_cache=True,
                return_dict=True,
            )
    assert [shape[2] for shape in taken] == [50] * len(text.layers)
    last = model.lm_head(out.last_hidden_state).numpy()
    assert np.abs(last - whole[:, 150:]).max() <= 1e-4 * np.abs(whole).max()


@pytest.mark.parametrize("how", ["padding", "gradients"])
def test_text_model_keeps_its_own_attention(model, taken, how):
    """Masks and gradients are not for the operator."""
    ids = long_prompt(2 if how == "padding" else 1)
    mask = np.ones(ids.shape, np.int64)
    mask[0, :7] = 0 if how == "padding" else 1
    with linear_memory_in(model):
        if how == "gradients":
            model(input_ids=ids)[0].sum().backward()
            model.clear_gradients()
        else:
            with paddle.no_grad():
                linear = model(input_ids=ids, attention_mask=paddle.to_tensor(mask))[0].numpy()
    if how == "padding":
        with paddle.no_grad():
            own = model(input_ids=ids, attention_mask=paddle.to_tensor(mask))[0].numpy()
        assert np.array_equal(linear[:, 7:], own[:, 7:])
    assert taken == []


def test_plug_is_a_name_and_is_undone(model):
    before, state = names(model), {k: id(v) for k, v in model.state_dict().items()}
    assert use_linear_memory(model) is model and use_linear_memory(model) is model
    assert names(model) == ["linear_memory_or_sdpa"]
    twin = copy.deepcopy(model)
    assert use_own_memory(twin) is twin and names(twin) == before
    assert names(model)[0] == "linear_memory_or_sdpa"
    with pytest.raises(RuntimeError), linear_memory_in(model):
        raise RuntimeError
    assert names(model) == ["linear_memory_or_sdpa"]
    use_own_memory(use_own_memory(model))
    assert names(model) == before and {k: id(v) for k, v in model.state_dict().items()} == state


def test_refuses():
    with pytest.raises(TypeError, match="got Linear"):
        use_linear_memory(paddle.nn.Linear(2, 2))


def test_refuses_text_of_another_attention(model):
    with psa_attention_in(model, SPARSE), pytest.raises(ValueError, match="must be 'sdpa', it is 'psa[+]sdpa'"):
        use_linear_memory(model)
    assert names(model)[0] == "sdpa"
