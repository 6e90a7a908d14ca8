"""Masks against the formulas in plain loops, the layers that get them, the analyzer, and what is refused."""

import numpy as np
import paddle
import pytest

from psa_paddle.trianglemix import (
    TriangleMixAnalyzer,
    TriangleMixAttention,
    TriangleMixConfig,
    TriangleMixInferenceConfig,
    TriangleMixMaskGenerator,
)

paddle.set_device("cpu")
CPU = "cpu"
PATTERNS = [(4, 8, 16), (0, 0, 0), (0, 3, 1), (2, 0, 2), (3, 5, 100), (50, 5, 3), (1, 90, 4), (0, 1, 41)]
RULES = {
    "streaming": lambda i, j, n, si, sl, last: i >= j and (j <= si or i - j <= sl),
    "last": lambda i, j, n, si, sl, last: i >= j and n - i < last and j > si and i - j > sl,
    "middle": lambda i, j, n, si, sl, last: i >= j and n - i >= last and j > si and i - j > sl,
    "triangle": lambda i, j, n, si, sl, last: i >= j and (j <= si or i - j <= sl or n - i < last),
    "dense": lambda i, j, n, si, sl, last: i >= j,
}


def loops(name, n, pattern):
    return np.array([[int(RULES[name](i, j, n, *pattern)) for j in range(n)] for i in range(n)])


def generator(*pattern, **layers):
    return TriangleMixMaskGenerator(TriangleMixConfig(*pattern, **layers))


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: "sink{}-window{}-last{}".format(*p))
@pytest.mark.parametrize("n", [1, 2, 41])
def test_masks_follow_the_formulas(n, pattern):
    masks = generator(*pattern)
    for name in RULES:
        mask = getattr(masks, f"_create_{name}_mask")(n, CPU, "float32")
        assert mask.dtype == paddle.float32
        assert np.array_equal(mask.numpy(), loops(name, n, pattern)), name
    for use_triangle, name in ((True, "triangle"), (False, "dense")):
        mask = masks.get_attention_mask(n, 0, CPU, "float32", use_triangle).numpy()
        assert np.array_equal(mask, np.where(loops(name, n, pattern) == 1, 0.0, -np.inf))


def test_regions_partition_the_causal_triangle():
    masks = generator(3, 5, 9)
    parts = [getattr(masks, f"_create_{x}_mask")(40, CPU, "int64").numpy() for x in ("streaming", "last", "middle")]
    assert np.array_equal(sum(parts), np.tril(np.ones((40, 40), int)))
    assert min(part.sum() for part in parts) > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_attention_mask_in_every_dtype(dtype):
    by_name = generator(0, 1, 2).get_attention_mask(9, 0, CPU, dtype, True)
    by_type = generator(0, 1, 2).get_attention_mask(9, 0, paddle.CPUPlace(), getattr(paddle, dtype), True)
    want = np.where(loops("triangle", 9, (0, 1, 2)) == 1, 0.0, -np.inf)
    for mask in (by_name, by_type):
        assert mask.dtype == getattr(paddle, dtype)
        assert np.array_equal(mask.astype("float32").numpy(), want)


def test_cache():
    masks = generator()
    first = masks.get_attention_mask(16, 0, CPU, "float32", True)
    assert masks.get_attention_mask(16, 3, paddle.CPUPlace(), paddle.float32, True) is first
    assert masks.get_attention_mask(16, 0, CPU, "float32", False) is not first
    assert masks.get_attention_mask(16, 0, CPU, "float64", True) is not first
    masks.clear_cache()
    assert masks.get_attention_mask(16, 0, CPU, "float32", True) is not first


def test_cache_forgets_the_oldest():
    masks = generator()
    first = masks.get_attention_mask(8, 0, CPU, "float32")
    latest = [masks.get_attention_mask(n, 0, CPU, "float32") for n in range(9, 13)]
    assert masks.get_attention_mask(12, 0, CPU, "float32") is latest[-1]
    assert masks.get_attention_mask(9, 0, CPU, "float32") is latest[0]
    assert masks.get_attention_mask(8, 0, CPU, "float32") is not first


