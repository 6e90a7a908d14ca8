"""The operator as a user calls it."""

import numpy as np
import paddle
import pytest
from shared import RATIOS, error_budget, smooth_qkv

from psa_paddle import AttentionConfig, adaptive_block_sparse_attn, estimate_block_importance, pyramid_attention
from psa_paddle import reference as ref
from psa_paddle.eager import operator
from psa_paddle.plan import Plan

SPARSE = AttentionConfig.preset(
    "seed", query_block=64, key_block=32, mask_ratios=RATIOS, text_length=0, xattn_stride=8, dense_below=0
)
ALL_ONE = SPARSE.replace(mask_ratios={1: (0.0, 1.0)})


def tensors(*arrays):
    return [paddle.to_tensor(x) for x in arrays]


def zeros(*shape, dtype="float32"):
    return paddle.zeros(shape, dtype=dtype)


GOOD = (zeros(1, 4, 64, 32), zeros(1, 2, 96, 32), zeros(1, 2, 96, 32))
REFUSED = {
    "numpy": ((np.zeros((1, 4, 64, 32)), *GOOD[1:]), {}, TypeError, "q must be a paddle.Tensor"),
    "three dimensions": ((GOOD[0][0], *GOOD[1:]), {}, ValueError, "4 dimensions"),
    "integers": ((zeros(1, 4, 64, 32, dtype="int32"), *GOOD[1:]), {}, TypeError, "float32, float16 or bfloat16"),
    "two dtypes": ((GOOD[0].astype("float16"), *GOOD[1:]), {}, TypeError, "one dtype"),
    "k unlike v": ((GOOD[0], GOOD[1], GOOD[2][:, :, :90]), {}, ValueError, "one shape"),
    "other batch": ((zeros(2, 4, 64, 32), *GOOD[1:]), {}, ValueError, "batch"),
    "other head dimension": ((zeros(1, 4, 64, 64), *GOOD[1:]), {}, ValueError, "head dimension"),
    "heads that do not divide": ((zeros(1, 3, 64, 32), *GOOD[1:]), {}, ValueError, "evenly"),
    "head dimension 40": ([zeros(1, 1, 64, 40)] * 3, {}, ValueError, "use one of 32"),
    "more queries than keys": ((zeros(1, 4, 97, 32), *GOOD[1:]), {}, ValueError, "97 queries and 96 keys"),
    "empty": ((zeros(1, 4, 0, 32), *GOOD[1:]), {}, ValueError, "empty"),
    "infinite scale": (GOOD, {"scale": float("inf")}, ValueError, "finite"),
    "one start too many": (GOOD, {"kv_start": [0, 0]}, ValueError, "one start for each"),
    "nothing but padding": (GOOD, {"kv_start": [96]}, ValueError, "no attention"),
}


@pytest.mark.parametrize("case", REFUSED, ids=list(REFUSED))
def test_refuses(case):
    qkv, keywords, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        pyramid_attention(*qkv, SPARSE, **keywords)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("means", [False, True], ids=["skipped", "means"])
