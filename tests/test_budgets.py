"""The file of budgets: what is saved comes back, and what is no such file is refused with a sentence."""

import json

import pytest

from psa_paddle import AttentionConfig
from psa_paddle.budgets import Budgets, load_budgets

CONFIG = AttentionConfig(mask_mode="topk_sqrt", mask_ratios={1: (0.0, 0.1), 0: (0.1, 1.0)}, use_sim_mask=False)
FACTORS = ((0.5, 2.0, 1.0), (1.25, 0.75, 1.0))


def budgets(**changes) -> Budgets:
    values = dict(
        model="demo",
        config=CONFIG,
        factors=FACTORS,
        block_means=(False, True),
        triangle_layers=(1,),
        triangle={"num_sink_tokens": 8, "sliding_window_size": 100, "num_last_tokens": 50},
        target={"density": 0.12},
        measured={"prompts": [{"tokens": 4000, "at_level_1": 50}]},
        curves={"shares": [0.06, 0.12], "layers": [[0.2, 0.1], [0.02, 0.01]]},
    )
    return Budgets(**{**values, **changes})


def test_what_is_saved_comes_back(tmp_path):
    file = tmp_path / "budgets.json"
    for found in (budgets(), budgets(triangle_layers=None, triangle=None, curves={}, measured={}, target={})):
        found.save(file)
        assert Budgets.load(file) == load_budgets(str(file)) == load_budgets(found) == found
    assert [path.name for path in tmp_path.iterdir()] == ["budgets.json"]


def test_the_file_can_be_read_by_people(tmp_path):
    budgets().save(tmp_path / "b.json")
    text = (tmp_path / "b.json").read_text(encoding="utf-8")
    assert '"model": "demo"' in text and "    [0.5, 2.0, 1.0],\n" in text and len(text.splitlines()) < 90


def test_each_layer_gets_its_factors_and_its_means():
    first, second = (budgets().config_of(layer) for layer in (0, 1))
    assert first == CONFIG.replace(budgets=FACTORS[0], block_means=False)
    assert second == CONFIG.replace(budgets=FACTORS[1], block_means=True)
    other = AttentionConfig(mask_mode="topk", mask_ratios={1: (0.0, 0.3), 0: (0.3, 1.0)}, text_length=7)
    assert budgets().config_of(1, other) == other.replace(budgets=FACTORS[1], block_means=True)
    with pytest.raises(ValueError, match="mask_mode 'energybound'"):
        budgets().config_of(0, AttentionConfig.preset("seed"))


BAD = [
    ({"factors": ()}, ValueError, "a list of factors for each layer"),
    ({"factors": ((1.0, 2.0), (1.0,))}, ValueError, "as many factors in each layer"),
    ({"factors": ((1.0, 0.0), (1.0, 1.0))}, ValueError, "positive factors"),
    ({"factors": (None, (1.0,))}, ValueError, "as many factors"),
    ({"block_means": (True,)}, ValueError, "each of the 2 layers"),
    ({"block_means": (1, 0)}, TypeError, "true or false for each layer"),
    ({"triangle_layers": (2,)}, ValueError, "layers below 2"),
    ({"triangle": None}, ValueError, "with a triangle pattern"),
    ({"config": {}}, TypeError, "must be an AttentionConfig"),
    ({"config": AttentionConfig.preset("seed")}, ValueError, "mask_mode 'energybound'"),
]


@pytest.mark.parametrize("changes,error,words", BAD, ids=[str(changes)[:40] for changes, _, _ in BAD])
def test_refuses(changes, error, words):
    with pytest.raises(error, match=words):
        budgets(**changes)


def test_another_model_is_refused():
    budgets().check_model(2, 3)
    with pytest.raises(ValueError, match="for 2 layers of 3 query heads .demo., but this model has 28 of 28"):
        budgets().check_model(28, 28)


def spoil(change):
    values = budgets().as_dict()
    change(values)
    return json.dumps(values)


FILES = {
    "not JSON": "{",
    "another file": '{"a": 1}',
    "a list": "[1]",
    "another version": spoil(lambda x: x.update(version=2)),
    "a part missing": spoil(lambda x: x.pop("factors")),
    "not a number": spoil(lambda x: x["factors"][0].__setitem__(0, float("nan"))),
    "factors of another shape": spoil(lambda x: x.update(heads=4)),
    "an unknown setting": spoil(lambda x: x["config"].update(magic=1)),
    "a wrong setting": spoil(lambda x: x["config"].update(key_block=48)),
    "ratios that are none": spoil(lambda x: x["config"].update(mask_ratios=3)),
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_used_is_refused(text, tmp_path):
    file = tmp_path / "budgets.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"^budgets file '.*budgets.json' cannot be used: .*[^.]\.$"):
        Budgets.load(file)


def test_no_file_and_no_budgets(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; 'psa-paddle calibrate' makes one"):
        load_budgets(tmp_path / "none.json")
    with pytest.raises(TypeError, match="Budgets or the path of a file"):
        load_budgets(3)


def test_needs_no_paddle():
    """Programs on other frameworks read the file and solve with the curves, too."""
    import subprocess
    import sys

    code = "import sys; sys.modules['paddle'] = None; import psa_paddle.budgets, psa_paddle.budget_solver"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
