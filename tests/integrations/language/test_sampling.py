"""Which token comes next: greedy, or drawn."""

import json
import shutil

import numpy as np
import paddle
import pytest
from shared_demo import ROOT

from psa_paddle.integrations.language import loading
from psa_paddle.integrations.language.answering.sampling import GREEDY, Sampler, Sampling, own_sampling
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.integrations.language.loading import checkpoint_family

IMAGE = ROOT / "demo" / "sample.jpg"
LOGITS = np.array([0.0, 3.0, 2.0, 1.0, -1.0], np.float32)


def draws(count=4000, seen=(), **settings):
    """How often each token is chosen."""
    sampler = Sampler(Sampling(**{"seed": 0, **settings}), [list(seen)])
    chosen = []
    for _ in range(count):
        sampler._seen = [np.array(seen, np.int64)]
        chosen.append(int(sampler.choose(paddle.to_tensor(LOGITS[None]))[0]))
    return np.bincount(chosen, minlength=5) / count


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_temperature_says(temperature):
    assert np.abs(draws(temperature=temperature) - softmax(LOGITS / temperature)).max() < 0.03


def test_top_k_and_top_p_leave_the_most_likely():
    shares = softmax(LOGITS)
    assert np.abs(draws(temperature=1.0, top_k=2) - softmax(np.where(LOGITS >= 2, LOGITS, -np.inf))).max() < 0.03
    kept = draws(temperature=1.0, top_p=float(shares[1] + 1e-3))  # the second completes it
    assert set(np.flatnonzero(kept)) == {1, 2}
    assert set(np.flatnonzero(draws(temperature=1.0, top_p=float(shares[1] - 1e-3)))) == {1}
    assert draws(100, temperature=1.0, top_p=1e-9)[1] == 1.0
    assert set(np.flatnonzero(draws(temperature=1.0, top_k=3, top_p=0.9))) == {1, 2}


def test_a_low_temperature_is_greedy():
    assert draws(50, temperature=1e-6)[1] == 1.0 and draws(50, temperature=0.0)[1] == 1.0


def test_the_penalty_of_what_was_seen():
    assert draws(1, temperature=0.0, repetition_penalty=1.4, seen=[1])[1] == 1.0  # 3 / 1.4 > 2
    assert draws(1, temperature=0.0, repetition_penalty=1.6, seen=[1])[2] == 1.0
    with_it = draws(temperature=1.0, repetition_penalty=2.0, seen=[1, 4])
    assert np.abs(with_it - softmax(np.array([0.0, 1.5, 2.0, 1.0, -2.0]))).max() < 0.03
    sampler = Sampler(Sampling(temperature=0.0, repetition_penalty=2.0), [[]])
    assert [int(sampler.choose(paddle.to_tensor(LOGITS[None]))[0]) for _ in range(4)] == [1, 2, 1, 1]


def test_samples_of_a_batch_draw_as_alone():
    logits = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32)

    def tokens(rows):
        sampler = Sampler(Sampling(temperature=2.0, seed=7), [[] for _ in rows])
        return np.array([sampler.choose(paddle.to_tensor(logits[rows])) for _ in range(20)])

    together = tokens([0, 1, 2])
    assert all((tokens([i])[:, 0] == together[:, i]).all() for i in range(3)) and len(np.unique(together[:, 0])) > 5