@pytest.mark.parametrize("spans", [1, 3])
def test_whole_operator_follows_the_reference(spans, means, causal, monkeypatch):
    monkeypatch.setattr(operator, "blocks_per_span", lambda geo, *_: -(-geo.n_i // spans))
    q, k, v = smooth_qkv(500, 700, 4, 2, 64)
    config = SPARSE.replace(causal=causal, text_length=20, block_means=means)
    out, stats = pyramid_attention(*tensors(q, k, v), config, return_stats=True)
    q64, k64, v64 = (x[0].astype(np.float64) for x in (q, k, v))
    scores = ref.xattn_importance(q64, k64, 0.125, causal, 64, 32, (16, 8), 4)
    cap = ref.key_similarity_cap(k64, 32, {2: 0.75, 4: 0.7, 8: 0.7})
    plan = Plan.of(config, 0.125)
    levels = ref.select_levels(scores, cap, plan, 500, 700)
    want = ref.attend(q64, k64, v64, levels, plan)
    assert set(np.unique(levels)) == {0, 1, 2, 4, 8}
    assert np.abs(out.numpy()[0] - want).max() <= error_budget(q[0], k[0], v[0], 0.125, causal)
    assert stats.sparsity() == pytest.approx(ref.sparsity(levels, 500, 700, 64, 32, causal, means), abs=1e-6)
    assert stats.sparsity() > 0.2


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_all_blocks_at_level_one_equal_dense(causal):
    q, k, v = smooth_qkv(200, 330, 4, 1, 80)
    out, stats = pyramid_attention(*tensors(q, k, v), ALL_ONE.replace(causal=causal), return_stats=True)
    want = ref.dense_attention(*(x[0].astype(np.float64) for x in (q, k, v)), 80**-0.5, causal)
    assert np.abs(out.numpy()[0] - want).max() <= error_budget(q[0], k[0], v[0], 80**-0.5, causal)
    assert stats.mode == "sparse" and stats.sparsity() == 0.0


def test_short_sequences_run_dense_and_say_so():
    qkv = tensors(*smooth_qkv(200, 200, 4, 1, 64))
    dense, stats = pyramid_attention(*qkv, SPARSE.replace(dense_below=201), return_stats=True)
    assert (stats.mode, stats.reason, stats.sparsity()) == ("dense", "shorter than 201 keys", 0.0)
    sparse, stats = pyramid_attention(*qkv, SPARSE.replace(dense_below=200), return_stats=True)
    assert stats.mode == "sparse" and not np.array_equal(dense.numpy(), sparse.numpy())


def test_batch_equals_its_samples():
    q, k, v = smooth_qkv(300, 300, 4, 2, 32, batch=3)
    out, stats = pyramid_attention(*tensors(q, k, v), SPARSE, return_stats=True)
    sparsities = []
    for b in range(3):
        alone, one = pyramid_attention(*tensors(*(x[b : b + 1] for x in (q, k, v))), SPARSE, return_stats=True)
        assert np.abs(out.numpy()[b] - alone.numpy()[0]).max() < 1e-6
        sparsities.append(one.sparsity())
    assert stats.sparsity() == pytest.approx(np.mean(sparsities))


@pytest.mark.parametrize("lq", [300, 130], ids=["prefill", "chunk"])
@pytest.mark.parametrize("dense_below", [0, 250], ids=["sparse", "by-length"])
def test_left_padded_batch_equals_its_samples(lq, dense_below):
    """Each sample keeps the blocks that it has alone, however much padding stands before it."""
    config, starts = SPARSE.replace(dense_below=dense_below), [0, 77, 210]
    q, k, v = smooth_qkv(lq, 300, 4, 2, 32, batch=3)
    k[1, :, :77], k[2, :, :210] = np.nan, np.inf  # what stands in the padding must not matter
    out, stats = pyramid_attention(*tensors(q, k, v), config, kv_start=starts, return_stats=True)
    for b, start in enumerate(starts):
        first = max(0, start - (300 - lq))
        alone = (q[b : b + 1, :, first:], k[b : b + 1, :, start:], v[b : b + 1, :, start:])
        want = pyramid_attention(*tensors(*alone), config).numpy()[0]
        assert np.abs(out.numpy()[b, :, first:] - want).max() < 1e-6
        assert (out.numpy()[b, :, :first] == 0).all()
    assert stats.lengths == tuple((lq - max(0, s - (300 - lq)), 300 - s) for s in starts)


def test_two_block_aligned_chunks_equal_one_call():
    q, k, v = smooth_qkv(448, 448, 4, 2, 64)
    whole = pyramid_attention(*tensors(q, k, v), SPARSE).numpy()
    first = pyramid_attention(*tensors(q[:, :, :256], k[:, :, :256], v[:, :, :256]), SPARSE).numpy()
    second = pyramid_attention(*tensors(q[:, :, 256:], k, v), SPARSE).numpy()
    assert np.abs(np.concatenate([first, second], 2) - whole).max() < 1e-5


def test_question_stays_at_full_resolution():
    q, k, v = smooth_qkv(512, 512, 2, 1, 64)
    skip_all = SPARSE.replace(mask_ratios={0: (0.0, 1.0)}, text_length=64)
    out = pyramid_attention(*tensors(q, k, v), skip_all).numpy()[0]
    dense = ref.dense_attention(*(x[0].astype(np.float64) for x in (q, k, v)), 0.125, True)
    assert np.abs(out[:, 448:] - dense[:, 448:]).max() < 1e-5
    assert np.abs(out[:, 384:448] - dense[:, 384:448]).max() > 1e-2


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_means_change_nothing_where_no_level_skips(causal):
    qkv = tensors(*smooth_qkv(300, 400, 4, 2, 32))
    pooled = SPARSE.replace(mask_ratios={1: (0.0, 0.2), 8: (0.2, 1.0)}, causal=causal)
    out, stats = pyramid_attention(*qkv, pooled, return_stats=True)
    same, others = pyramid_attention(*qkv, pooled.replace(block_means=True), return_stats=True)
    assert np.array_equal(out.numpy(), same.numpy()) and stats.sparsity() == others.sparsity() > 0


def test_strided_and_expanded_inputs():
    q, k, v = smooth_qkv(200, 200, 4, 1, 32)
    plain = pyramid_attention(*tensors(q, k, v), SPARSE).numpy()
    swapped = [paddle.to_tensor(x.transpose(0, 2, 1, 3).copy()).transpose([0, 2, 1, 3]) for x in (q, k, v)]
    assert np.array_equal(pyramid_attention(*swapped, SPARSE).numpy(), plain)
    tq, tk, tv = tensors(q, k, v)
    shared = pyramid_attention(tq, tk.expand([1, 4, 200, 32]), tv.expand([1, 4, 200, 32]), SPARSE).numpy()
    assert np.abs(shared - plain).max() < 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_bad_numbers_stay_in_their_head(value):
    q, k, v = smooth_qkv(300, 300, 4, 2, 32)
    clean = pyramid_attention(*tensors(q, k, v), SPARSE).numpy()
    q[0, 1, 17, 3] = value
    dirty = pyramid_attention(*tensors(q, k, v), SPARSE).numpy()
    assert np.array_equal(dirty[0, [0, 2, 3]], clean[0, [0, 2, 3]])
    v[0, 0, 5, 3] = value
    dirty = pyramid_attention(*tensors(q, k, v), SPARSE).numpy()
    assert not np.isfinite(dirty[0, :2]).all()
    assert np.array_equal(dirty[0, 2:], clean[0, 2:])


def test_adaptive_block_sparse_attn_counts_per_head():
    q, k, v = smooth_qkv(400, 400, 4, 2, 64)
    out, sparsity, density = adaptive_block_sparse_attn(*tensors(q, k, v), SPARSE)
    same, stats = pyramid_attention(*tensors(q, k, v), SPARSE, return_stats=True)
    assert np.array_equal(out.numpy(), same.numpy())
    assert float(sparsity) == pytest.approx(stats.sparsity(), abs=1e-6)
    assert density.numpy().tolist() == pytest.approx(stats.per_head_density(), abs=1e-6)
    _, sparsity, density = adaptive_block_sparse_attn(*tensors(q, k, v), SPARSE.replace(dense_below=10**6))
    assert float(sparsity) == 0.0 and density.numpy().tolist() == [1.0] * 4


def test_estimate_block_importance_sums_to_the_groups():
    q, k, _ = smooth_qkv(512, 512, 4, 2, 64)
    scores = estimate_block_importance(*tensors(q, k), SPARSE).numpy()
    assert scores.shape == (1, 4, 8, 16)
    assert scores.sum(-1) == pytest.approx(np.full((1, 4, 8), 4.0), rel=1e-5)
    assert (scores[:, :, 0, 2:] == 0).all()


@pytest.mark.parametrize("method", ["xattn", "pooling"])
def test_pairs_that_nobody_may_see_have_no_importance_at_all(method):
    q, k, _ = (paddle.to_tensor(x) for x in smooth_qkv(200, 300, 2, 1, 32))
    config = AttentionConfig(query_block=64, key_block=32, importance_method=method)
    found = estimate_block_importance(q, k, config).numpy()
    for i in range(4):
        n_valid = (min((i + 1) * 64, 200) - 1 + 100) // 32 + 1
        assert (found[..., i, n_valid:] == 0).all() and (found[..., i, :n_valid] > 0).all()
