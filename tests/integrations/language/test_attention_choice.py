"""TriangleMix, and TriangleMix beside PSA, plugged into PaddleFormers' Qwen2.5-VL."""

import json

import numpy as np
import paddle
import pytest
from integrations.language.test_paddleformers import logits_of, snapshot
from shared_demo import ALL_ONE, ROOT, SPARSE, greedy

from psa_paddle import AttentionConfig
from psa_paddle.integrations.language import choice
from psa_paddle.integrations.language.attention import (
    attention_in,
    layer_statistics,
    plug_of,
    psa_attention_in,
    replace_attention,
)
from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.stats import totals
from psa_paddle.trianglemix import TriangleMixConfig, triangle_attention

PATTERN = TriangleMixConfig(3, 20, 30)
WHOLE = TriangleMixConfig(0, 0, 1 << 20)  # every row is among the last: the pattern is dense
EAGER = AttentionConfig(backend="eager")


@pytest.fixture
def no_short_prompts(monkeypatch):
    """The demo's prompts are shorter than what TriangleMix is for."""
    monkeypatch.setattr(choice, "DENSE_UP_TO", 0)


def mix(layers, triangle=PATTERN, psa=SPARSE):
    return AttentionChoice("mix", psa, triangle, layers)


def only(layers, triangle=PATTERN):
    return AttentionChoice("trianglemix", EAGER, triangle, layers)


def all_layers(model) -> list[int]:
    return list(range(len(model.model.language_model.layers)))


@pytest.mark.parametrize("make", [only, lambda layers, t: mix(layers, t, ALL_ONE)], ids=["trianglemix", "mix"])
def test_a_pattern_that_hides_nothing_gives_the_dense_tokens(demo, prompts, make, no_short_prompts):
    model, _ = demo
    dense, tokens = logits_of(model, prompts[0]), greedy(model, prompts[0])
    with attention_in(model, make([0, 2], WHOLE)):
        assert np.abs(logits_of(model, prompts[0]) - dense).max() < 1e-4 * np.abs(dense).max()
        assert greedy(model, prompts[0]) == tokens


def test_each_layer_gets_its_attention_and_its_density(demo, prompts, no_short_prompts):
    model, _ = demo
    n = prompts[0]["input_ids"].shape[1]
    rows = np.arange(1, n + 1)
    seen = np.where(n - rows + 1 < 30, rows, np.minimum(rows, 3 + 20 + 2)).sum()
    with psa_attention_in(model, SPARSE):
        logits_of(model, prompts[0])
        psa = layer_statistics(model)
    with attention_in(model, mix([1])):
        logits_of(model, prompts[0])
        rows_of = layer_statistics(model)
        assert plug_of(model).triangle_layers == [1]
    assert rows_of[1]["sparsity"] == pytest.approx(1 - seen / rows.sum(), abs=1e-12)
    assert rows_of[0]["sparsity"] == psa[0]["sparsity"] and rows_of[1]["sparsity"] != psa[1]["sparsity"]
    assert all(row["sparse_calls"] == 1 for row in rows_of)
    with attention_in(model, only([1])):
        logits_of(model, prompts[0])
        summary = totals(plug_of(model).calls)
    others = len(all_layers(model)) - 1
    assert summary["layers_sparse"] == 1 and summary["dense_reasons"] == {"not a triangle layer": others}
    assert [row["sparsity"] > 0 for row in summary["layers"]] == [row["layer"] == 1 for row in summary["layers"]]


def test_triangle_layers_compute_the_pattern(demo, prompts, monkeypatch, no_short_prompts):
    """What a triangle layer returns is ``triangle_attention`` of what it was given."""
    model, _ = demo
    seen = []

    def spy(query, key, value, config, backend, scale, starts, audit_rows):
        out, call = choice.triangle_prefill(query, key, value, config, backend, scale, starts, audit_rows)
        counts = dict(num_sink_tokens=3, sliding_window_size=20, num_last_tokens=30, kv_start=starts)
        seen.append(
            np.abs(out.numpy() - triangle_attention(query, key, value, **counts, heads_last=True).numpy()).max()
        )
        return out, call

    monkeypatch.setattr("psa_paddle.integrations.language.paddleformers.plug.triangle_prefill", spy)
    with attention_in(model, mix([0, 2])):
        logits_of(model, prompts[2])
    assert len(seen) == 2 and max(seen) == 0


def assert_same_logits(model, prompts):
    """A left-padded batch gives each sample the logits that it has alone."""
    together = logits_of(model, prompts[2])[:, -1]
    for i in range(2):
        alone = logits_of(model, prompts[i])[0, -1]
        assert np.abs(together[i] - alone).max() < 1e-4 * np.abs(alone).max()


@pytest.mark.parametrize("make", [only, mix], ids=["trianglemix", "mix"])
def test_left_padded_batch_answers_as_each_prompt_alone(demo, prompts, make, no_short_prompts):
    model, _ = demo
    first, second, both = prompts
    with attention_in(model, make([0, 1])):
        together = greedy(model, both)
        kinds = {layer: call.mode for layer, call in plug_of(model).calls}
        assert kinds[0] == kinds[1] == "sparse"
        assert together == [greedy(model, first)[0], greedy(model, second)[0]]
        assert_same_logits(model, prompts)


def test_samples_on_both_sides_of_the_bound(demo, prompts, monkeypatch):
    """A batch of one short and one long sample: dense and triangle, each as if it came alone."""
    model, _ = demo
    lengths = [int(n) for n in prompts[2]["attention_mask"].sum(1)]
    monkeypatch.setattr(choice, "DENSE_UP_TO", min(lengths))
    with attention_in(model, only(all_layers(model))):
        together = greedy(model, prompts[2])
        assert [call.mode for _, call in plug_of(model).calls] == ["sparse"] * len(all_layers(model))
        assert_same_logits(model, prompts)
        assert together == [greedy(model, prompts[0])[0], greedy(model, prompts[1])[0]]
        assert plug_of(model).calls[-1][1].mode == "dense"


