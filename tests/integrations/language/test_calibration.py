"""Budgets measured on a random and on the bundled model, and seen by the operator layer by layer."""

import numpy as np
import paddle
import pytest
from shared_demo import LAYERS
from shared_paddlemix import VIDEO, Qwen2_5_VLForConditionalGeneration

from psa_paddle import AttentionConfig
from psa_paddle.budget_solver import density_of
from psa_paddle.budgets import Budgets
from psa_paddle.integrations.language.attention import attention_in, plug_of, psa_attention_in
from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.integrations.language.measuring.calibration import calibrate_budgets
from psa_paddle.integrations.language.measuring.divergence import DivergenceMeter
from psa_paddle.integrations.language.paddleformers import plug as paddleformers_plug
from psa_paddle.trianglemix import TriangleMixConfig

SMALL = AttentionConfig(
    query_block=64,
    key_block=32,
    mask_mode="topk_sqrt",
    mask_ratios={1: (0.0, 0.05), 0: (0.05, 1.0)},
    block_means=False,
    use_sim_mask=False,
    dense_below=0,
)


@pytest.fixture(scope="module")
def tiny():
    """A random model in PaddleMIX's form: 2 layers of 4 heads, whose attention is not flat."""
    model = Qwen2_5_VLForConditionalGeneration(seed=3)
    with paddle.no_grad():
        model.model.embed_tokens.weight.set_value(model.model.embed_tokens.weight * 6.0)
    model.eval()
    return model


def tiny_sample(length=1000, question=20, seed=1):
    ids = np.random.default_rng(seed).integers(0, VIDEO, (1, length))  # the tiny model's vision tokens are all alike
    ids[0, length - question - 1] = VIDEO
    return {"input_ids": paddle.to_tensor(ids)}


def made(layers, heads, **changes) -> Budgets:
    rng = np.random.default_rng(0)
    values = dict(model="a model", config=SMALL, block_means=[i % 2 == 1 for i in range(layers)])
    return Budgets(factors=rng.uniform(0.5, 2, (layers, heads)).tolist(), **{**values, **changes})


def seen_configs(monkeypatch, module, run) -> list:
    """The configuration of every call of the operator, in order."""
    configs, operator = [], module.pyramid_attention

    def noting(q, k, v, config, **keywords):
        configs.append(config)
        return operator(q, k, v, config, **keywords)

    monkeypatch.setattr(module, "pyramid_attention", noting)
    with paddle.no_grad():
        run()
    return configs


def test_every_layer_runs_with_its_own_factors_and_means(demo, prompts, monkeypatch):
    model, _ = demo
    budgets = made(LAYERS, 4)
    with attention_in(model, AttentionChoice("psa", budgets=budgets)):
        configs = seen_configs(monkeypatch, paddleformers_plug, lambda: model(**prompts[0]))
    question = prompts[0]["input_ids"].numpy()[0][::-1] == model.config.video_token_id
    wanted = [budgets.config_of(i).replace(text_length=int(np.flatnonzero(question)[0])) for i in range(LAYERS)]
    assert configs == wanted and len({c.budgets for c in configs}) == LAYERS


def test_in_a_batch_and_in_paddlemix_too(demo, prompts, tiny, monkeypatch):
    model, _ = demo
    with attention_in(model, AttentionChoice("psa", budgets=made(LAYERS, 4))):
        configs = seen_configs(monkeypatch, paddleformers_plug, lambda: model(**prompts[2]))
    assert [c.budgets for c in configs] == [f for f in made(LAYERS, 4).factors for _ in range(2)]
    budgets = made(2, 4)
    with attention_in(tiny, AttentionChoice("psa", budgets=budgets)):
        configs = seen_configs(monkeypatch, paddleformers_plug, lambda: tiny(**tiny_sample()))
    assert [c.budgets for c in configs] == list(budgets.factors)
    assert [c.block_means for c in configs] == [False, True]


