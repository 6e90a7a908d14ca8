"""``PSAAttention`` on the Triton backend, in the interpreter, with each token order."""

import numpy as np
import paddle
import pytest
from shared import RATIOS, error_budget, smooth_qkv

from psa_paddle import PSAAttention, PSAConfig
from psa_paddle import reference as ref
from psa_paddle.rearrange import METHODS

GRID, TEXT = (3, 9, 10), 21
BASE = PSAConfig(block_m=64, block_n=32, mask_ratios=RATIOS, tile_size=(2, 4, 4), dense_below=0, backend="triton")


def tensors(*arrays):
    return [paddle.to_tensor(x) for x in arrays]


@pytest.mark.parametrize("method, first", [(None, True), *((m, True) for m in METHODS), ("Hybrid", False)])
def test_two_backends_one_answer(method, first):
    qkv = tensors(*smooth_qkv(291, 291, 2, 1, 32))
    call = {"grid": GRID, "text_length": TEXT, "text_first": first}
    triton, eager = (PSAAttention(BASE.replace(rearrange_method=method, backend=name)) for name in ("triton", "eager"))
    for _ in range(2):  # the second call starts from the clusters of the first
        got, want = triton(*qkv, **call), eager(*qkv, **call)
        assert np.abs(got.numpy() - want.numpy()).max() < 1e-5
        assert triton.last_call.backend == "triton" and eager.last_call.backend == "eager"
        assert triton.last_call.sparsity() == pytest.approx(eager.last_call.sparsity(), abs=1e-6)


@pytest.mark.parametrize("method", ["STA", "Hybrid"])
def test_all_levels_one_equal_dense(method):
    q, k, v = smooth_qkv(270, 270, 2, 1, 32)
    psa = PSAAttention(BASE.replace(mask_ratios={1: (0.0, 1.0)}, rearrange_method=method))
    want = ref.dense_attention(*(x[0].astype(np.float64) for x in (q, k, v)), 32**-0.5, False)
    budget = error_budget(q[0], k[0], v[0], 32**-0.5, False)
    assert np.abs(psa(*tensors(q, k, v), grid=GRID).numpy()[0] - want).max() <= budget
    last = psa(*tensors(q, k, v), grid=GRID, heads_last=True).numpy()[0]
    assert last.shape == (270, 2, 32) and np.abs(last.transpose(1, 0, 2) - want).max() <= budget


def test_any_strides():
    """[B, L, H, D] inputs seen as [B, H, L, D], and a last dimension that is not contiguous."""
    q, k, v = smooth_qkv(270, 270, 2, 2, 32)
    psa = PSAAttention(BASE.replace(rearrange_method="Gilbert"))
    want = psa(*tensors(q, k, v), grid=GRID)
    views = [x.transpose([0, 2, 1, 3]) for x in tensors(*(x.transpose(0, 2, 1, 3).copy() for x in (q, k, v)))]
    assert bool((psa(*views, grid=GRID) == want).all())
    views = [x.transpose([0, 1, 3, 2]) for x in tensors(*(x.transpose(0, 1, 3, 2).copy() for x in (q, k, v)))]
    assert bool((psa(*views, grid=GRID) == want).all())
