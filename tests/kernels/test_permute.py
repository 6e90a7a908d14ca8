"""Token orders: gathered, scattered back, bit for bit."""

import numpy as np
import paddle
import pytest
from kernels.kernel_cases import tensor

from psa_paddle.kernels import permute_tokens, restore_tokens, token_index

SHAPES = {
    "one token": (1, 1, 1, 32),
    "one short of a tile": (1, 2, 63, 80),
    "one more than a tile": (2, 3, 65, 96),
    "batch": (3, 2, 131, 64),
    "widest head": (1, 2, 129, 128),
}


def inputs(shape, dtype, per_head, seed=0):
    rng = np.random.default_rng(seed)
    b, h, length, _ = shape
    x = rng.standard_normal(shape).astype(dtype)
    order = rng.permuted(np.tile(np.arange(length, dtype=np.int32), (b, h, 1)), axis=-1)
    return x, order if per_head else order[0, 0]


@pytest.mark.parametrize("layout", ["bhld", "blhd", "sliced"])
@pytest.mark.parametrize("per_head", [True, False], ids=["an order a head", "one order"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", SHAPES)
def test_gathers_and_restores_bitwise(name, dtype, per_head, layout):
    host, order = inputs(SHAPES[name], dtype, per_head)
    x, index = tensor(host, layout), paddle.to_tensor(order)
    moved = permute_tokens(x, index)
    want = np.take_along_axis(host, np.broadcast_to(order, host.shape[:3])[..., None], 2)
    assert np.array_equal(moved.numpy(), want) and moved.is_contiguous()
    assert np.array_equal(restore_tokens(moved, index).numpy(), host)
    last = restore_tokens(moved, index, heads_last=True)
    assert np.array_equal(last.numpy(), host.transpose(0, 2, 1, 3)) and last.is_contiguous()


def test_bfloat16():
    host, order = inputs((1, 2, 70, 32), "float32", True)
    x, index = tensor(host).astype("bfloat16"), paddle.to_tensor(order)
    moved = permute_tokens(x, index)
    assert np.array_equal(moved.astype("float32").numpy(), permute_tokens(x.astype("float32"), index).numpy())
    assert bool((restore_tokens(moved, index) == x).all())


def test_restores_from_a_strided_tensor():
    host, order = inputs((2, 3, 70, 32), "float32", True)
    index = paddle.to_tensor(order)
    moved = tensor(permute_tokens(tensor(host), index).numpy(), "blhd")
    assert np.array_equal(restore_tokens(moved, index).numpy(), host)


def test_any_bits_come_back():
    """NaN payloads, infinities and signed zeros are numbers like others."""
    bits = np.random.default_rng(0).integers(0, 1 << 16, (1, 1, 128, 32), dtype=np.uint16)
    index = token_index(np.random.default_rng(1).permutation(128), paddle.zeros([1]))
    x = paddle.to_tensor(bits.view(np.float16))
    assert np.array_equal(restore_tokens(permute_tokens(x, index), index).numpy().view(np.uint16), bits)


def test_numpy_arrays_too():
    host, order = inputs((1, 2, 70, 32), "float32", False)
    assert np.array_equal(permute_tokens(host, order), host[:, :, order])


X = paddle.zeros([1, 2, 6, 32])
REFUSED = {
    "int64 order": (X, paddle.arange(6), TypeError, "order must be int32"),
    "short order": (X, paddle.arange(5, dtype="int32"), ValueError, r"order must be \[L\] or \[B, H, L\]"),
    "other heads": (X, paddle.zeros([1, 1, 6], "int32"), ValueError, "order must be"),
    "other dtype": (X.astype("float64"), paddle.arange(6, dtype="int32"), TypeError, "float32, float16 or bfloat16"),
    "transposed": (paddle.zeros([1, 2, 32, 32]).transpose([0, 1, 3, 2]), paddle.arange(32, dtype="int32"), ValueError,
                   "contiguous in its last dimension"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    x, order, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        permute_tokens(x, order)
