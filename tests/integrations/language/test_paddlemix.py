"""Plugged into PaddleMIX's Qwen2.5-VL, on a stand-in: every attention class, cache, masks, batches, exact restore."""

import numpy as np
import paddle
import pytest
from shared_demo import ALL_ONE, SPARSE
from shared_paddlemix import CLASSES, DIM, KV_HEADS, LAYERS, VIDEO, Qwen2_5_VLForConditionalGeneration

from psa_paddle import AttentionConfig
from psa_paddle.integrations.language.attention import (
    layer_statistics,
    plug_of,
    psa_attention_in,
    replace_attention_with_psa,
    restore_attention,
)
from psa_paddle.integrations.language.generation import cached_generation
from psa_paddle.report import recording
from psa_paddle.stats import totals


def prompt(vision=400, question=23, seed=0):
    """Token ids [1, 5 + vision + question]: a greeting, a video, a question."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate([rng.integers(0, 80, 5), np.full(vision, VIDEO), rng.integers(0, 80, question)])
    return paddle.to_tensor(ids[None])


@pytest.fixture(params=list(CLASSES))
def model(request):
    model = Qwen2_5_VLForConditionalGeneration(request.param)
    model.model.embed_tokens.weight.set_value(model.model.embed_tokens.weight * 3)  # attention that is not flat
    model.eval()
    return model


@pytest.fixture
def eager():
    return Qwen2_5_VLForConditionalGeneration("eager")


@paddle.no_grad()
def logits_of(model, ids, **keywords):
    return model(ids, **keywords).logits.numpy()


@paddle.no_grad()
def tokens(model, ids, n=5, **keywords):
    return model.generate(ids, max_new_tokens=n, **keywords)[0].tolist()


def snapshot(model):
    """Everything that plugging in might leave behind."""
    parts = [model, model.model, model.lm_head, *(layer.self_attn for layer in model.model.layers)]
    weights = {name: (value.data_ptr(), value.numpy().tobytes()) for name, value in model.state_dict().items()}
    return [sorted(vars(p)) for p in parts], [len(p._forward_pre_hooks) for p in parts], weights


def test_all_levels_one_give_the_dense_answer(model):
    ids = prompt()
    places = paddle.to_tensor(np.random.default_rng(1).integers(0, 40, (3, 1, ids.shape[1])))  # time, height, width
    dense, answer = logits_of(model, ids, position_ids=places), tokens(model, ids)
    with psa_attention_in(model, ALL_ONE):
        error = np.abs(logits_of(model, ids, position_ids=places) - dense).max()
        assert all(row["sparse_calls"] == 1 and row["sparsity"] == 0 for row in layer_statistics(model))
        assert tokens(model, ids) == answer
    print(f"{error:.1e} of {np.abs(dense).max():.1f}")
    assert error < 1e-5 * np.abs(dense).max()


def test_sparse_prefill_and_dense_decode(model):
    ids = prompt()
    dense = logits_of(model, ids)
    with psa_attention_in(model, SPARSE):
        assert not np.array_equal(logits_of(model, ids), dense)
        plug = plug_of(model)
        plug.reset()
        tokens(model, ids, 4)
        summary = totals(plug.calls)
        assert len(plug.calls) == LAYERS and plug.decode_calls == 3 * LAYERS
        assert summary["layers_sparse"] == LAYERS and 0.1 < summary["average_sparsity"] < 0.9


def test_restore_is_exact(model):
    ids = prompt()
    dense, before = logits_of(model, ids), snapshot(model)
    assert replace_attention_with_psa(model, SPARSE) is model
    assert snapshot(model)[2] == before[2], "same weights at the same places"
    assert not np.array_equal(logits_of(model, ids), dense)
    assert restore_attention(model) is model and plug_of(model) is None
    assert snapshot(model) == before
    assert np.array_equal(logits_of(model, ids), dense)


def test_context_restores_after_an_error_and_twice_takes_the_new_configuration(model):
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError), psa_attention_in(model, SPARSE):
        replace_attention_with_psa(model, ALL_ONE)
        assert plug_of(model).config == ALL_ONE
        _ = 1 / 0
    assert snapshot(model) == before


def test_cache_tuples_are_the_models(model):
    ids = prompt()
    with paddle.no_grad():
        dense = model(ids, use_cache=True).past_key_values
        with psa_attention_in(model, ALL_ONE):
            ours = model(ids, use_cache=True).past_key_values
            assert model(ids, use_cache=False).past_key_values == (None,) * LAYERS
    assert isinstance(ours[0], tuple) and ours[0][0].shape == [1, KV_HEADS, ids.shape[1], DIM]
    for pair, want in zip(ours, dense, strict=True):
        assert all(np.abs(a.numpy() - b.numpy()).max() < 1e-5 for a, b in zip(pair, want, strict=True))


def test_prefill_in_two_parts(eager):
    ids = prompt()
    dense = logits_of(eager, ids)[:, 300:]
    with paddle.no_grad(), psa_attention_in(eager, ALL_ONE):
        cache = eager(ids[:, :300], use_cache=True).past_key_values
        second = eager(ids[:, 300:], past_key_values=list(cache)).logits.numpy()
        assert [call.lengths[0] for _, call in plug_of(eager).calls[LAYERS:]] == [(128, 428)] * LAYERS
    assert np.abs(second - dense).max() < 1e-4


@pytest.mark.parametrize("config", [ALL_ONE, SPARSE], ids=["level 1", "sparse"])
def test_left_padded_batch_answers_as_each_prompt_alone(model, config):
    """Also through the SDPA and flash classes, which by themselves attend to the padding."""
    first, second = prompt(400, 23), prompt(300, 9, seed=1)
    padding = first.shape[1] - second.shape[1]
    both = paddle.concat([first, paddle.concat([paddle.zeros([1, padding], dtype="int64"), second], axis=1)])
    mask = paddle.ones_like(both)
    mask[1, :padding] = 0
    with psa_attention_in(model, config):
        together = tokens(model, both, attention_mask=mask)
        assert all(call.mode == "sparse" for _, call in plug_of(model).calls)
        assert plug_of(model).calls[0][1].lengths == ((428, 428), (314, 314))
        assert together == [tokens(model, first)[0], tokens(model, second)[0]]


def test_decoding_of_a_padded_batch_is_dense_and_leaves_the_padding_out(model, eager):
    """Against the eager class, which reads the mask, on one cache and the same weights."""
    eager.set_state_dict(model.state_dict())
    ids, last = paddle.concat([prompt(), prompt(seed=1)]), paddle.to_tensor([[7], [8]])
    mask = paddle.ones([2, ids.shape[1] + 1], dtype="int64")
    mask[1, :150] = 0
    skip = SPARSE.replace(mask_ratios={0: (0.0, 1.0)}, text_length=0)
    with paddle.no_grad(), psa_attention_in(model, skip):
        cache = model(ids, attention_mask=mask[:, :-1], use_cache=True).past_key_values
        ours = model(last, attention_mask=mask, past_key_values=list(cache)).logits.numpy()
        want = eager(last, attention_mask=mask, past_key_values=list(cache)).logits.numpy()
        seen = eager(last, past_key_values=list(cache)).logits.numpy()
    assert np.abs(ours - want).max() < 1e-4 < np.abs(seen - want).max()


def test_no_square_mask_is_made(eager):
    made = []
    make = eager.model._prepare_decoder_attention_mask
    object.__setattr__(eager.model, "_prepare_decoder_attention_mask", lambda *a: made.append(a[1]) or make(*a))
    with psa_attention_in(eager, SPARSE):
        tokens(eager, prompt(), 3)
    assert [shape[1] for shape in made] == [1, 1]


def test_other_masks_run_dense(eager):
    ids = prompt()
    mask = paddle.ones_like(ids)
    mask[0, 40:60] = 0
    dense = logits_of(eager, ids, attention_mask=mask)
    with psa_attention_in(eager, SPARSE):
        assert np.array_equal(logits_of(eager, ids, attention_mask=mask), dense)
        assert totals(plug_of(eager).calls)["dense_reasons"] == {"attention mask": LAYERS}


def test_gradients_attention_weights_and_dropout_run_dense(eager):
    ids = prompt()
    with psa_attention_in(eager, SPARSE):
        eager(ids).logits.sum().backward()
        logits_of(eager, ids, output_attentions=True)
        for layer in eager.model.layers:
            layer.self_attn.attention_dropout = 0.1
        eager.train()
        logits_of(eager, ids)
        reasons = {"gradients": 2, "attention weights asked for": 2, "attention dropout": 2}
        assert totals(plug_of(eager).calls)["dense_reasons"] == reasons


def test_question_stays_at_full_resolution(eager):
    """The tokens after the last vision token, unless the user gives a length."""
    ids, skip = prompt(question=23), SPARSE.replace(mask_ratios={0: (0.0, 1.0)})
    with psa_attention_in(eager, skip):
        found = logits_of(eager, ids)
    with psa_attention_in(eager, skip.replace(text_length=23)):
        assert np.array_equal(logits_of(eager, ids), found)
    with psa_attention_in(eager, skip.replace(text_length=0)):
        assert not np.array_equal(logits_of(eager, ids), found)


def test_a_recorder_sees_the_layers(eager):
    """A report's densities are those of the statistics here, too."""
    ids = prompt()
    with psa_attention_in(eager, SPARSE), recording(eager, [1]) as record:
        record.put(ids)
        logits_of(eager, ids)
        rows = layer_statistics(eager)
    (found,) = record.maps[1]
    assert 1.0 - np.mean(found.per_head_density) == pytest.approx(rows[1]["sparsity"]) and list(record.maps) == [1]
    assert record.question_rows == 16 and record.mass_of_frames(4).shape == (LAYERS, 4)


