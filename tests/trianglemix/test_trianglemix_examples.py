"""The examples of the API document as printed, with paddle for torch and a CPU place, and its tables of defaults."""

import inspect
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from psa_paddle.trianglemix import (
    AscendNPUTriangleMixOptimizer,
    AscendTriangleMixAttention,
    TriangleMixAnalyzer,
    TriangleMixAttention,
    TriangleMixConfig,
    TriangleMixInferenceConfig,
    TriangleMixMaskGenerator,
)

paddle.set_device("cpu")
EMPTY = inspect.Parameter.empty
PATTERN = {"num_sink_tokens": 4, "sliding_window_size": 32, "num_last_tokens": 64}
MASK = {"seq_len": EMPTY, "device": EMPTY, "dtype": EMPTY}
SIGNATURES = {
    "config": (TriangleMixConfig, PATTERN | {"num_triangle_layers": None, "triangle_layer_indices": None}),
    "generator": (TriangleMixMaskGenerator, {"config": EMPTY}),
    "streaming": (TriangleMixMaskGenerator(TriangleMixConfig())._create_streaming_mask, MASK),
    "last": (TriangleMixMaskGenerator(TriangleMixConfig())._create_last_mask, MASK),
    "middle": (TriangleMixMaskGenerator(TriangleMixConfig())._create_middle_mask, MASK),
    "triangle": (TriangleMixMaskGenerator(TriangleMixConfig())._create_triangle_mask, MASK),
    "dense": (TriangleMixMaskGenerator(TriangleMixConfig())._create_dense_mask, MASK),
    "attention mask": (
        TriangleMixMaskGenerator(TriangleMixConfig()).get_attention_mask,
        {"seq_len": EMPTY, "layer_idx": EMPTY, "device": EMPTY, "dtype": EMPTY, "use_triangle": False},
    ),
    "attention": (TriangleMixAttention, {"config": EMPTY, "num_layers": EMPTY}),
    "layer mask": (
        TriangleMixAttention(TriangleMixConfig(), 1).get_attn_mask,
        {"seq_len": EMPTY, "layer_idx": EMPTY, "device": EMPTY, "dtype": "float32"},
    ),
    "analyzer": (TriangleMixAnalyzer, {"num_layers": EMPTY}),
    "record": (TriangleMixAnalyzer(1).record_middle_qk_gradient, {"layer_idx": EMPTY, "gradient": EMPTY}),
    "choose": (TriangleMixAnalyzer(1).get_triangle_layers, {"num_triangle_layers": EMPTY}),
    "ascend": (
        AscendTriangleMixAttention,
        {"num_heads": EMPTY, "head_dim": EMPTY, "scale": EMPTY}
        | {"trianglemix_config": None, "layer_idx": None, "num_layers": None},
    ),
    "forward": (
        AscendTriangleMixAttention(1, 32, 1.0).forward,
        {"query": EMPTY, "key": EMPTY, "value": EMPTY, "attn_mask": None},
    ),
    "npu mask": (AscendNPUTriangleMixOptimizer.optimize_mask_for_npu, {"mask": EMPTY, "block_size": 64}),
    "npu kernel": (
        AscendNPUTriangleMixOptimizer.sparse_attention_kernel,
        {"query": EMPTY, "key": EMPTY, "value": EMPTY, "mask": EMPTY, "scale": EMPTY, "block_size": 64},
    ),
    "for_ascend_npu": (
        TriangleMixInferenceConfig.for_ascend_npu,
        {"num_triangle_layers": 12, "enable_gradient_analysis": False},
    ),
    "for_qwen3": (TriangleMixInferenceConfig.for_qwen3, {"model_size": "14B", "num_triangle_layers": None}),
}
INFERENCE = {
    "enable_trianglemix": False,
    "num_triangle_layers": None,
    "triangle_layer_indices": [],
    "num_sink_tokens": 4,
    "sliding_window_size": 32,
    "num_last_tokens": 64,
    "use_npu_optimization": True,
    "npu_block_size": 64,
    "use_gradient_analysis": False,
    "analysis_warmup_steps": 100,
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_and_defaults(name):
    function, want = SIGNATURES[name]
    parameters = inspect.signature(function).parameters
    assert {n: p.default for n, p in parameters.items()} == want
    assert list(parameters) == list(want)


def test_inference_defaults_in_order():
    config = TriangleMixInferenceConfig()
    assert {name: getattr(config, name) for name in INFERENCE} == INFERENCE
    assert list(inspect.signature(TriangleMixInferenceConfig).parameters) == list(INFERENCE)
    TriangleMixInferenceConfig().triangle_layer_indices.append(3)
    assert TriangleMixInferenceConfig().triangle_layer_indices == []


def test_config_example():
    config = TriangleMixConfig(
        num_sink_tokens=8,
        sliding_window_size=64,
        num_last_tokens=128,
        num_triangle_layers=16,
    )
    assert (config.num_sink_tokens, config.sliding_window_size, config.num_last_tokens) == (8, 64, 128)
    assert (config.num_triangle_layers, config.triangle_layer_indices) == (16, None)


def test_mask_generator_example():
    config = TriangleMixConfig(
        num_sink_tokens=4,
        sliding_window_size=8,
        num_last_tokens=16,
    )
    generator = TriangleMixMaskGenerator(config)
    mask = generator.get_attention_mask(
        seq_len=1024,
        layer_idx=0,
        device=paddle.CPUPlace(),
        dtype=paddle.float32,
        use_triangle=True,
    )
    attended = (mask == 0).sum().item()
    masked = (mask == float("-inf")).sum().item()
    # Sink and window: 1..14 keys in the first 14 rows, then 5 + 9; the last 15 rows see all keys.
    assert attended == sum(range(1, 15)) + (1009 - 14) * 14 + sum(range(1010, 1025))
    assert attended + masked == 1024 * 1024


def test_attention_example():
    config = TriangleMixConfig(
        num_sink_tokens=4,
        sliding_window_size=32,
        num_last_tokens=64,
        num_triangle_layers=12,
    )
    attn = TriangleMixAttention(config=config, num_layers=32)
    uses = [attn.mask_generator.should_use_triangle(layer_idx) for layer_idx in range(32)]
    assert uses == [True] * 12 + [False] * 20
    mask = attn.get_attn_mask(
        seq_len=2048,
        layer_idx=5,
        device=paddle.CPUPlace(),
    )
    assert mask is None
    assert (attn.config, attn.num_layers) == (config, 32)


def test_analyzer_example():
    model, num_epochs = SimpleNamespace(layers=[SimpleNamespace(middle_qk=32 - n) for n in range(32)]), 2

    def compute_gradient(middle_qk):
        return paddle.full([3, 3], float(middle_qk))

    analyzer = TriangleMixAnalyzer(num_layers=32)
    for _ in range(num_epochs):
        for layer_idx, layer in enumerate(model.layers):
            grad = compute_gradient(layer.middle_qk)
            analyzer.record_middle_qk_gradient(layer_idx, grad)
    triangle_layers = analyzer.get_triangle_layers(num_triangle_layers=12)
    assert triangle_layers == list(range(20, 32))
    config = TriangleMixConfig(
        num_sink_tokens=4,
        sliding_window_size=32,
        num_last_tokens=64,
        triangle_layer_indices=triangle_layers,
    )
    generator = TriangleMixMaskGenerator(config)
    assert [layer for layer in range(32) if generator.should_use_triangle(layer)] == triangle_layers


def test_ascend_example():
    config = TriangleMixConfig(
        num_sink_tokens=4,
        sliding_window_size=32,
        num_last_tokens=64,
        num_triangle_layers=12,
    )
    attn = AscendTriangleMixAttention(
        num_heads=32,
        head_dim=128,
        scale=1.0 / (128**0.5),
        trianglemix_config=config,
        layer_idx=5,
        num_layers=32,
    )
    query, key, value = (paddle.randn([1, 20, 32, 128]) for _ in range(3))
    output = attn(query, key, value)
    assert output.shape == [1, 20, 32, 128]
    assert np.abs((output[:, 0] - value[:, 0]).numpy()).max() < 1e-6


def test_optimizer_example():
    generator = TriangleMixMaskGenerator(TriangleMixConfig())
    seq_len, layer_idx, device, dtype = 150, 0, "cpu", "float32"
    query, key, value = (paddle.randn([1, 150, 2, 32]) for _ in range(3))
    optimizer = AscendNPUTriangleMixOptimizer()
    original_mask = generator.get_attention_mask(seq_len, layer_idx, device, dtype)
    optimized_mask = optimizer.optimize_mask_for_npu(original_mask)
    assert set(np.unique(optimized_mask.numpy())) == {np.float32(-1e6), np.float32(0.0)}
    output = optimizer.sparse_attention_kernel(query, key, value, optimized_mask, scale=1.0 / 128, block_size=64)
    want = AscendTriangleMixAttention(2, 32, 1.0 / 128)(query, key, value)
    assert np.abs((output - want).numpy()).max() < 1e-5


def test_inference_example():
    config = TriangleMixInferenceConfig.for_qwen3(model_size="14B")
    trianglemix_cfg = config.to_trianglemix_config()
    assert trianglemix_cfg == TriangleMixConfig(num_triangle_layers=12)
    config = TriangleMixInferenceConfig.for_ascend_npu(
        num_triangle_layers=12,
        enable_gradient_analysis=True,
    )
    assert config.enable_trianglemix and config.use_npu_optimization and config.use_gradient_analysis
    config = TriangleMixInferenceConfig(
        enable_trianglemix=True,
        triangle_layer_indices=[0, 1, 2, 3, 4, 5],
        num_sink_tokens=8,
        sliding_window_size=64,
        num_last_tokens=128,
        use_npu_optimization=True,
    )
    assert config.to_trianglemix_config() == TriangleMixConfig(8, 64, 128, None, [0, 1, 2, 3, 4, 5])


def test_basic_use_example():
    config = TriangleMixConfig(
        num_sink_tokens=4,
        sliding_window_size=32,
        num_last_tokens=64,
        num_triangle_layers=12,
    )
    generator = TriangleMixMaskGenerator(config)
    seq_len = 2048
    mask = generator.get_attention_mask(
        seq_len=seq_len,
        layer_idx=0,
        device=paddle.CPUPlace(),
        dtype=paddle.float32,
        use_triangle=True,
    )
    query, key, value = (paddle.randn([1, 1, seq_len, 32]) for _ in range(3))
    scale = 32**-0.5
    scores = paddle.matmul(query, key.transpose(-2, -1)) * scale
    scores = scores + mask
    attn_weights = paddle.softmax(scores, dim=-1)
    output = paddle.matmul(attn_weights, value)
    assert np.isfinite(output.numpy()).all()
    assert (attn_weights[0, 0].numpy() > 1e-20)[1000].sum() == 5 + 33


def test_gradient_analysis_example():
    analyzer = TriangleMixAnalyzer(num_layers=32)

    def compute_layer_gradient(layer_idx):
        return paddle.full([4], float((layer_idx * 7) % 32))

    for _ in range(10):
        for layer_idx in range(32):
            grad = compute_layer_gradient(layer_idx)
            analyzer.record_middle_qk_gradient(layer_idx, grad)
    triangle_layers = analyzer.get_triangle_layers(num_triangle_layers=12)
    assert triangle_layers == sorted(layer for layer in range(32) if (layer * 7) % 32 < 12)


@pytest.mark.parametrize("arguments", [(0, 0), (-1, 0), (8, -1)], ids=["no tokens", "fewer than none", "layer -1"])
def test_error_example(arguments):
    generator = TriangleMixMaskGenerator(TriangleMixConfig())
    seq_len, layer_idx = arguments
    with pytest.raises(ValueError, match="at least"):
        generator.get_attention_mask(seq_len, layer_idx, "cpu", "float32")
