"""The attention layer and the NPU helpers against a masked softmax, the blocks that they skip, and what they refuse."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import smooth_qkv

from psa_paddle.trianglemix import (
    AscendNPUTriangleMixOptimizer,
    AscendTriangleMixAttention,
    TriangleMixConfig,
    TriangleMixMaskGenerator,
    ascend,
)

kernel = AscendNPUTriangleMixOptimizer.sparse_attention_kernel
optimize = AscendNPUTriangleMixOptimizer.optimize_mask_for_npu
CONFIG = TriangleMixConfig(4, 40, 70, triangle_layer_indices=[1])


def heads_last(*shape, **keywords):
    """Tensors [B, L, H, D] and the arrays [B, H, L, D] that they came from."""
    arrays = smooth_qkv(*shape, **keywords)
    return [paddle.to_tensor(x.transpose(0, 2, 1, 3).copy()) for x in arrays], arrays


def softmax_values(q, k, v, mask, scale):
    """float64 reference of [B, H, L, D] arrays with an additive mask; rows without keys are zeros."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[1] // k.shape[1], 1) for x in (k, v))
    logits = q @ k.swapaxes(2, 3) * scale + mask
    top = logits.max(-1, keepdims=True)
    weights = np.exp(logits - np.where(np.isneginf(top), 0.0, top))
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300) @ v


def mask_of(lq, lk, triangle):
    masks = TriangleMixMaskGenerator(CONFIG)
    return masks.get_attention_mask(lk, 1, "cpu", "float32", triangle).numpy()[lk - lq :]


def close(out, want):
    """Heads last against [B, H, L, D]; float32 sums of a few thousand numbers near 1."""
    return np.abs(out.numpy().transpose(0, 2, 1, 3) - want).max() < 2e-5


@pytest.mark.parametrize(
    ("lq", "lk", "layer", "triangle"),
    [(2049, 2049, 1, True), (2048, 2048, 1, False), (2049, 2049, 0, False), (130, 2100, 1, True), (50, 90, 1, False)],
    ids=["triangle", "2048 tokens", "dense layer", "chunk", "short chunk"],
)
@pytest.mark.parametrize("num_layers", [2, None])
def test_layer(lq, lk, layer, triangle, num_layers):
    (query, key, value), arrays = heads_last(lq, lk, 2, 1, 32)
    attn = AscendTriangleMixAttention(2, 32, 0.2, CONFIG, layer, num_layers)
    out = attn(query, key, value)
    assert close(out, softmax_values(*arrays, mask_of(lq, lk, triangle), 0.2))
    if lk > 2048:
        assert not close(out, softmax_values(*arrays, mask_of(lq, lk, not triangle), 0.2))


def test_layer_without_configuration_is_dense():
    (query, key, value), arrays = heads_last(2060, 2060, 2, 2, 16)
    assert close(
        AscendTriangleMixAttention(2, 16, 0.25)(query, key, value),
        softmax_values(*arrays, mask_of(2060, 2060, False), 0.25),
    )


MASK_SHAPES = [(150, 200), (1, 1, 150, 200), (2, 1, 1, 200), (1, 4, 150, 200), (2, 4, 150, 200), (2, 1, 150, 1)]


