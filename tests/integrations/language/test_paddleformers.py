"""Plugged into PaddleFormers' Qwen2.5-VL: same answers, exact restore, masks, batches, decode."""

import numpy as np
import paddle
import pytest
from paddleformers.nn.attention.interface import AttentionInterface
from shared_demo import ALL_ONE, HIDDEN, LAYERS, ROOT, SPARSE, greedy

from psa_paddle import AttentionConfig
from psa_paddle.integrations.language.attention import (
    layer_statistics,
    plug_of,
    psa_attention_in,
    replace_attention_with_psa,
    restore_attention,
)
from psa_paddle.integrations.language.generation import cached_generation
from psa_paddle.integrations.language.paddleformers import dense
from psa_paddle.stats import totals


def logits_of(model, inputs):
    with paddle.no_grad():
        return model(**inputs, logits_to_keep=1).logits.numpy()


def golden_inputs(golden, kind):
    """The tensors that transformers was given."""
    pixels, grid = ("pixel_values", "image_grid_thw") if kind == "image" else ("pixel_values_videos", "video_grid_thw")
    names = ["input_ids", pixels, grid, *(["second_per_grid_ts"] if kind == "video" else [])]
    inputs = {name: paddle.to_tensor(golden[f"{kind}.{name}"]) for name in names}
    ids = inputs["input_ids"]
    inputs["input_ids"] = ids if ids.ndim == 2 else ids.unsqueeze(0)
    return inputs


@pytest.mark.parametrize("kind", ["image", "video"])
def test_logits_agree_with_transformers(demo, golden, kind):
    """tests/golden/demo_logits.npz comes from demo/make_golden.py: Hugging Face transformers on torch."""
    model, _ = demo
    inputs, want = golden_inputs(golden, kind), golden[f"{kind}.logits"].reshape(-1)
    for config in (None, ALL_ONE):
        if config is None:
            got = logits_of(model, inputs).reshape(-1)
        else:
            with psa_attention_in(model, config):
                got = logits_of(model, inputs).reshape(-1)
        error = np.abs(got - want).max() / np.abs(want).max()
        print(f"{kind}, {'dense' if config is None else 'PSA at level 1'}: relative error {error:.1e}")
        assert error < 1e-3
    with cached_generation(model):
        assert greedy(model, inputs, 8) == [golden[f"{kind}.tokens"].reshape(-1).tolist()]


def test_all_blocks_at_level_one_give_the_dense_tokens(demo, prompts):
    model, _ = demo
    with cached_generation(model):
        dense = greedy(model, prompts[0], 12)
    with psa_attention_in(model, ALL_ONE):
        assert greedy(model, prompts[0], 12) == dense
        assert all(row["sparse_calls"] == 1 and row["sparsity"] == 0 for row in layer_statistics(model))


def test_sparse_prefill_skips_work(demo, prompts):
    model, _ = demo
    dense = logits_of(model, prompts[0])
    with psa_attention_in(model, SPARSE):
        sparse = logits_of(model, prompts[0])
        summary = totals(plug_of(model).calls)
    assert summary["layers_sparse"] == LAYERS and summary["layers_dense"] == 0
    assert summary["average_sparsity"] > 0.1 and summary["backends"] == ["eager"]
    assert not np.array_equal(sparse, dense)