def test_budgets_of_one_answer_as_none_do(demo, prompts):
    model, _ = demo
    ones = made(LAYERS, 4, block_means=[False] * LAYERS)
    ones = Budgets("demo", SMALL, [[1.0] * 4] * LAYERS, ones.block_means)
    logits = []
    with paddle.no_grad():
        for choice in (AttentionChoice("psa", SMALL), AttentionChoice("psa", budgets=ones)):
            with attention_in(model, choice):
                logits.append(model(**prompts[0]).logits.numpy())
    np.testing.assert_array_equal(*logits)


def test_mix_takes_the_layers_that_were_measured():
    pattern = {"num_sink_tokens": 8, "sliding_window_size": 100, "num_last_tokens": 50}
    budgets = made(4, 2, triangle_layers=(1, 3), triangle=pattern)
    choice = AttentionChoice("mix", budgets=budgets)
    assert [choice.of_layer(i) for i in range(4)] == ["psa", "trianglemix"] * 2
    assert choice.triangle == TriangleMixConfig(**pattern, triangle_layer_indices=[1, 3])
    given = AttentionChoice("mix", budgets=budgets, triangle_layers=[0])
    assert [given.of_layer(i) for i in range(4)] == ["trianglemix", "psa", "psa", "psa"]
    for without in (made(4, 2), made(4, 2, triangle=pattern)):
        with pytest.raises(ValueError, match="needs the layers that TriangleMix takes"):
            AttentionChoice("mix", budgets=without)


def test_choices_that_make_no_sense_are_refused(demo, tiny):
    with pytest.raises(ValueError, match="share out what PSA keeps; use attention 'psa' or 'mix'"):
        AttentionChoice("trianglemix", budgets=made(2, 4), triangle_layers=[0])
    with pytest.raises(TypeError, match="budgets must be Budgets"):
        AttentionChoice("psa", budgets="file.json")
    with pytest.raises(ValueError, match="mean nothing in mask_mode 'energybound'"):
        AttentionChoice("psa", AttentionConfig.preset("seed"), budgets=made(2, 4))
    for model, kind in ((demo[0], "6 of 4"), (tiny, "2 of 4")):
        with pytest.raises(ValueError, match=f"for 3 layers of 4 query heads .a model., but this model has {kind}"):
            with attention_in(model, AttentionChoice("psa", budgets=made(3, 4))):
                pass


def divergence(model, sample, rows, config, layer) -> float:
    """KL of the last rows with one layer sparse, from whole forward passes."""
    alone = Budgets("", config, [[1e4] * 4 if i != layer else [1.0] * 4 for i in range(2)], [config.block_means] * 2)
    logits = []
    with paddle.no_grad():
        logits.append(model(**sample).logits.numpy()[0, -rows:].astype(float))
        with attention_in(model, AttentionChoice("psa", budgets=alone)):
            logits.append(model(**sample).logits.numpy()[0, -rows:].astype(float))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("means", [False, True])
def test_a_pass_measures_the_divergence_of_the_answer(tiny, means):
    sample = tiny_sample()
    with DivergenceMeter(tiny, SMALL, None) as meter:
        meter.add(sample, 5)
        tokens, text = meter.lengths[0]
        assert tokens == 1005 and text == 25  # the question and the answer
        assert meter.loss({}) == 0.0
        config = SMALL.replace(block_means=means)
        found = [meter.loss({layer: config}) for layer in (0, 1, 0)]
        everything = meter.loss({0: SMALL.replace(budgets=[1e4] * 4)})
        full = meter.samples[0].inputs
    config = config.replace(text_length=25)
    want = [divergence(tiny, full, 6, config, layer) for layer in (0, 1, 0)]
    assert want[0] > 1e-4  # the last layer's sparse rows are read by nobody
    assert found == pytest.approx(want, rel=1e-2, abs=1e-7) and abs(everything) < 1e-6