def test_short_prompts_run_dense_and_say_so(demo, prompts):
    model, _ = demo
    dense = logits_of(model, prompts[0])
    with attention_in(model, only(all_layers(model))):
        assert np.abs(logits_of(model, prompts[0]) - dense).max() < 1e-4 * np.abs(dense).max()
        assert totals(plug_of(model).calls)["dense_reasons"] == {"no more than 2048 keys": len(all_layers(model))}


def text_hidden(model, embeds, cuts):
    """Last hidden states of a prompt of embeddings, prefilled in chunks that end at ``cuts``."""
    from paddleformers.transformers.cache_utils import DynamicCache

    text, cache, parts, start = model.model.language_model, DynamicCache(), [], 0
    for stop in cuts:
        positions = paddle.arange(start, stop).expand([3, 1, stop - start])
        with paddle.no_grad():
            out = text(
                inputs_embeds=embeds[:, start:stop], position_ids=positions, past_key_values=cache, use_cache=True,
                cache_position=paddle.arange(start, stop),
            )  # fmt: skip
        parts.append(out[0].numpy())
        start = stop
    return np.concatenate(parts, 1)


def test_chunked_prefill_equals_one_call(demo, no_short_prompts):
    """Without last rows, which belong to the end of each call, a prompt may come in chunks."""
    model, _ = demo
    paddle.seed(0)
    embeds = paddle.randn([1, 300, model.config.text_config.hidden_size]) * 0.02
    with attention_in(model, only([0, 1], TriangleMixConfig(3, 20, 0))):
        whole = text_hidden(model, embeds, [300])
        chunks = text_hidden(model, embeds, [110, 300])
        assert {call.lengths for _, call in plug_of(model).calls} == {((300, 300),), ((110, 110),), ((190, 300),)}
    assert np.abs(whole - chunks).max() < 1e-4 * np.abs(whole).max()


def test_restore_is_exact(demo, prompts, no_short_prompts):
    model, _ = demo
    before, shape = logits_of(model, prompts[0]), snapshot(model)
    with attention_in(model, mix([0])):
        assert not np.array_equal(logits_of(model, prompts[0]), before)
        replace_attention(model, only([1]))
        assert plug_of(model).choice.attention == "trianglemix"
    assert snapshot(model) == shape and np.array_equal(logits_of(model, prompts[0]), before)


REFUSED = {
    "unknown": (dict(attention="flash"), ValueError, "attention must be one of"),
    "dense": (dict(attention="dense"), ValueError, "attention must be one of"),
    "no layers": (dict(attention="mix"), ValueError, "needs the layers"),
    "empty layers": (dict(attention="mix", triangle_layers=[]), ValueError, "needs the layers"),
    "layers for PSA": (dict(attention="psa", triangle_layers=[1]), ValueError, "need attention 'trianglemix' or 'mix'"),
    "dict": (dict(attention="mix", triangle={"num_sink_tokens": 4}), TypeError, "must be a TriangleMixConfig"),
    "a layer twice": (dict(attention="mix", triangle_layers=[1, 1]), ValueError, "names a layer twice"),
    "half a layer": (dict(attention="mix", triangle_layers=[0.5]), TypeError, "must be an integer"),
    "PSA without PSA": (dict(attention="trianglemix", psa=SPARSE, triangle_layers=[1]), ValueError, "audit_rows alone"),
    "bidirectional": (dict(attention="mix", psa=AttentionConfig(causal=False)), ValueError, "causal"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    arguments, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        AttentionChoice(**arguments)


def test_refuses_layers_that_the_model_lacks(demo):
    model, _ = demo
    shape = snapshot(model)
    for bad in (only([0, 99]), only(None, TriangleMixConfig(num_triangle_layers=99))):
        with pytest.raises(ValueError, match="layers"):
            replace_attention(model, bad)
    assert snapshot(model) == shape


def test_inference_with_both(tmp_path, no_short_prompts, capsys):
    counts = dict(attention="mix", psa_config=SPARSE, triangle_config=PATTERN, triangle_layers=[0, 2])
    model = QwenVLInference("demo", dtype="float32", log_dir=tmp_path, **counts)
    model.inference_image(ROOT / "demo" / "sample.jpg", "What is this?", 2)
    s = model.stats()
    assert (s["attention"], s["use_psa"], s["triangle_layers"]) == ("mix", True, [0, 2])
    assert s["layers_dense"] == 0 and 0 < s["average_sparsity"] < 1 and json.loads(json.dumps(s)) == s
    assert s["average_sparsity"] == pytest.approx(np.mean([row["sparsity"] for row in s["layers"]]))
    model.print_stats()
    assert "TriangleMix in layers 0, 2, PSA in the others" in capsys.readouterr().out
    summary = json.loads(next(tmp_path.glob("*_summary.json")).read_text())
    assert summary["config"]["trianglemix"]["triangle_layer_indices"] == [0, 2]


@pytest.mark.parametrize(
    "arguments,words",
    [
        (dict(use_psa=True, attention="mix", triangle_layers=[1]), "give one of them"),
        (dict(triangle_layers=[1]), "do nothing without"),
        (dict(attention="dense", triangle_config=PATTERN), "do nothing without"),
        (dict(attention="trianglemix"), "needs the layers"),
    ],
    ids=["two attentions", "layers alone", "dense", "no layers"],
)
def test_inference_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        QwenVLInference("demo", dtype="float32", **arguments)