@pytest.mark.parametrize(
    ("layers", "want"),
    [
        ({}, []),
        ({"num_triangle_layers": 0}, []),
        ({"num_triangle_layers": 3}, [0, 1, 2]),
        ({"triangle_layer_indices": [5, 1]}, [1, 5]),
        ({"triangle_layer_indices": [5, 1], "num_triangle_layers": 3}, [1, 5]),
        ({"triangle_layer_indices": [], "num_triangle_layers": 2}, [0, 1]),
    ],
    ids=["none", "first 0", "first 3", "indices", "both", "empty indices"],
)
def test_layers(layers, want):
    attn = TriangleMixAttention(TriangleMixConfig(**layers), 6)
    assert [x for x in range(6) if attn.should_use_triangle(x)] == want
    assert [x for x in range(6) if attn.mask_generator.should_use_triangle(x)] == want


def test_layer_mask_only_above_2048_tokens_and_in_triangle_layers():
    attn = TriangleMixAttention(TriangleMixConfig(triangle_layer_indices=[1]), 2)
    assert attn.get_attn_mask(2048, 1, CPU) is None
    assert attn.get_attn_mask(2049, 0, CPU) is None
    mask = attn.get_attn_mask(2049, 1, CPU)
    assert mask.dtype == paddle.float32
    assert np.array_equal(mask[1500].numpy() == 0, [j <= 4 or 1468 <= j <= 1500 for j in range(2049)])


def test_config_keeps_its_own_list_and_is_frozen():
    layers = [3, 1]
    config = TriangleMixConfig(triangle_layer_indices=layers)
    layers.append(7)
    assert config.triangle_layer_indices == [3, 1]
    with pytest.raises(AttributeError):
        config.num_sink_tokens = 1


@pytest.mark.parametrize(("size", "layers"), [("14B", 12), ("32B", 16), ("8b", 8), ("30B-A3B", 8)])
def test_qwen3_sizes(size, layers):
    config = TriangleMixInferenceConfig.for_qwen3(size)
    assert config.to_trianglemix_config() == TriangleMixConfig(num_triangle_layers=layers)
    assert TriangleMixInferenceConfig.for_qwen3(size, 5).num_triangle_layers == 5


def test_inference_config_off_and_for_ascend():
    assert TriangleMixInferenceConfig(num_triangle_layers=3).to_trianglemix_config() is None
    config = TriangleMixInferenceConfig.for_ascend_npu(7)
    assert not config.use_gradient_analysis
    assert config.to_trianglemix_config() == TriangleMixConfig(num_triangle_layers=7)
    assert TriangleMixInferenceConfig.for_qwen3("900B", 4).num_triangle_layers == 4


def test_analyzer_averages_magnitudes_and_breaks_ties_by_index():
    analyzer = TriangleMixAnalyzer(4)
    analyzer.record_middle_qk_gradient(0, paddle.to_tensor([[-3.0, 3.0]]))
    for value in (1.0, 3.0):
        analyzer.record_middle_qk_gradient(1, paddle.to_tensor(value))
    analyzer.record_middle_qk_gradient(2, paddle.to_tensor([2.0], dtype="bfloat16"))
    analyzer.record_middle_qk_gradient(3, paddle.to_tensor([-1.0], dtype="float16"))
    assert analyzer.middle_qk_gradients == [[3.0], [1.0, 3.0], [2.0], [1.0]]
    assert [analyzer.get_triangle_layers(n) for n in range(5)] == [[], [3], [1, 3], [1, 2, 3], [0, 1, 2, 3]]
    analyzer.reset()
    assert analyzer.middle_qk_gradients == [[], [], [], []]


def test_analyzer_in_a_backward_pass():
    analyzer, middle = TriangleMixAnalyzer(2), [paddle.ones([3]), paddle.ones([3])]
    for x in middle:
        x.stop_gradient = False
    (0.1 * middle[0] + 4.0 * middle[1]).sum().backward()
    for layer, x in enumerate(middle):
        analyzer.record_middle_qk_gradient(layer, x.grad)
    assert analyzer.get_triangle_layers(1) == [0]


def record(layer, gradient):
    TriangleMixAnalyzer(3).record_middle_qk_gradient(layer, gradient)


def attention():
    return TriangleMixAttention(TriangleMixConfig(num_triangle_layers=2), 3)