def test_calibration_of_a_random_model(tiny):
    samples, before = [tiny_sample()], {k: v.numpy() for k, v in tiny.state_dict().items()}
    calls = []
    found = calibrate_budgets(
        tiny, samples, SMALL, density=0.34, answer_tokens=3, name="tiny", progress=lambda *x: calls.append(x)
    )
    assert (found.layers, found.heads, found.model, found.target) == (2, 4, "tiny", {"density": 0.34})
    assert all((before[k] == v.numpy()).all() for k, v in tiny.state_dict().items()) and plug_of(tiny) is None
    assert calls[-1][0] == calls[-1][1] == len(calls) == 2 * 4 + 2 * 4 + 2  # the last layer loses nothing
    curves, lengths = found.curves, [(1003, 23)]
    assert curves["layers"][0][0] > curves["layers"][0][2] and max(curves["layers"][1]) < 1e-6
    assert list(curves["heads"]) == ["0"] and np.array(curves["heads"]["0"]).shape == (4, 2)
    assert np.mean(found.factors[0]) > np.mean(found.factors[1])
    shares = [
        density_of(found.config_of(layer), lengths, factor) for layer in (0, 1) for factor in found.factors[layer]
    ]
    assert np.mean(shares) == pytest.approx(0.34, abs=0.02)  # in whole blocks
    # The blocks that stay at level 1 are not the most important ones of a random model: both keep more than was asked.
    kept = [found.measured[name]["density"] for name in ("budgets", "uniform")]
    assert kept[0] == pytest.approx(kept[1], abs=0.02) and 0.34 < kept[0] < 0.5
    assert found.measured["budgets"]["loss"] < found.measured["uniform"]["loss"]


def test_a_wanted_loss_is_measured(tiny, monkeypatch):
    monkeypatch.setattr("psa_paddle.integrations.language.measuring.calibration.LOSS_STEPS", 4)
    samples = [tiny_sample()]
    plain = calibrate_budgets(tiny, samples, SMALL, density=0.34, heads=False, answer_tokens=3)
    wanted = plain.measured["budgets"]["loss"] / 4
    found = calibrate_budgets(tiny, samples, SMALL, loss=wanted, heads=False, answer_tokens=3)
    assert 0 < found.measured["budgets"]["loss"] <= wanted and found.target == {"loss": wanted}
    assert found.measured["budgets"]["density"] > plain.measured["budgets"]["density"]


def test_refuses(tiny, demo):
    sample = tiny_sample()
    for words, settings in {
        "at least one sample": dict(samples=[]),
        "one by one": dict(samples=[{"input_ids": paddle.zeros([2, 1000], dtype="int64")}]),
        "a density or a loss, not both": dict(density=0.2, loss=0.1),
        "density must be above 0 and below 1": dict(density=1.5),
        "loss must be above 0": dict(loss=-1.0),
        "a density of 0.01 is out of reach": dict(density=0.01),
        "mask_mode 'topk' or 'topk_sqrt'": dict(config=AttentionConfig.preset("seed")),
        "must skip or pool something": dict(config=SMALL.replace(mask_ratios={1: (0.0, 1.0)})),
        "ran dense on a sample of 1003 tokens .shorter than 9999 keys.": dict(config=SMALL.replace(dense_below=9999)),
        "ran dense on a sample of 1003 tokens .no more than 2048 keys.": dict(triangle=TriangleMixConfig()),
    }.items():
        settings = {"samples": [sample], "config": SMALL, "answer_tokens": 3, "density": 0.4, **settings}
        if settings.get("loss") == -1.0:
            settings["density"] = None
        with pytest.raises(ValueError, match=words):
            calibrate_budgets(tiny, settings.pop("samples"), **settings)
        assert plug_of(tiny) is None
    with pytest.raises(TypeError, match="what the processor returns"):
        calibrate_budgets(tiny, sample, SMALL)
    with pytest.raises(TypeError, match="AttentionConfig"):
        calibrate_budgets(tiny, [sample], "fast")
    with psa_attention_in(tiny), pytest.raises(ValueError, match="restore_attention"):
        calibrate_budgets(tiny, [sample], SMALL)
