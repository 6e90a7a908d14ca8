"""PSAAttention, PSAConfig and psa_attention as a user calls them."""

import dataclasses
import pickle
import textwrap

import numpy as np
import paddle
import pytest
from shared import RATIOS, error_budget, smooth_qkv

from psa_paddle import reference as ref
from psa_paddle.plan import Plan
from psa_paddle.psa_config import DEFAULT_RATIOS, PSAConfig
from psa_paddle.psa_module import PSAAttention, psa_attention

BASE = PSAConfig(mask_ratios=RATIOS, dense_below=0)
OLD = BASE.replace(attn_impl="old_mask_type", block_n=128, use_sim_mask=True)
THRESHOLDS = {"sim_2x_threshold": 0.75, "sim_4x_threshold": 0.7, "sim_8x_threshold": 0.7}
ALL_ONE = {1: (0.0, 1.0)}
GRID = (3, 10, 13)


def tensors(*arrays):
    return [paddle.to_tensor(x) for x in arrays]


def dense(q, k, v, causal=False):
    return ref.dense_attention(*(x[0].astype(np.float64) for x in (q, k, v)), q.shape[-1] ** -0.5, causal)


DEFAULT = """
    from psa_triton import PSAAttention

    psa = PSAAttention()
    out = psa(q, k, v)  # q, k, v: [B, H, L, D]
"""
CUSTOM = """
    from psa_triton import PSAAttention, PSAConfig

    config = PSAConfig(mask_mode='thresholdbound')
    psa = PSAAttention(config)
"""
FULL = """
    from psa_triton import PSAAttention, PSAConfig
    config = PSAConfig(
        block_m=128,
        block_n=64,
        tile_n=32,
        mask_ratios={
            1: (0.0, 0.1),
            2: (0.1, 0.15),
            4: (0.15, 0.15),
            8: (0.15, 0.35),
            0: (0.35, 1.0),
        },
        mask_mode='topk',
        attn_impl='new_mask_type',
        use_sim_mask=False,
        sim_2x_threshold=0.0,
        sim_4x_threshold=0.0,
        sim_8x_threshold=-1.0,
    )
    psa = PSAAttention(config)
    out = psa(q, k, v)
"""
NEW_RULES = """
    from psa_triton import PSAConfig
    config = PSAConfig(
        attn_impl='new_mask_type',
        use_sim_mask=False,
        block_n=64,
    )
"""
OLD_RULES = """
    from psa_triton import PSAConfig
    config = PSAConfig(
        attn_impl='old_mask_type',
        use_sim_mask=True,
        block_m=128,
        block_n=128,
        tile_n=32,
    )
"""
EXAMPLES = {"default": DEFAULT, "custom": CUSTOM, "full": FULL, "new rules": NEW_RULES, "old rules": OLD_RULES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_printed_examples_run(name):
    q, k, v = tensors(*smooth_qkv(1100, 1100, 2, 2, 64))
    scope = {"q": q, "k": k, "v": v}
    exec(textwrap.dedent(EXAMPLES[name]).replace("psa_triton", "psa_paddle"), scope)
    config = scope.get("config", PSAConfig())
    psa = scope.get("psa") or PSAAttention(config)
    out = scope["out"] if "out" in scope else psa(q, k, v)
    assert list(out.shape) == [1, 2, 1100, 64] and bool(paddle.isfinite(out).all())
    assert psa.last_call.mode == "sparse" and psa.last_call.sparsity() > 0.3
    if name in ("default", "full", "new rules"):  # all spell out what is the default
        assert config == PSAConfig() and bool((out == psa_attention(q, k, v)).all())


def test_defaults_are_the_documented_ones():
    config = PSAConfig()
    assert (config.block_m, config.block_n, config.tile_n, config.mask_mode) == (128, 64, 32, "topk")
    assert (config.attn_impl, config.use_sim_mask, config.rearrange_method) == ("new_mask_type", False, None)
    assert (config.sim_2x_threshold, config.sim_4x_threshold, config.sim_8x_threshold) == (0.0, 0.0, -1.0)
    assert dict(config.mask_ratios) == DEFAULT_RATIOS


def expected(q, k, v, c: PSAConfig, causal=False):
    """What the reference makes of a configuration."""
    q, k, v = (x[0].astype(np.float64) for x in (q, k, v))
    lq, lk, scale = q.shape[1], k.shape[1], q.shape[2] ** -0.5
    scores = ref.pooling_importance(q, k, scale, causal, c.block_m, c.block_n)
    thresholds = {2: c.sim_2x_threshold, 4: c.sim_4x_threshold, 8: c.sim_8x_threshold}
    cap = ref.key_similarity_cap(k, c.block_n, thresholds)
    cap = cap if c.use_sim_mask else np.full_like(cap, 8)
    plan = Plan.of(c.to_attention_config(causal), scale)
    return ref.attend(q, k, v, ref.select_levels(scores, cap, plan, lq, lk), plan)


# name -> (configuration, the one that it differs from in one parameter)
PARAMETERS = {
    "block_m": (BASE.replace(block_m=64), BASE),
    "block_n 32": (BASE.replace(block_n=32), BASE),
    "block_n 128": (BASE.replace(block_n=128), BASE),
    "mask_ratios": (BASE.replace(mask_ratios=DEFAULT_RATIOS), BASE),
    "mask_mode": (BASE.replace(mask_mode="thresholdbound"), BASE),
    "mask_mode topk_sqrt": (BASE.replace(mask_mode="topk_sqrt"), BASE),
    "use_sim_mask": (OLD.replace(**THRESHOLDS), OLD.replace(use_sim_mask=False)),
    "sim_2x_threshold": (OLD.replace(**THRESHOLDS | {"sim_2x_threshold": 1.0}), OLD.replace(**THRESHOLDS)),
    "sim_4x_threshold": (OLD.replace(**THRESHOLDS | {"sim_4x_threshold": 1.0}), OLD.replace(**THRESHOLDS)),
    "sim_8x_threshold": (OLD.replace(**THRESHOLDS | {"sim_8x_threshold": 1.0}), OLD.replace(**THRESHOLDS)),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_parameter_does_what_the_reference_does(name):
    config, other = PARAMETERS[name]
    q, k, v = sim_qkv()
    got = psa_attention(*tensors(q, k, v), config).numpy()[0]
    want = expected(q, k, v, config)
    assert np.abs(got - want).max() <= error_budget(q[0], k[0], v[0], q.shape[-1] ** -0.5, False)
    assert np.abs(want - expected(q, k, v, other)).max() > 1e-3


def sim_qkv(length=1000, dim=32):
    """Keys whose blocks of 128 are alike over runs of 8, of 4, of 2 and of 1 token, so that every cap comes up."""
    rng = np.random.default_rng(3)
    q, k, v = (rng.standard_normal((1, 2, length, dim)) for _ in range(3))
    for start in range(0, length, 128):
        run = (8, 4, 2, 1)[start // 128 % 4]
        block = k[:, :, start : start + 128]
        block[:] = np.repeat(block[:, :, ::run], run, 2)[:, :, : block.shape[2]] + 0.1 * block
    return tuple(x.astype(np.float32) for x in (q, k, v))


def test_attn_impl_names_rules_and_not_another_operator():
    qkv = tensors(*sim_qkv())
    new = psa_attention(*qkv, BASE.replace(block_n=128))
    old = psa_attention(*qkv, BASE.replace(block_n=128, attn_impl="old_mask_type"))
    assert bool((new == old).all())


@pytest.mark.parametrize("tile_n", [1, 16, 64])
def test_tile_n_changes_no_result(tile_n):
    qkv = tensors(*sim_qkv())
    assert bool((psa_attention(*qkv, BASE, tile_n=tile_n) == psa_attention(*qkv, BASE)).all())


REFUSED = {
    "sim mask by the new rules": ({"use_sim_mask": True}, ValueError, "use_sim_mask=True needs attn_impl"),
    "old rules, block_n": ({"attn_impl": "old_mask_type"}, ValueError, "block_n must be 128"),
    "old rules, block_m": ({"attn_impl": "old_mask_type", "block_m": 64, "block_n": 128}, ValueError, "block_m must"),
    "block_m": ({"block_m": 32}, ValueError, "block_m must be one of 64, 128"),
    "block_n": ({"block_n": 16, "tile_n": 16}, ValueError, "block_n must be one of 32, 64, 128"),
    "tile_n does not divide": ({"tile_n": 48}, ValueError, r"tile_n must divide block_n \(64\), got 48"),
    "tile_n too large": ({"tile_n": 128}, ValueError, "tile_n must divide"),
    "tile_n zero": ({"tile_n": 0}, ValueError, "tile_n must divide"),
    "tile_n float": ({"tile_n": 32.0}, TypeError, "tile_n must be an integer"),
    "gap": ({"mask_ratios": {1: (0, 0.1), 0: (0.2, 1)}}, ValueError, "gap"),
    "level 3": ({"mask_ratios": {3: (0, 1)}}, ValueError, "level 3"),
    "mask_mode": ({"mask_mode": "energy"}, ValueError, "mask_mode must be one of topk, topk_sqrt, thresholdbound"),
    "attn_impl": ({"attn_impl": "newest"}, ValueError, "attn_impl"),
    "threshold": ({"sim_2x_threshold": 2.0}, ValueError, "sim_2x_threshold is a cosine"),
    "rearrange_method": ({"rearrange_method": "gilbert"}, ValueError, "Gilbert, STA, SemanticAware, Hybrid"),
    "tile_size": ({"tile_size": (8, 8)}, TypeError, "tile_size must be three integers"),
    "warmup_steps": ({"warmup_steps": -1}, ValueError, "warmup_steps"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_config_refuses(case):
    changes, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        PSAConfig(**changes)


X = paddle.zeros([1, 1, 390, 32])
CALLS = {
    "causal rearranged": ({"rearrange_method": "STA"}, {"causal": True}, ValueError, "causal attention excludes"),
    "causal text first": ({}, {"causal": True, "text_length": 3}, ValueError, "text_first=False"),
    "causal of no bool": ({}, {"causal": 1}, TypeError, "causal must be"),
    "no grid": ({"rearrange_method": "Gilbert"}, {}, ValueError, "needs the grid"),
    "other grid": ({"rearrange_method": "Gilbert"}, {"grid": (3, 10, 14)}, ValueError, "420 tokens"),
    "grid of two": ({}, {"grid": (3, 130)}, TypeError, "grid must be three"),
    "long text": ({}, {"text_length": 391}, ValueError, "text_length 391 exceeds 390 queries"),
    "text None": ({}, {"text_length": None}, TypeError, "text_length"),
    "no timestep": ({"warmup_steps": 2}, {}, ValueError, "pass timestep"),
}


@pytest.mark.parametrize("case", CALLS)
def test_call_refuses(case):
    changes, keywords, error, words = CALLS[case]
    with pytest.raises(error, match=words):
        PSAAttention(PSAConfig(**changes))(X, X, X, **keywords)


def test_a_wrong_grid_is_refused_before_the_warm_up_is_over():
    psa = PSAAttention(BASE.replace(rearrange_method="Gilbert", warmup_steps=5))
    with pytest.raises(ValueError, match="420 tokens"):
        psa(X, X, X, grid=(3, 10, 14), timestep=999)


@pytest.mark.parametrize("method", ["Gilbert", "SemanticAware"])
def test_a_dense_call_moves_no_token(method, monkeypatch):
    q, k, v = smooth_qkv(390, 390, 2, 1, 64)
    psa = PSAAttention(PSAConfig(rearrange_method=method))
    monkeypatch.setattr("psa_paddle.eager.permute_tokens", None)
    monkeypatch.setattr("psa_paddle.eager.cluster_tokens", None)
    out = psa(*tensors(q, k, v), grid=GRID).numpy()[0]
    assert psa.last_call.mode == "dense"
    assert np.abs(out - dense(q, k, v)).max() <= error_budget(q[0], k[0], v[0], 0.125, False)
    with pytest.raises(TypeError):  # a sparse one does
        PSAAttention(BASE.replace(rearrange_method=method))(*tensors(q, k, v), grid=GRID)


def test_heads_last():
    qkv = tensors(*smooth_qkv(390, 390, 2, 1, 64))
    for config in (BASE, BASE.replace(rearrange_method="Gilbert"), PSAConfig()):
        want = psa_attention(*qkv, config, grid=GRID)
        assert bool((psa_attention(*qkv, config, grid=GRID, heads_last=True) == want.transpose([0, 2, 1, 3])).all())


def test_refuses_other_configurations_and_unknown_keywords():
    with pytest.raises(TypeError, match="PSAConfig"):
        PSAAttention({"block_n": 32})
    with pytest.raises(TypeError, match="block_k"):
        psa_attention(X, X, X, block_k=3)


def test_causal_follows_the_reference():
    q, k, v = sim_qkv()
    config = OLD.replace(**THRESHOLDS)
    got = psa_attention(*tensors(q, k, v), config, causal=True).numpy()[0]
    budget = error_budget(q[0], k[0], v[0], 32**-0.5, True)
    assert np.abs(got - expected(q, k, v, config, causal=True)).max() <= budget
    assert np.abs(got - dense(q, k, v, causal=True)).max() > 100 * budget
    full = psa_attention(*tensors(q, k, v), config, causal=True, mask_ratios=ALL_ONE).numpy()[0]
    assert np.abs(full - dense(q, k, v, causal=True)).max() <= budget


@pytest.mark.parametrize("method", ["Gilbert", "SemanticAware"])
def test_warm_up_runs_dense_by_timestep(method):
    q, k, v = smooth_qkv(390, 390, 2, 2, 64)
    psa = PSAAttention(BASE.replace(warmup_steps=2, rearrange_method=method))
    modes = []
    for timestep in (999, 999, 900, 800):  # two calls with one timestep are one step
        out = psa(*tensors(q, k, v), grid=GRID, timestep=timestep).numpy()[0]
        modes.append((psa.last_call.mode, psa.last_call.reason))
        near = np.abs(out - dense(q, k, v)).max() <= error_budget(q[0], k[0], v[0], 0.125, False)
        assert near == (psa.last_call.mode == "dense")
    assert modes == [("dense", "warm-up step")] * 3 + [("sparse", "")]


def test_config_is_frozen_hashable_and_pickles():
    config = PSAConfig(rearrange_method="STA", tile_size=[2, 4, 8])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.block_n = 32
    assert pickle.loads(pickle.dumps(config)) == config and hash(config) == hash(config.replace())
    assert config.tile_size == (2, 4, 8)