REFUSED = {
    "negative sink": (lambda: TriangleMixConfig(num_sink_tokens=-1), ValueError, "num_sink_tokens"),
    "window of a float": (lambda: TriangleMixConfig(sliding_window_size=3.0), TypeError, "sliding_window_size"),
    "last True": (lambda: TriangleMixConfig(num_last_tokens=True), TypeError, "num_last_tokens"),
    "negative layers": (lambda: TriangleMixConfig(num_triangle_layers=-2), ValueError, "num_triangle_layers"),
    "layer -1": (lambda: TriangleMixConfig(triangle_layer_indices=[0, -1]), ValueError, "triangle_layer_indices"),
    "layer twice": (lambda: TriangleMixConfig(triangle_layer_indices=[1, 1]), ValueError, "twice"),
    "layers as a string": (lambda: TriangleMixConfig(triangle_layer_indices="01"), TypeError, "a list"),
    "enable 1": (lambda: TriangleMixInferenceConfig(enable_trianglemix=1), TypeError, "True or False"),
    "block 0": (lambda: TriangleMixInferenceConfig(npu_block_size=0), ValueError, "npu_block_size"),
    "warmup -1": (lambda: TriangleMixInferenceConfig(analysis_warmup_steps=-1), ValueError, "analysis_warmup_steps"),
    "window -1": (lambda: TriangleMixInferenceConfig(sliding_window_size=-1), ValueError, "sliding_window_size"),
    "unknown size": (lambda: TriangleMixInferenceConfig.for_qwen3("7000B"), ValueError, "32B"),
    "size 14": (lambda: TriangleMixInferenceConfig.for_qwen3(14), TypeError, "string"),
    "generator of a dict": (lambda: TriangleMixMaskGenerator({}), TypeError, "TriangleMixConfig"),
    "length 0": (lambda: generator()._create_last_mask(0, CPU, "float32"), ValueError, "seq_len"),
    "length 2.0": (lambda: generator()._create_last_mask(2.0, CPU, "float32"), TypeError, "seq_len"),
    "unknown dtype": (lambda: generator()._create_dense_mask(4, CPU, "float31"), ValueError, "dtype"),
    "integer -inf": (lambda: generator().get_attention_mask(4, 0, CPU, "int32"), ValueError, "dtype"),
    "unknown device": (lambda: generator().get_attention_mask(4, 0, "abacus", "float32"), ValueError, "device"),
    "layer of a mask": (lambda: generator().should_use_triangle(-1), ValueError, "layer_idx"),
    "no layers": (lambda: TriangleMixAttention(TriangleMixConfig(), 0), ValueError, "num_layers"),
    "more layers than there are": (
        lambda: TriangleMixAttention(TriangleMixConfig(num_triangle_layers=4), 3),
        ValueError,
        "3 layers",
    ),
    "a layer past the end": (
        lambda: TriangleMixAttention(TriangleMixConfig(triangle_layer_indices=[3]), 3),
        ValueError,
        "exceed 3 layers",
    ),
    "layer 3 of 3": (lambda: attention().should_use_triangle(3), ValueError, r"\[0, 3\)"),
    "mask of layer 3 of 3, short": (lambda: attention().get_attn_mask(8, 3, CPU), ValueError, r"\[0, 3\)"),
    "short mask of -1 tokens": (lambda: attention().get_attn_mask(-1, 0, CPU), ValueError, "seq_len"),
    "record of layer 3 of 3": (lambda: record(3, paddle.ones([2])), ValueError, r"\[0, 3\)"),
    "record of layer -1": (lambda: record(-1, paddle.ones([2])), ValueError, "layer_idx"),
    "record of nothing": (lambda: record(0, paddle.ones([0])), ValueError, "empty"),
    "record of NaN": (lambda: record(0, paddle.to_tensor([1.0, np.nan])), ValueError, "NaN"),
    "record of integers": (lambda: record(0, paddle.ones([2], dtype="int32")), TypeError, "floating"),
    "record of an array": (lambda: record(0, np.ones(2)), TypeError, "floating"),
    "unmeasured layers": (lambda: TriangleMixAnalyzer(3).get_triangle_layers(1), ValueError, "0 of 3"),
    "analyzer of no layers": (lambda: TriangleMixAnalyzer(0), ValueError, "num_layers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    call, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        call()


def test_the_defaults_are_the_published_ones():
    config = TriangleMixConfig()
    assert (config.num_sink_tokens, config.sliding_window_size, config.num_last_tokens) == (4, 32, 64)
    assert config.num_triangle_layers is None and config.triangle_layer_indices is None