def test_cache_mend_gives_the_same_tokens_and_one_query_row(demo, prompts, monkeypatch):
    """Without the mend PaddleFormers prefills again for each token; with it, decode attends with one row."""
    model, _ = demo
    rows = []
    sdpa = AttentionInterface._global_mapping["sdpa"]

    def spy(module, query, *args, **kwargs):
        if hasattr(module, "layer_idx") and module.layer_idx == 0:
            rows.append(query.shape[2])
        return sdpa(module, query, *args, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", spy)
    of_one_row, grouped = [], dense.grouped_attention
    monkeypatch.setattr(dense, "grouped_attention", lambda *given: of_one_row.append(1) or grouped(*given))
    length = prompts[0]["input_ids"].shape[1]
    slow = greedy(model, prompts[0], 4)
    assert rows == [length, length + 1, length + 2, length + 3]
    rows.clear()
    with cached_generation(model):
        assert greedy(model, prompts[0], 4) == slow
    assert rows == [length, 1, 1, 1]
    rows.clear()
    with psa_attention_in(model, SPARSE):
        greedy(model, prompts[0], 4)
        assert not rows and plug_of(model).decode_calls == len(of_one_row) == 3 * LAYERS
        assert len(plug_of(model).calls) == LAYERS  # one prefill call a layer


def test_generation_computes_only_the_last_logits(demo, prompts):
    model, _ = demo
    shapes = []
    hook = model.register_forward_post_hook(lambda layer, args, out: shapes.append(out.logits.shape[1]))
    try:
        with cached_generation(model):
            greedy(model, prompts[0], 3)
    finally:
        hook.remove()
    assert shapes == [1, 1, 1]


def snapshot(model):
    parts = [model, model.model, model.model.language_model, *(x.self_attn for x in model.model.language_model.layers)]
    names = [sorted(part.__dict__) for part in parts]
    configs = [model.config.text_config._attn_implementation, model.config.vision_config._attn_implementation]
    hooks = [len(part._forward_pre_hooks) for part in parts]
    return names, configs, hooks, [name for name, _ in model.named_sublayers()]


def test_restore_is_exact(demo, prompts):
    model, _ = demo
    before, shape = logits_of(model, prompts[0]), snapshot(model)
    weights = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    addresses = {name: value.data_ptr() for name, value in model.state_dict().items()}
    assert replace_attention_with_psa(model, SPARSE) is model
    assert list(model.state_dict()) == list(weights)
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == addresses
    assert not np.array_equal(logits_of(model, prompts[0]), before)
    assert restore_attention(model) is model
    assert snapshot(model) == shape
    assert np.array_equal(logits_of(model, prompts[0]), before)
    state = model.state_dict()
    assert list(state) == list(weights) and all(np.array_equal(state[n].numpy(), weights[n]) for n in weights)
    assert plug_of(model) is None and restore_attention(model) is model


def test_context_restores_after_an_error(demo):
    model, _ = demo
    shape = snapshot(model)
    with pytest.raises(ZeroDivisionError), psa_attention_in(model, SPARSE):
        assert plug_of(model) is not None
        _ = 1 / 0
    assert snapshot(model) == shape


def test_plugging_in_twice_takes_the_new_configuration(demo):
    model, _ = demo
    shape = snapshot(model)
    replace_attention_with_psa(model, SPARSE)
    replace_attention_with_psa(model, ALL_ONE)
    assert plug_of(model).config == ALL_ONE
    restore_attention(model)
    assert snapshot(model) == shape


@pytest.mark.parametrize("config", [ALL_ONE, SPARSE], ids=["level 1", "sparse"])
def test_left_padded_batch_answers_as_each_prompt_alone(demo, prompts, config):
    model, _ = demo
    first, second, both = prompts
    padding = int((both["attention_mask"][1] == 0).sum())
    assert padding > 50 and int(both["attention_mask"][0].sum()) == both["input_ids"].shape[1]
    with psa_attention_in(model, config):
        together = greedy(model, both)
        assert all(call.mode == "sparse" for _, call in plug_of(model).calls)
        assert together == [greedy(model, first)[0], greedy(model, second)[0]]


def test_mask_that_is_not_padding_runs_dense(demo, prompts):
    model, _ = demo
    inputs = dict(prompts[0].items())
    inputs["attention_mask"] = inputs["attention_mask"].clone()
    inputs["attention_mask"][:, 5] = 0  # a hole
    dense = logits_of(model, inputs)
    with psa_attention_in(model, SPARSE):
        assert np.array_equal(logits_of(model, inputs), dense)
        assert totals(plug_of(model).calls)["dense_reasons"] == {"attention mask": LAYERS}


def test_gradients_run_dense(demo, prompts):
    model, _ = demo
    with psa_attention_in(model, SPARSE):
        model(**prompts[1], logits_to_keep=1)
        assert totals(plug_of(model).calls)["dense_reasons"] == {"gradients": LAYERS}


def test_left_padding_keeps_its_mask_where_gradients_run_dense(demo, prompts):
    model, _ = demo
    dense = model(**prompts[2], logits_to_keep=1).logits.numpy()
    with psa_attention_in(model, SPARSE):
        assert np.array_equal(model(**prompts[2], logits_to_keep=1).logits.numpy(), dense)


def test_embeddings_do_not_inherit_the_last_prompts_question(demo, prompts):
    model, _ = demo
    embeds = paddle.randn([1, 700, HIDDEN]) * 0.02
    skip = SPARSE.replace(mask_ratios={0: (0.0, 1.0)})
    with paddle.no_grad(), psa_attention_in(model, skip):
        fresh = model.model.language_model(inputs_embeds=embeds)[0].numpy()
        logits_of(model, prompts[0])
        model.model(inputs_embeds=embeds, position_ids=paddle.arange(700).expand([3, 1, 700]))
        assert {tuple(n) for _, call in plug_of(model).calls[-LAYERS:] for n in call.lengths} == {(700, 700)}
        again = model.model.language_model(inputs_embeds=embeds)[0].numpy()
    assert np.array_equal(fresh, again)


def test_question_length_is_found(demo, prompts):
    """The tokens after the last vision token stay at level 1, unless the user gives a length."""
    model, _ = demo
    ids = prompts[0]["input_ids"].numpy()[0]
    after = len(ids) - 1 - np.flatnonzero(ids == model.config.video_token_id)[-1]
    skip = SPARSE.replace(mask_ratios={0: (0.0, 1.0)})
    with psa_attention_in(model, skip):
        found = logits_of(model, prompts[0])
    with psa_attention_in(model, skip.replace(text_length=int(after))):
        assert np.array_equal(logits_of(model, prompts[0]), found)
    with psa_attention_in(model, skip.replace(text_length=0)):
        assert not np.array_equal(logits_of(model, prompts[0]), found)


@pytest.mark.parametrize(
    "config,error,words",
    [
        ({"causal": True}, TypeError, "must be an AttentionConfig"),
        (AttentionConfig(causal=False), ValueError, "causal"),
        (AttentionConfig(warmup_steps=2), ValueError, "warmup_steps"),
    ],
    ids=["dict", "bidirectional", "warm-up"],
)
def test_refuses_configurations(demo, config, error, words):
    with pytest.raises(error, match=words):
        replace_attention_with_psa(demo[0], config)


def test_refuses_other_models():
    with pytest.raises(TypeError, match="Qwen2_5_VLForConditionalGeneration"):
        replace_attention_with_psa(paddle.nn.Linear(2, 2))


def test_script_folder_exports_the_plug():
    names = (ROOT / "qwen2.5-vl" / "qwen2_5_vl_psa_attention.py").read_text(encoding="utf-8")
    assert all(name in names for name in ("replace_attention_with_psa", "restore_attention", "psa_attention_in"))


def test_ids_given_by_position_tell_the_question(demo, prompts):
    model, _ = demo
    rest = {name: value for name, value in prompts[0].items() if name != "input_ids"}
    found = []
    for positional, named in (((), prompts[0]), ((prompts[0]["input_ids"],), rest)):
        with psa_attention_in(model, SPARSE.replace(text_length=None)), paddle.no_grad():
            model.model(*positional, **named)
            found.append([row["sparsity"] for row in layer_statistics(model)])
    assert found[0] == found[1] and min(found[0]) > 0
