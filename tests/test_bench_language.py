"""What bench_language.py measures and compares is what it says: copies, planted answers, settings, the corpus."""

import json
import sys

import bench_language
import language_corpus
import language_settings
import language_tasks
import numpy as np
import pytest

from psa_paddle.budgets import Budgets
from psa_paddle.config import DEFAULT_PRESET, PRESETS, AttentionConfig


@pytest.mark.parametrize("far", [1, 20, 100])
def test_long_copies_go_on_as_the_last_such_run_did(far):
    ids = np.random.default_rng(far).integers(0, 2, 200)
    got = language_tasks.long_copies(ids, far, context=4)
    for place in range(1, 200):
        before = [p for p in range(4, place) if place >= 4 and (ids[p - 4 : p] == ids[place - 4 : place]).all()]
        want = bool(before) and place - before[-1] >= far and ids[before[-1]] == ids[place]
        assert got[place - 1] == want, place
    assert 0 < got.sum() < 199 or far == 100


def encode(line):
    return [1000 + ord(x) for x in line]


def written(ids):
    return "".join(chr(x - 1000) for x in ids)


def pairs(ids):
    """Key -> value of the lines that stand there."""
    return dict(line.rsplit(" ", 1) for line in written(ids).split("\n") if line)


def test_planted_values_are_asked_for_at_the_end_of_a_prompt():
    text = np.arange(1000)  # told from what is planted by being below 1000
    found = language_tasks.make_prompt(text, 700, 4, encode, np.random.default_rng(0))
    assert len(found.ids) == 700
    body, question = found.ids[: -found.question], found.ids[-found.question :]
    assert (question >= 1000).all()
    planted, asked = pairs(body[body >= 1000]), pairs(question)
    assert len(planted) == 4 and planted == asked and list(planted) != list(asked)
    assert all(key.startswith("The code of ") for key in planted)
    assert written(found.ids[found.answers]) == "".join(f" {value}" for value in asked.values())
    rest = body[body < 1000]
    np.testing.assert_array_equal(rest, np.arange(len(rest)))
    other = language_tasks.make_prompt(text, 700, 4, encode, np.random.default_rng(1))
    assert (np.flatnonzero(body < 1000) != np.flatnonzero(other.ids[: -other.question] < 1000)[: len(rest)]).any()


@pytest.mark.parametrize("length,tokens", [(300, 1000), (700, 400)], ids=["mostly planted", "short text"])
def test_a_prompt_that_cannot_be_is_refused(length, tokens):
    with pytest.raises(ValueError, match="at least half of them"):
        language_tasks.make_prompt(np.arange(tokens), length, 4, encode, np.random.default_rng(0))


def test_error_of_the_mean_over_files():
    mean, error = language_tasks.mean_and_error([1.0, 2.0, 3.0, 6.0])
    assert mean == 3.0 and error == pytest.approx(np.sqrt(14 / 3 / 4))
    assert language_tasks.mean_and_error([1.0]) == (1.0, None)


def test_share_of_level_one_is_found_for_a_density():
    calls = []

    def density(share):
        calls.append(share)
        return 0.01 + 0.5 * share**0.8

    for want in (0.03, 0.1, 0.3):
        calls.clear()
        share = language_settings.same_density(density, want)
        assert len(calls) <= language_settings.GUESSES
        assert density(share) == pytest.approx(want, rel=0.011)
    assert language_settings.same_density(density, 0.9) == 1.0  # as near as it gets


def test_settings_hold_every_preset_and_what_stands_beside_it():
    found = {s.name: s for s in language_settings.settings([1, 3])}
    for name in PRESETS:
        config = AttentionConfig.preset(name)
        assert found[name].of_layer(0) == config
        pools = bool({level for level, _, _ in config.intervals} - {0, 1})
        assert (f"{name}-level1" in found) == (pools or config.uses_means)
        assert (f"{name}-means" in found) != config.block_means
    for name, setting in found.items():
        if name.endswith("-level1"):
            base = AttentionConfig.preset(name.removesuffix("-level1"))
            config = setting.of_layer(0)
            assert setting.level1_of == base
            assert not config.uses_means and {level for level, _, _ in config.intervals} == {0, 1}
            assert config == base.replace(mask_ratios=config.mask_ratios, block_means=False)
    layers = [found["mix"].of_layer(n) for n in range(4)]
    balanced = AttentionConfig.preset(DEFAULT_PRESET)
    assert layers == [balanced, language_settings.TRIANGLE, balanced, language_settings.TRIANGLE]
    assert found["every-block"].of_layer(2).intervals == ((1, 0.0, 1.0),)


def test_settings_are_chosen_by_name_or_pattern():
    found = language_settings.settings()
    names = [s.name for s in language_settings.choose(found, ["mix", "seed*"])]
    assert names == [s.name for s in found if s.name == "mix" or s.name.startswith("seed")]
    with pytest.raises(ValueError, match="no setting matches 'nope'"):
        language_settings.choose(found, ["mix", "nope"])


