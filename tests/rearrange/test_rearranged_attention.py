"""PSAAttention with each token order."""

import numpy as np
import paddle
import pytest
from shared import RATIOS, error_budget, smooth_qkv

from psa_paddle import pyramid_attention
from psa_paddle import reference as ref
from psa_paddle.psa_config import PSAConfig
from psa_paddle.psa_module import PSAAttention, psa_attention
from psa_paddle.rearrange import METHODS

BASE = PSAConfig(mask_ratios=RATIOS, dense_below=0)
ALL_ONE = {1: (0.0, 1.0)}
GRID = (3, 10, 13)


def tensors(*arrays):
    return [paddle.to_tensor(x) for x in arrays]


def dense(q, k, v):
    return ref.dense_attention(*(x[0].astype(np.float64) for x in (q, k, v)), q.shape[-1] ** -0.5, False)


@pytest.mark.parametrize("text", [(0, True), (37, True), (37, False)], ids=["no-text", "text-first", "text-last"])
@pytest.mark.parametrize("method", METHODS)
def test_all_levels_one_equal_dense(method, text):
    length = 390 + text[0]
    q, k, v = smooth_qkv(length, length, 4, 2, 64)
    psa = PSAAttention(PSAConfig(mask_ratios=ALL_ONE, rearrange_method=method, dense_below=0, tile_size=(2, 4, 4)))
    for _ in range(2):  # the second call starts from the clusters of the first
        out = psa(*tensors(q, k, v), grid=GRID, text_length=text[0], text_first=text[1]).numpy()[0]
        assert psa.last_call.mode == "sparse" and psa.last_call.sparsity() == 0.0
        assert np.abs(out - dense(q, k, v)).max() <= error_budget(q[0], k[0], v[0], 0.125, False)


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("first", [True, False], ids=["text-first", "text-last"])
def test_text_stays_at_full_resolution(method, first):
    q, k, v = smooth_qkv(490, 490, 2, 2, 64)
    skip_all = PSAConfig(mask_ratios={0: (0.0, 1.0)}, rearrange_method=method, dense_below=0)
    out = psa_attention(*tensors(q, k, v), skip_all, grid=(3, 10, 13), text_length=100, text_first=first).numpy()[0]
    text, vision = (slice(0, 100), slice(100, 300)) if first else (slice(390, None), slice(0, 200))
    error = np.abs(out - dense(q, k, v))
    assert error[:, text].max() <= error_budget(q[0], k[0], v[0], 0.125, False)
    assert error[:, vision].max() > 1e-2


ORDERS = {"Gilbert": {}, "STA": {"tile_size": (2, 4, 4)}}


@pytest.mark.parametrize("method", ORDERS)
def test_runs_the_one_operator_on_the_new_order(method):
    q, k, v = tensors(*smooth_qkv(390, 390, 2, 1, 64))
    config = BASE.replace(rearrange_method=method, **ORDERS[method])
    order = METHODS[method](GRID, **ORDERS[method])
    moved = pyramid_attention(*(order.permute(x) for x in (q, k, v)), config.to_attention_config(), scale=0.3)
    assert bool((psa_attention(q, k, v, config, grid=GRID, scale=0.3) == order.restore(moved)).all())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_stays_close_to_float32(dtype):
    q, k, v = (x.astype(dtype) for x in tensors(*smooth_qkv(390, 390, 2, 1, 64)))
    config = PSAConfig(mask_ratios={1: (0.0, 0.7), 0: (0.7, 1.0)}, rearrange_method="Gilbert", dense_below=0)
    out = psa_attention(q, k, v, config, grid=GRID)
    want = psa_attention(*(x.astype("float32") for x in (q, k, v)), config, grid=GRID)
    assert str(out.dtype) == f"paddle.{dtype}"
    eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    assert float((out.astype("float32") - want).abs().max()) <= 2 * eps * float(want.abs().max())


def test_reset_forgets_clusters():
    q, k, v = tensors(*smooth_qkv(1500, 1500, 2, 2, 64))
    psa = PSAAttention(BASE.replace(rearrange_method="SemanticAware"))
    first = psa(q, k, v)
    assert not bool((psa(q, k, v) == first).all())  # starts from the clusters of the first
    psa.reset()
    assert bool((psa(q, k, v) == first).all())


def smooth_field(grid, heads=2, dim=64, length=8.0, noise=0.3, seed=0):
    """q, k and v [1, heads, L, dim] of random waves over the grid, correlated over about ``length`` tokens."""
    rng = np.random.default_rng(seed)
    cells = np.indices(grid).reshape(3, -1).T / length

    def waves():
        return np.sqrt(2) * np.cos(cells @ rng.standard_normal((3, dim)) + rng.uniform(0, 2 * np.pi, dim))

    kinds = [(base, base, waves()) for base in (waves() for _ in range(heads))]
    return [
        np.stack(x)[None] + noise * rng.standard_normal((1, heads, len(cells), dim)) for x in zip(*kinds, strict=True)
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_coherent_orders_lower_the_error_at_equal_density(seed):
    """8 x 30 x 45 tokens, default configuration: half the error of raster order or less, two thirds with tiles."""
    grid = (8, 30, 45)
    q, k, v = tensors(*(x.astype(np.float32) for x in smooth_field(grid, seed=seed)))
    want = psa_attention(q, k, v, dense_below=10**6)
    errors, densities = {}, []
    for method in (None, *METHODS):
        psa = PSAAttention(PSAConfig(rearrange_method=method))
        errors[method] = float((psa(q, k, v, grid=grid) - want).norm() / want.norm())
        densities.append(1 - psa.last_call.sparsity())
    print(errors, densities)
    assert max(densities) < 1.02 * min(densities)
    assert errors["STA"] < 0.65 * errors[None]
    assert max(errors[method] for method in ("Gilbert", "SemanticAware", "Hybrid")) < 0.5 * errors[None]
