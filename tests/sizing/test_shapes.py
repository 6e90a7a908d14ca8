"""Numbers of weights: published ones, the demo model's, and those of tiny checkpoints."""

import json
import math
import struct

import pytest
from shared_checkpoints import write_qwen3_vl, write_text_model
from shared_demo import CONFIG, ROOT

from psa_paddle.sizing import KNOWN, shape_of
from psa_paddle.sizing.shapes import DEMO, shape_of_config

# As the hub counts them (safetensors); of Qwen2.5-VL-72B it says 73.4 billion.
PUBLISHED = {
    "Qwen2.5-VL-3B": 3754622976, "Qwen2.5-VL-7B": 8292166656, "Qwen2.5-VL-32B": 33452718336,
    "Qwen3-VL-2B": 2127532032, "Qwen3-VL-4B": 4437815808, "Qwen3-VL-8B": 8767123696, "Qwen3-VL-32B": 33357390064,
}  # fmt: skip


def weights_in(path) -> int:
    """Numbers in a safetensors file, by its header."""
    with path.open("rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_sizes_have_the_published_number_of_weights(name):
    assert KNOWN[name].parameters == PUBLISHED[name]


def test_the_largest_has_about_what_is_said():
    assert round(KNOWN["Qwen2.5-VL-72B"].parameters / 1e9, 1) == 73.4
    assert set(KNOWN) == {*PUBLISHED, "Qwen2.5-VL-72B"}


def test_the_demo_model():
    shape = shape_of("demo")
    assert shape.parameters == weights_in(DEMO / "model.safetensors") == 6750848
    assert shape_of(str(ROOT / "demo" / "checkpoint")).parameters == shape.parameters


@pytest.mark.parametrize("tied", [False, True])
def test_a_tiny_qwen3_vl(tmp_path, tied):
    folder = write_qwen3_vl(tmp_path / "model", tied)
    assert shape_of(str(folder)).parameters == weights_in(folder / "model.safetensors")


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_tiny_text_models(tmp_path, kind):
    folder = write_text_model(tmp_path / kind, kind)
    assert shape_of(str(folder)).parameters == weights_in(folder / "model.safetensors")


def test_biases_count():
    plain = {name: CONFIG[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")}
    plain |= {"num_attention_heads": 4, "model_type": "llama"}
    llama, biased, qwen2 = (
        shape_of_config({**plain, **changes}, "x").parameters
        for changes in ({}, {"attention_bias": True}, {"model_type": "qwen2"})
    )
    assert qwen2 - llama == 6 * 3 * 256 and biased - llama == 6 * 4 * 256


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl-7b", "Qwen2.5-VL-7B"])
def test_names_as_people_write_them(name):
    assert shape_of(name) is KNOWN["Qwen2.5-VL-7B"]
    assert shape_of("Qwen/Qwen3-VL-8B-Thinking") is KNOWN["Qwen3-VL-8B"]


def test_what_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^Qwen2.5-VL-8B is neither a folder nor a size that is known: demo, Qwen"):
        shape_of("Qwen2.5-VL-8B")
    with pytest.raises(ValueError, match="^some/where is neither a folder nor a size"):
        shape_of("some/where")
    with pytest.raises(ValueError, match="config.json cannot be read: No such file or directory.$"):
        shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json cannot be read: Expecting"):
        shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl_moe"}')
    with pytest.raises(ValueError, match="is a model of the kind 'qwen3_vl_moe', which is not sized; these are: qwen2"):
        shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 2}')
    with pytest.raises(ValueError, match="^the config.json of .* does not say 'hidden_size'.$"):
        shape_of(str(tmp_path))


@pytest.mark.parametrize(
    "config,words",
    [
        ([], "config.json cannot be read: it holds no JSON object.$"),
        ({"num_attention_heads": "4"}, "must say a whole number from 1 on for 'num_attention_heads', not '4'.$"),
        ({"num_attention_heads": 0}, "must say a whole number from 1 on for 'num_attention_heads', not 0.$"),
        ({"vocab_size": None}, "does not say 'vocab_size'.$"),
        ({"hidden_size": 2}, "must say a whole number from 1 on for 'head_dim', not 0.$"),
        ({"vision_config": {**CONFIG["vision_config"], "depth": -1}}, "from 1 on for 'depth', not -1.$"),
        ({"num_hidden_layers": True}, "from 1 on for 'num_hidden_layers', not True.$"),
    ],
)
def test_a_configuration_that_no_model_has(tmp_path, config, words):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **config} if config else config))
    with pytest.raises(ValueError, match=words):
        shape_of(str(tmp_path))


def test_no_name_is_not_the_folder_one_stands_in(monkeypatch):
    monkeypatch.chdir(DEMO)
    with pytest.raises(ValueError, match="is neither a folder nor a size"):
        shape_of("")
    assert shape_of(".").parameters == shape_of("demo").parameters