def test_free_settings_change_a_preset():
    ratios = {"1": [0, 0.1], "0": [0.1, 1]}
    fields = {"preset": "fast", "mask_mode": "topk", "mask_ratios": ratios, "block_means": False}
    setting = language_settings.parse_config("mine=" + json.dumps(fields), 10)
    want = AttentionConfig.preset("fast", mask_mode="topk", mask_ratios={1: (0, 0.1), 0: (0.1, 1)}, block_means=False)
    assert setting.name == "mine" and setting.of_layer(7) == want
    setting = language_settings.parse_config('[{}, {"key_block": 32}]', 2)
    assert [setting.of_layer(n).key_block for n in range(2)] == [AttentionConfig().key_block, 32]
    assert language_settings.parse_config('{"key_block": 32}', 2).name == "{key_block: 32}"


@pytest.mark.parametrize(
    "text,words",
    [
        ("{", "is not JSON"),
        ("3", "wants an object"),
        ("[{}]", "lists 1 layers where the model has 2"),
        ('{"preset": "nope"}', "no preset 'nope'"),
        ('{"keyblock": 32}', "keyblock"),
        ('{"mask_ratios": {"one": [0, 1]}}', "'one'"),
    ],
)
def test_free_settings_that_mean_nothing_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        language_settings.parse_config(text, 2)


def test_budgets_are_a_setting_of_the_model_that_they_are_for(tmp_path):
    budgets = Budgets("lm.pt", AttentionConfig(block_means=False), [(0.5, 2.0), (1.0, 3.0)], (False, True))
    budgets.save(tmp_path / "mine.json")
    setting = language_settings.budget_setting(tmp_path / "mine.json", 2, 2)
    assert setting.name == "budgets mine"
    want = AttentionConfig(block_means=True, budgets=(1.0, 3.0))
    assert setting.of_layer(1) == want and setting.of_layer(0) == want.replace(block_means=False, budgets=(0.5, 2.0))
    with pytest.raises(ValueError, match="this model has 3 of 2"):
        language_settings.budget_setting(tmp_path / "mine.json", 3, 2)


def test_table_lines():
    row = {"length": 8192, "setting": "fast", "density": 0.12345, "loss": -0.00126, "loss_error": 0.0004,
           "worse": 0.0123, "kl": 0.05, "kl_error": 0.001, "copies": None, "retrieval": 0.5, "dense_loss": 1.6,
           "dense_retrieval": 0.755}  # fmt: skip
    want = "| 8192 | fast | 0.123 | -0.0013 ± 0.0004 | 1.23 | 0.0500 ± 0.0010 | - | 50.0 |"
    assert bench_language.table_line(row) == want
    one_file = bench_language.table_line({**row, "loss_error": None, "kl_error": None})
    assert one_file == "| 8192 | fast | 0.123 | -0.0013 | 1.23 | 0.0500 | - | 50.0 |"
    assert bench_language.dense_line(row) == "| 8192 | dense | 1.000 | 1.6000 | | | | 75.5 |"
    assert {line.count("|") for line in (want, bench_language.dense_line(row))} == {len(bench_language.COLUMNS) + 1}


def test_texts_must_be_long_enough():
    held = [[0] * n for n in (9, 5, 10, 12)]
    assert bench_language.choose_texts(held, 8, 2) == [held[0], held[2]]
    with pytest.raises(ValueError, match="2 of 4 documents held out have more than 9 tokens"):
        bench_language.choose_texts(held, 9, 3)


@pytest.mark.parametrize(
    "arguments,words",
    [([], "model and held are needed"), (["no.pt", "no.pt"], "no file 'no.pt'"),
     ([__file__, __file__, "--out", "nowhere/x.json"], "'nowhere/x.json' does not exist"),
     ([__file__, __file__, "--files", "0"], "at least 1")],
)  # fmt: skip
def test_command_line_refuses_in_one_sentence(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_language.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        bench_language.main()
    assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_documents_are_a_folders_files_joined_and_each_once(tmp_path):
    for name in ("a/one.txt", "a/two.txt", "b/three.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name * 100)
    (tmp_path / "a/latin.txt").write_bytes(b"\xe9" * 500)
    (tmp_path / "a/short.txt").write_text("short")
    (tmp_path / "a/other.md").write_text("x" * 500)
    (tmp_path / "b/link.txt").symlink_to(tmp_path / "a/one.txt")
    found = language_corpus.documents([tmp_path, tmp_path / "a"], "**/*.txt", 1)
    one, two, three = (f"# file: {name}\n{name * 100}\n" for name in ("a/one.txt", "a/two.txt", "b/three.txt"))
    assert sorted(found) == [one + two, three]
    assert found == language_corpus.documents([tmp_path], "**/*.txt", 1)
    assert len(language_corpus.documents([tmp_path], "**/*.txt", 1e-6)) == 1


def test_corpus_without_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no UTF-8 text of .* matches"):
        language_corpus.documents([tmp_path], "**/*.rst", 1)
    with pytest.raises(ValueError, match="does not exist"):
        language_corpus.documents([tmp_path / "nowhere"], "**/*.rst", 1)


def test_documents_held_out_are_long_and_spread():
    lengths = [5, 100, 7, 100, 100, 100, 100, 9]
    assert language_corpus.choose_held(lengths, 50, count=2) == [1, 4]
    assert language_corpus.choose_held(lengths, 50, count=9) == [1, 3, 4, 5, 6]
    for few in ([5, 100, 7], [100, 100]):
        with pytest.raises(ValueError, match="use a larger corpus"):
            language_corpus.choose_held(few, 50)
