"""The plan: what of a configuration reaches the kernels, what it refuses, why a call runs dense."""

import numpy as np
import paddle
import pytest
from shared import RATIOS, smooth_qkv

from psa_paddle import AttentionConfig, PSAAttention, PSAConfig, PyramidAdaptiveBlockSparseAttn
from psa_paddle.attention import dense_attention, pyramid_attention
from psa_paddle.config import PRESETS
from psa_paddle.plan import DENSE_BELOW, DenseReason, Plan

GOOD = dict(scale=0.1, causal=True, query_block=64, key_block=32)
REFUSED = {
    "query_block": ({"query_block": 32}, "query_block must be 64 or 128, got 32"),
    "key_block": ({"key_block": 48}, "key_block must be 32, 64 or 128, got 48"),
    "mode": ({"mask_mode": "best"}, "mask_mode must be one of energybound, topk, topk_sqrt, got 'best'"),
    "method": ({"importance_method": "guess"}, "importance_method must be one of xattn, peak, pooling"),
    "no intervals": ({"intervals": ()}, "1 to 5 intervals are possible, got 0"),
    "six intervals": ({"intervals": ((1, 0.0, 1.0),) * 6}, "1 to 5 intervals are possible, got 6"),
    "query_stride": ({"query_stride": 2}, "query_stride must be one of 4, 8, 16, 32, got 2"),
    "key_stride": ({"key_stride": 5}, "key_stride must be one of 1, 2, 4, 8, 16, 32, got 5"),
    "terms of queries": ({"terms": 3, "key_stride": 32}, "terms must divide both strides, got 3"),
    "terms of keys": ({"terms": 8, "key_stride": 4}, "terms must divide both strides, got 8 and 4"),
    "no terms": ({"terms": 0}, "terms must divide both strides, got 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name):
    changes, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        Plan(**{**GOOD, **changes})
    with pytest.raises(ValueError, match=words):
        Plan(**GOOD).replace(**changes)


@pytest.mark.parametrize("name", PRESETS)
def test_holds_what_the_configuration_says(name):
    config = AttentionConfig.preset(name, text_length=9, causal=False, dense_below=77, audit_rows=16)
    plan = Plan.of(config, 0.25, "eager", heads_last=True)
    assert (plan.scale, plan.backend, plan.heads_last, plan.causal) == (0.25, "eager", True, False)
    assert (plan.query_block, plan.key_block, plan.intervals) == (128, config.key_block, config.intervals)
    assert (plan.mask_mode, plan.importance_method) == (config.mask_mode, config.importance_method)
    assert (plan.query_stride, plan.key_stride) == (config.xattn_query_stride, config.xattn_stride)
    assert (plan.terms, plan.forced_text, plan.dense_below) == (config.xattn_terms, 9, 77)
    assert plan.thresholds == ((0.75, 0.7, 0.7) if name == "seed" else None)
    assert plan.pools == (name == "seed") and plan.audit_rows == 0  # an audit is asked for call by call
    assert plan.levels == tuple(level for level, _, _ in config.intervals)
    assert Plan.of(config, 0.25, "eager", heads_last=True) is plan and hash(plan) == hash(plan.replace())


@pytest.mark.parametrize("backend", DENSE_BELOW)
def test_runs_dense_below_the_crossover_of_its_backend(backend):
    below = DENSE_BELOW[backend]
    plan = Plan.of(AttentionConfig(), 1.0, backend)
    assert plan.why_dense(below) == "" and plan.why_dense(below - 1) == f"shorter than {below} keys"
    asked = Plan.of(AttentionConfig(dense_below=0), 1.0, backend, dense=DenseReason.WARM_UP)
    assert asked.why_dense(10**6) == "warm-up step"


def test_block_means_only_where_something_is_skipped():
    for ratios, uses in (({1: (0, 0.5), 0: (0.5, 1)}, True), ({1: (0, 0.5), 8: (0.5, 1)}, False)):
        plan = Plan.of(AttentionConfig(mask_ratios=ratios, block_means=True), 1.0)
        assert plan.block_means == plan.reads_means == uses
    assert not plan.at_level_one.reads_means and plan.at_level_one.levels == (1,)


def test_a_reason_is_its_text():
    assert f"{DenseReason.MASK}" == str(DenseReason.MASK) == DenseReason.MASK == "attention mask"
    assert {DenseReason.GRADIENTS: 1} == {"gradients": 1}
    assert DenseReason.GRID.text(7, (1, 2, 3)) == "7 tokens are not the latent's grid (1, 2, 3)"


def qkv():
    return [paddle.to_tensor(x) for x in smooth_qkv(100, 150, 4, 2, 32, batch=2)]


SPARSE = AttentionConfig.preset("seed", query_block=64, key_block=32, mask_ratios=RATIOS, text_length=0, dense_below=0)


@pytest.mark.parametrize("kv_start", [None, [0, 70]], ids=["whole", "padded"])
def test_dense_attention_says_why_whatever_the_lengths(kv_start):
    tensors = qkv()
    out, call = dense_attention(*tensors, SPARSE, DenseReason.DECODE, kv_start=kv_start, heads_last=True)
    want = pyramid_attention(*tensors, SPARSE.replace(dense_below=151), kv_start=kv_start, heads_last=True)
    assert (call.mode, call.reason, call.work, call.sparsity()) == ("dense", "decode", [], 0.0)
    np.testing.assert_array_equal(out.numpy(), want.numpy())
    with pytest.raises(ValueError, match="scale must be finite"):
        dense_attention(*tensors, SPARSE, DenseReason.DECODE, scale=float("nan"))


def test_warm_up_steps_have_their_own_reason_not_a_length():
    q, k, v = qkv()
    layer = PyramidAdaptiveBlockSparseAttn(SPARSE.replace(warmup_steps=1))
    psa = PSAAttention(PSAConfig(block_m=64, block_n=32, warmup_steps=1, dense_below=0))
    for attention, causal in ((layer, {}), (psa, {"causal": True})):
        for timestep, reason in ((9, "warm-up step"), (8, "")):
            attention(q, k, v, timestep=timestep, **causal)
            assert attention.last_call.reason == reason