CONFIGS = {
    "nothing": ({}, GREEDY),
    "greedy": ({"do_sample": False, "temperature": 0.5}, GREEDY),
    "greedy with a penalty": ({"repetition_penalty": 1.1}, Sampling(temperature=0.0, repetition_penalty=1.1)),
    "as Qwen2.5-VL": (
        {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05},
        Sampling(temperature=1e-6, top_p=1.0, top_k=50, repetition_penalty=1.05),
    ),
    "everything": (
        {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
        Sampling(temperature=0.7, top_p=0.8, top_k=20),
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_the_models_own_settings(case, tmp_path):
    said, wanted = CONFIGS[case]
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    assert own_sampling(str(tmp_path)) == wanted


def test_a_model_without_settings(tmp_path, monkeypatch):
    assert own_sampling(str(tmp_path)) == GREEDY == own_sampling("nobody/nothing", str(tmp_path))
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / "generation_config.json").write_text('{"repetition_penalty": 1.3}')
    assert own_sampling("some/model", str(tmp_path)).repetition_penalty == 1.3


@pytest.mark.parametrize(
    "text, reason",
    [
        ('{"temperature": ', "it is no JSON (Expecting value: line 1 column 17 (char 16))"),
        ("", "it is no JSON"),
        ("\\xff", "it is no JSON"),
        ("[1]", "it is no JSON object"),
        ('{"do_sample": true, "temperature": "hot"}', "temperature must be a number, got 'hot'"),
        ('{"repetition_penalty": -1}', "repetition_penalty must be above 0 and at most 100, got -1"),
    ],
)
def test_a_generation_config_that_makes_no_sense(monkeypatch, tmp_path, text, reason):
    """Refused in one sentence that names it, before any weights are read."""
    shutil.copytree(ROOT / "demo" / "checkpoint", tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    file.write_bytes(text.encode().replace(b"\\xff", b"\xff"))
    monkeypatch.setattr(loading, "load_by_name", lambda *given: pytest.fail("a model was loaded"))
    for refuse in (lambda name: checkpoint_family(name), lambda name: QwenVLInference(name)):
        with pytest.raises(ValueError) as refused:
            refuse(str(tmp_path / "model"))
        words = str(refused.value)
        assert words.startswith(f"'{file}' cannot be used: {reason}") and "\n" not in words
        assert words.endswith("; mend it, or remove it for greedy decoding.")


def test_settings_over_the_models_own():
    own = Sampling(temperature=0.7, top_p=0.8, repetition_penalty=1.05)
    assert Sampling().over(own) == own
    assert Sampling(top_p=0.5, seed=3).over(own) == Sampling(0.7, 0.5, None, 1.05, 3)
    assert Sampling(temperature=0.0).over(own) == Sampling(0.0, 0.8, None, 1.05)
    for name, value in (("top_p", 0.5), ("top_k", 3), ("seed", 1)):
        with pytest.raises(ValueError, match=f"{name} does nothing at temperature 0"):
            Sampling(**{name: value}).over(GREEDY)


WRONG = {
    "temperature": [(-0.1, ValueError, "at least 0"), ("1", TypeError, "a number"), (float("nan"), ValueError, "")],
    "top_p": [
        (0.0, ValueError, "above 0 and at most 1"),
        (1.5, ValueError, "at most 1"),
        (True, TypeError, "a number"),
    ],
    "top_k": [(-1, ValueError, "at least 0"), (1.5, TypeError, "an integer")],
    "repetition_penalty": [(0.0, ValueError, "above 0")],
    "seed": [(-1, ValueError, "at least 0"), ("a", TypeError, "an integer")],
}


@pytest.mark.parametrize("name,value,error,words", [(name, *row) for name, rows in WRONG.items() for row in rows])
def test_refuses_settings(name, value, error, words):
    with pytest.raises(error, match=f"{name} must be .*{words}"):
        Sampling(**{name: value})


@pytest.fixture(scope="module")
def model():
    return QwenVLInference("demo")


def test_answers_are_drawn_as_asked_and_the_seed_repeats_them(model, monkeypatch):
    def answer(tokens=6, **settings):
        monkeypatch.setattr(model, "sampling", Sampling(**settings).over(GREEDY))
        return model.inference_image(IMAGE, "What is this?", tokens)

    greedy = answer()
    assert greedy == answer(temperature=1e-6) == answer(temperature=50.0, top_k=1) == "A small white diamond at the"
    hot = answer(temperature=50.0, seed=1)
    assert answer(temperature=50.0, seed=1) == hot and hot not in (greedy, answer(temperature=50.0, seed=2))
    assert answer(temperature=50.0) != answer(temperature=50.0), "there is no seed"
    assert answer(16, repetition_penalty=100.0) != answer(16)


def test_the_models_file_is_honoured(model, tmp_path):
    for file in (ROOT / "psa_paddle" / "demo" / "checkpoint").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text('{"repetition_penalty": 100.0}')
    punishing = QwenVLInference(str(tmp_path), sampling=Sampling(seed=None))
    assert punishing.sampling == Sampling(temperature=0.0, repetition_penalty=100.0)
    assert punishing.inference_image(IMAGE, "What is this?", 16) != model.inference_image(IMAGE, "What is this?", 16)
