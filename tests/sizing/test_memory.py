"""Formulas of memory against what was measured: on a GPU in benchmarks/results, and here, on the demo model."""

from dataclasses import replace

import paddle
import pytest
from paddle.base import core
from paddleformers.nn.attention.interface import AttentionInterface
from shared_results import rows_of

from psa_paddle import AttentionConfig
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.sizing import KNOWN, Request, cache_bytes, layer_bytes, memory_of, operator_bytes, shape_of
from psa_paddle.sizing.memory import PORTION

SEVEN, DEMO = KNOWN["Qwen2.5-VL-7B"], shape_of("demo")


@pytest.mark.parametrize("row", rows_of("operator_presets.csv"), ids=lambda row: f"{row['case']}-{row['L']}")
def test_the_operators_memory_is_the_measured_one(row):
    config = AttentionConfig.preset(row["case"], text_length=64)
    got = operator_bytes(SEVEN, Request(int(row["L"])), config) / 2**20
    assert got == pytest.approx(float(row["extra_mib"]), rel=0.01)


def nothing(module, query, key, value, **_):
    """No attention: the queries, in the output's layout."""
    return query.transpose([0, 2, 1, 3]).flatten(2), None


@pytest.fixture(scope="module")
def model():
    """The demo model without attention in its text model."""
    found = QwenVLInference("demo").model
    AttentionInterface.register("nothing", nothing)
    text = found.model.language_model
    for part in (text, *(layer.self_attn for layer in text.layers)):
        part.config._attn_implementation = "nothing"
    return found


@pytest.mark.parametrize("tokens", [512, 2048])
def test_a_forward_of_paddleformers_takes_what_the_formulas_say(model, tokens):
    request = Request(tokens, dtype="float32")
    rows, places = paddle.randn([1, tokens, DEMO.hidden]), paddle.arange(tokens).expand([3, 1, tokens])
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    held = core.host_memory_stat_current_value("Allocated", 0)
    with paddle.no_grad():
        out = model.model.language_model(inputs_embeds=rows, position_ids=places, use_cache=True)
    kept = core.host_memory_stat_current_value("Allocated", 0) - held
    peak = core.host_memory_stat_peak_value("Allocated", 0) - held
    cache = cache_bytes(DEMO, request)
    assert kept - cache == pytest.approx(rows.numpy().nbytes, rel=0.01)  # the hidden states of the last layer
    assert out[0].shape == rows.shape
    assert peak - cache == pytest.approx(layer_bytes(DEMO, request, None), rel=0.01)


def test_the_weights_of_the_real_demo_model(model):
    numbers = sum(weight.numpy().size for weight in model.parameters())
    memory = memory_of(DEMO, Request(1000, dtype="float32"), None)
    assert memory.weights + memory.tower == 4 * numbers == 4 * DEMO.parameters


def test_what_gpus_share_and_what_each_has_whole():
    config, alone = AttentionConfig(), Request(131072)
    one, two = memory_of(SEVEN, alone, config), memory_of(SEVEN, replace(alone, gpus=2), config)
    assert two.tower == one.tower == 2 * SEVEN.tower.parameters and two.prompt == one.prompt
    assert two.cache * 2 == one.cache == 2 * 28 * 4 * 128 * 131072 * 2
    assert 2 * (two.weights - SEVEN.vectors * 2) == one.weights - SEVEN.vectors * 2
    assert one.work / 2 < two.work < one.work
    assert one.total == one.weights + one.tower + one.cache + one.prompt + one.work


def test_a_chunk_bounds_the_work_and_not_the_cache():
    whole, chunk = Request(131072), Request(131072, chunk=2048)
    assert cache_bytes(SEVEN, whole) == cache_bytes(SEVEN, chunk)
    assert layer_bytes(SEVEN, chunk, None) < layer_bytes(SEVEN, whole, None) / 20
    short = Request(1000, chunk=2048)
    assert short.rows == 1000
    tower = 2 * PORTION * (2 * SEVEN.tower.hidden + 4 * SEVEN.tower.intermediate)
    assert memory_of(SEVEN, short, None).work == tower  # a clip's portions come first, and take more


@pytest.mark.parametrize(
    "changes", [{"importance_method": "pooling"}, {"block_means": True}, {"importance_method": "xattn"}]
)
def test_other_settings_take_something(changes):
    config = AttentionConfig(**changes)
    request = Request(1 << 20, chunk=8192)
    assert operator_bytes(SEVEN, request, config) > 0 == operator_bytes(SEVEN, request, None)


def test_the_parts_of_a_preset_that_pools():
    """Pooled keys and values and their cap, lists, and sums of groups with the maxima of their tiles."""
    got = operator_bytes(SEVEN, Request(131072, chunk=8192), AttentionConfig.preset("seed"))
    pooled, lists = 2 * 4 * 131072 * 128 * 2 * 7 // 8 + 4 * 2048, 28 * 64 * (2048 * 2 + 24)
    sums, tops, output = 28 * 512 * 2048 * 2, 28 * 512 * 64 * 4, 28 * 8192 * 128 * 2
    assert got == pooled + lists + sums + tops - output