@pytest.mark.parametrize("shape", MASK_SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_layer_with_a_mask(shape, kind):
    (query, key, value), arrays = heads_last(150, 200, 4, 2, 32, batch=2)
    rng = np.random.default_rng(5)
    visible = rng.random(shape) < 0.7
    numbers = np.where(visible, 0.0 if kind == "bool" else rng.standard_normal(shape), -np.inf)
    given_mask = paddle.to_tensor(visible) if kind == "bool" else paddle.to_tensor(numbers.astype(np.float32))
    out = AscendTriangleMixAttention(4, 32, 0.2, CONFIG, 1)(query, key, value, given_mask)
    assert close(out, softmax_values(*arrays, mask_of(150, 200, False) + numbers, 0.2))


def test_triangle_layer_with_left_padding():
    (query, key, value), arrays = heads_last(2200, 2200, 2, 1, 32, batch=2)
    visible = np.ones((2, 1, 1, 2200), bool)
    visible[1, ..., :300] = False
    out = AscendTriangleMixAttention(2, 32, 0.2, CONFIG, 1)(query, key, value, attn_mask=paddle.to_tensor(visible))
    numbers = np.where(visible, 0.0, -np.inf)
    assert close(out, softmax_values(*arrays, mask_of(2200, 2200, True) + numbers, 0.2))
    assert (out.numpy()[1, :300] == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    tensors, _ = heads_last(140, 140, 2, 1, 32)
    tensors = [x.astype(dtype) for x in tensors]
    arrays = [x.astype("float32").numpy().transpose(0, 2, 1, 3) for x in tensors]
    want = softmax_values(*arrays, mask_of(140, 140, False), 0.2)
    mask = optimize(TriangleMixMaskGenerator(CONFIG).get_attention_mask(140, 0, "cpu", dtype))
    eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    for out in (AscendTriangleMixAttention(2, 32, 0.2)(*tensors), kernel(*tensors, mask, 0.2)):
        assert str(out.dtype) == f"paddle.{dtype}"
        got = out.astype("float32").numpy().transpose(0, 2, 1, 3)
        assert np.abs(got - want).max() <= eps * np.abs(want).max()


@pytest.mark.parametrize(
    ("dtype", "after", "masked"),
    [
        ("float32", "float32", -1e6),
        ("float64", "float64", -1e6),
        ("float16", "float32", -1e6),
        ("bfloat16", "bfloat16", -999424.0),
    ],
)
def test_optimized_mask(dtype, after, masked):
    mask = paddle.to_tensor([[0.0, -np.inf, -2.5], [-np.inf, 0.0, 1.0]]).astype(dtype)
    out = optimize(mask, block_size=32)
    assert str(out.dtype) == f"paddle.{after}"
    assert np.array_equal(out.astype("float64").numpy(), [[0.0, masked, -2.5], [masked, 0.0, 1.0]])
    assert np.isneginf(mask.astype("float32").numpy()).sum() == 2


def multiplied(monkeypatch, *arguments):
    """The output, and how many query-key pairs were multiplied."""
    pairs = []
    matmul = paddle.matmul

    def spy(x, y, transpose_y=False):
        pairs.append(x.shape[0] * y.shape[0] if transpose_y else 0)
        return matmul(x, y, transpose_y=transpose_y)

    with monkeypatch.context() as patch:
        patch.setattr(ascend.paddle, "matmul", spy)
        return kernel(*arguments), sum(pairs)


@pytest.mark.parametrize("optimized", [True, False], ids=["-1e6", "-inf"])
@pytest.mark.parametrize("size", [64, 17, 1000])
def test_kernel_multiplies_visible_blocks_only(monkeypatch, size, optimized):
    (query, key, value), arrays = heads_last(300, 300, 4, 2, 32)
    mask = TriangleMixMaskGenerator(CONFIG).get_attention_mask(300, 1, "cpu", "float32", True)
    given_mask = optimize(mask) if optimized else mask
    out, pairs = multiplied(monkeypatch, query, key, value, given_mask, 0.2, size)
    assert close(out, softmax_values(*arrays, mask.numpy(), 0.2))
    want = 0
    for i in range(0, 300, size):
        for j in range(0, 300, size):
            block = mask.numpy()[i : i + size, j : j + size]
            want += block.size if (block == 0).any() else 0
    assert pairs == 4 * want
    assert pairs < 4 * 300 * 300 or size == 1000


def test_kernel_with_hidden_rows_and_a_mask_for_each_head():
    (query, key, value), arrays = heads_last(150, 200, 4, 2, 32, batch=2)
    rng = np.random.default_rng(1)
    mask = np.where(rng.random((2, 4, 150, 200)) < 0.3, rng.standard_normal((2, 4, 150, 200)), -np.inf)
    mask[0, 1, 10:100] = -np.inf
    mask[1, :, 3] = -np.inf
    out = kernel(query, key, value, paddle.to_tensor(mask.astype(np.float32)), 0.2, 32)
    assert close(out, softmax_values(*arrays, mask.astype(np.float32), 0.2))
    assert (out.numpy()[0, 10:100, 1] == 0).all() and (out.numpy()[1, 3] == 0).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([(1, 1), (4, 1), (4, 2)]),
    st.integers(1, 100),
    st.sampled_from([(1, 1), (1, 0), (2, 1), (2, 0)]),
    st.floats(0.0, 1.0),
    st.integers(0, 1000),
)
def test_fuzz_kernel(lq, lk, heads, size, leading, share, seed):
    (query, key, value), arrays = heads_last(lq, lk, *heads, 8, seed=seed, batch=2)
    visible = np.random.default_rng(seed).random((leading[0], leading[1] or heads[0], lq, lk)) < share
    out = kernel(query, key, value, paddle.to_tensor(visible), 0.3, size)
    assert close(out, softmax_values(*arrays, np.where(visible, 0.0, -np.inf), 0.3))


def x(*shape, dtype="float32"):
    return paddle.zeros(shape, dtype=dtype)


LAYER = AscendTriangleMixAttention(2, 8, 1.0)
Q, K = x(1, 4, 2, 8), x(1, 6, 1, 8)
REFUSED = {
    "no heads": (lambda: AscendTriangleMixAttention(0, 8, 1.0), ValueError, "num_heads"),
    "head dimension of a float": (lambda: AscendTriangleMixAttention(1, 8.0, 1.0), TypeError, "head_dim"),
    "infinite scale": (lambda: AscendTriangleMixAttention(1, 8, float("inf")), ValueError, "finite"),
    "configuration without layer": (lambda: AscendTriangleMixAttention(1, 8, 1.0, CONFIG), ValueError, "layer_idx"),
    "layer 2 of 2": (lambda: AscendTriangleMixAttention(1, 8, 1.0, CONFIG, 2, 2), ValueError, r"\[0, 2\)"),
    "layer -1": (lambda: AscendTriangleMixAttention(1, 8, 1.0, None, -1), ValueError, "layer_idx"),
    "dict": (lambda: AscendTriangleMixAttention(1, 8, 1.0, {}, 0), TypeError, "TriangleMixConfig"),
    "numpy": (lambda: LAYER(Q.numpy(), K, K), TypeError, "query must be a paddle.Tensor"),
    "integers": (lambda: LAYER(Q, K.astype("int32"), K), TypeError, "float32, float16 or bfloat16"),
    "other heads": (lambda: LAYER(x(1, 4, 4, 8), K, K), ValueError, "2 heads of 8"),
    "k unlike v": (lambda: LAYER(Q, K, K[:, :5]), ValueError, "fit together"),
    "heads that do not divide": (lambda: LAYER(Q, x(1, 6, 3, 8), x(1, 6, 3, 8)), ValueError, "fit together"),
    "empty": (lambda: LAYER(x(1, 0, 2, 8), K, K), ValueError, "none empty"),
    "more queries than keys": (lambda: LAYER(x(1, 7, 2, 8), K, K), ValueError, "7 queries and 6 keys"),
    "mask of integers": (lambda: LAYER(Q, K, K, x(4, 6, dtype="int32")), TypeError, "bool or floating"),
    "mask as an array": (lambda: LAYER(Q, K, K, np.zeros((4, 6))), TypeError, "mask must be a paddle.Tensor"),
    "mask of other length": (lambda: LAYER(Q, K, K, x(4, 5)), ValueError, "broadcast"),
    "mask of 3 dimensions": (lambda: LAYER(Q, K, K, x(1, 4, 6)), ValueError, "2 or 4 dimensions"),
    "kernel: block 0": (lambda: kernel(Q, K, K, x(4, 6), 1.0, 0), ValueError, "block_size"),
    "kernel: scale NaN": (lambda: kernel(Q, K, K, x(4, 6), float("nan")), ValueError, "finite"),
    "kernel: other mask": (lambda: kernel(Q, K, K, x(6, 4), 1.0), ValueError, "broadcast"),
    "optimize: block -1": (lambda: optimize(x(4, 4), -1), ValueError, "block_size"),
    "optimize: bool": (lambda: optimize(x(4, 4, dtype="bool")), TypeError, "floating"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    call, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        call()


def test_one_query_whose_heads_have_masks_of_their_own(monkeypatch):
    """Heads that share a key head share a product only where they share a mask."""
    (query, key, value), arrays = heads_last(1, 150, 4, 2, 32)
    masks = np.where(np.random.default_rng(0).random((1, 4, 1, 150)) < 0.5, 0.0, -np.inf).astype(np.float32)
    products, attend = [], ascend._block_attention
    monkeypatch.setattr(ascend, "_block_attention", lambda q, *more: products.append(q.shape[0]) or attend(q, *more))
    assert close(kernel(query, key, value, paddle.to_tensor(masks), 0.2), softmax_values(*arrays, masks, 0.2))
    shared = masks[:, :1]
    assert close(kernel(query, key, value, paddle.to_tensor(shared), 0.2), softmax_values(*arrays, shared, 0.2))
    assert products == [1, 1, 1, 1, 2, 2]