@pytest.mark.parametrize("plugged", [False, True], ids=["dense", "psa"])
def test_generation_computes_only_the_last_logits(eager, plugged):
    ids, shapes = prompt(), []
    hook = eager.lm_head.register_forward_post_hook(lambda layer, args, out: shapes.append(out.shape[1]))
    with psa_attention_in(eager, ALL_ONE) if plugged else cached_generation(eager):
        answer = tokens(eager, ids, 3)
        with paddle.no_grad():
            logits = eager(input_ids=ids.clone()).logits
        assert logits.shape[1] == ids.shape[1], "a forward of the user's own is whole"
    hook.remove()
    assert shapes == [1, 1, 1, ids.shape[1]]
    assert tokens(eager, ids, 3) == answer


@pytest.mark.parametrize(
    "config,error,words",
    [
        ({"causal": True}, TypeError, "must be an AttentionConfig"),
        (AttentionConfig(causal=False), ValueError, "causal"),
        (AttentionConfig(warmup_steps=2), ValueError, "warmup_steps"),
    ],
    ids=["dict", "bidirectional", "warm-up"],
)
def test_refuses_configurations(eager, config, error, words):
    before = snapshot(eager)
    with pytest.raises(error, match=words):
        replace_attention_with_psa(eager, config)
    assert snapshot(eager) == before


def test_refuses_other_attention_classes(eager):
    eager.model.layers[1].self_attn = paddle.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="Qwen2_5_VLForConditionalGeneration"):
        replace_attention_with_psa(eager)
