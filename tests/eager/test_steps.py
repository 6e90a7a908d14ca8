"""Each eager step against the reference."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import RATIOS, SHAPE_IDS, SHAPES, error_budget, random_levels, smooth_qkv

from psa_paddle import AttentionConfig, eager, reference
from psa_paddle.eager import attend as attend_module
from psa_paddle.eager.selection import key_similarity_cap, select_levels
from psa_paddle.geometry import Geometry
from psa_paddle.plan import Plan

CAUSAL = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
MEANS = pytest.mark.parametrize("means", [False, True], ids=["skipped", "means"])
THRESHOLDS = {2: 0.75, 4: 0.7, 8: 0.7}


def tensors(*arrays):
    return [paddle.to_tensor(x) for x in arrays]


def exact(*arrays):
    return [x[0].astype(np.float64) for x in arrays]


def plan_for(shape, causal, **changes):
    fields = {
        "query_block": shape[5],
        "key_block": shape[6],
        "causal": causal,
        "mask_ratios": RATIOS,
        "xattn_stride": 8,
    }
    config = AttentionConfig.preset("seed", **{**fields, "dense_below": 0, "text_length": 0, **changes})
    return Plan.of(config, shape[4] ** -0.5)


@CAUSAL
@pytest.mark.parametrize(
    "method,strides,terms",
    [
        ("xattn", (8, 8), 8), ("xattn", (8, 8), 4), ("xattn", (16, 4), 1), ("peak", (8, 2), 1), ("peak", (32, 1), 1),
        ("pooling", (8, 8), 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
def test_importance(shape, method, strides, terms, causal):
    lq, lk, heads, kv_heads, dim, m, n = shape
    q, k, _ = smooth_qkv(*shape[:5])
    r, s = strides
    plan = plan_for(shape, causal, importance_method=method, xattn_query_stride=r, xattn_stride=s, xattn_terms=terms)
    got = eager.importance(*tensors(q, k), plan).numpy()[0]
    if method == "xattn":
        want = reference.xattn_importance(*exact(q, k), dim**-0.5, causal, m, n, strides, terms)
    elif method == "peak":
        want = reference.peak_importance(*exact(q, k), dim**-0.5, causal, m, n, strides)
    else:
        want = reference.pooling_importance(*exact(q, k), dim**-0.5, causal, m, n)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-5 * max(1.0, want.max())  # float32 sums of up to 1,000 terms


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_places_keep_step_with_no_width_of_a_row(size):
    groups = np.arange(2048)
    for width in range(5, 65):
        seen = (groups[:, None] * size + reference.places(groups, size, 1)) % width
        counts = np.bincount(seen.reshape(-1), minlength=width)
        assert counts.min() > 0.4 * counts.mean() and counts.max() < 2 * counts.mean()


@CAUSAL
@pytest.mark.parametrize("mode", ["energybound", "topk", "topk_sqrt"])
@pytest.mark.parametrize("text_length", [0, 37])
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
def test_selection_given_the_same_importance(shape, text_length, mode, causal):
    lq, lk, heads, kv_heads, dim, m, n = shape
    q, k, _ = smooth_qkv(*shape[:5])
    plan = plan_for(shape, causal, mask_mode=mode, text_length=text_length)
    rng = np.random.default_rng(1)
    n_i, n_j = reference.blocks(lq, m), reference.blocks(lk, n)
    # Multiples of 2^-12 make every sum exact, so that no rounding decides a level; equal values test the ties.
    scores = (rng.integers(1, 40, (heads, n_i, n_j)) / 4096).astype(np.float32)
    got = eager.select(*tensors(scores[None], k), lq, plan).numpy()[0]
    cap = reference.key_similarity_cap(k[0].astype(np.float64), n, THRESHOLDS)
    want = reference.select_levels(scores.astype(np.float64), cap, plan, lq, lk)
    near = reference.near_a_bound(scores, plan, lq, lk, 1e-5)
    near &= mode != "topk_sqrt"  # decided in float64 on both sides
    assert (got[~near] == want[~near]).all()
    assert not near.all()


@settings(max_examples=60, deadline=None)
@given(
    lq=st.integers(1, 300),
    extra=st.integers(0, 20000),
    m=st.sampled_from([64, 128]),
    n=st.sampled_from([32, 64, 128]),
    causal=st.booleans(),
    ends=st.lists(st.sampled_from([0.02, 0.1, 0.125, 0.2, 0.25, 0.3, 0.5, 0.7]), min_size=1, max_size=4, unique=True),
    mode=st.sampled_from(["topk", "topk_sqrt"]),
    budgets=st.none() | st.tuples(*[st.sampled_from([0.1, 0.5, 1 / 3, 1.1, 2.0, 30.0]) | st.floats(0.01, 9.0)] * 2),
)
def test_ranks_are_exactly_the_reference(lq, extra, m, n, causal, ends, mode, budgets):
    geo = Geometry(lq, lq + extra, m, n, causal)
    bounds = [0.0, *sorted(ends), 1.0]
    intervals = tuple(zip((1, 2, 4, 8, 0), bounds[:-1], bounds[1:], strict=False))
    scores = np.random.default_rng(lq + extra).integers(1, 100, (2, geo.n_i, geo.n_j)).astype(np.float32)
    plan = Plan(1.0, causal, m, n, intervals, mode, budgets)
    got = select_levels(*tensors(scores[None]), None, geo, plan, (0, geo.n_i)).numpy()[0]
    want = reference.select_levels(scores, np.full((1, geo.n_j), 8), plan, lq, lq + extra)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("key_block", [32, 64, 128])
def test_similarity_cap(key_block):
    rng = np.random.default_rng(0)
    runs = [np.repeat(rng.standard_normal((1, 2, 512 // p, 32)), p, 2) for p in (1, 2, 4, 8)]
    k = np.concatenate([*runs, rng.standard_normal((1, 2, 5, 32))], 2).astype(np.float32)
    got = key_similarity_cap(paddle.to_tensor(k), key_block, THRESHOLDS).numpy()[0]
    assert (got == reference.key_similarity_cap(k[0].astype(np.float64), key_block, THRESHOLDS)).all()
    assert set(got.ravel()) == {1, 2, 4, 8}


@CAUSAL
@MEANS
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
def test_attention_given_the_same_levels(shape, dtype, means, causal):
    lq, lk, heads, kv_heads, dim, m, n = shape
    q, k, v = smooth_qkv(*shape[:5], dtype=dtype)
    levels = random_levels(heads, lq, lk, m, n, causal)
    plan = plan_for(shape, causal, block_means=means)
    got = eager.attend_levels(*tensors(q, k, v), levels[None], plan)
    want = reference.attend(*exact(q, k, v), levels, plan)
    error = np.abs(got.numpy()[0].astype(np.float64) - want).max()
    print(f"relative error {np.linalg.norm(got.numpy()[0] - want) / max(np.linalg.norm(want), 1e-30):.1e}")
    assert error <= error_budget(q[0], k[0], v[0], dim**-0.5, causal, levels, (m, n, means))


@CAUSAL
@pytest.mark.parametrize("budget", [0, 1 << 26], ids=["head-by-head", "heads-together"])
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
def test_heads_run_together_as_one_by_one(shape, budget, causal, monkeypatch):
    """Lists of different widths in one part, as on a GPU; the map lets the first head skip all but what is forced, the
    last one nothing."""
    lq, lk, heads, kv_heads, dim, m, n = shape
    groups = attend_module._groups_of_heads
    monkeypatch.setattr(attend_module, "_groups_of_heads", lambda lists, numbers, _: groups(lists, numbers, False))
    monkeypatch.setattr(attend_module, "SCORES_BUDGET", budget)
    q, k, v = smooth_qkv(*shape[:5])
    levels = random_levels(heads, lq, lk, m, n, causal)
    valid, free = reference.block_grid(lq, lk, m, n, causal)
    levels[0][free] = 0
    levels[-1][valid & (levels[-1] == 0)] = 1
    plan = plan_for(shape, causal, block_means=True)
    got = eager.attend_levels(*tensors(q, k, v), levels[None], plan).numpy()[0]
    want = reference.attend(*exact(q, k, v), levels, plan)
    assert np.abs(got - want).max() <= error_budget(q[0], k[0], v[0], dim**-0.5, causal, levels, (m, n, True))


def test_bfloat16_input():
    q, k, v = smooth_qkv(300, 300, 2, 1, 64)
    q16, k16, v16 = (x.astype("bfloat16") for x in tensors(q, k, v))
    levels = random_levels(2, 300, 300, 64, 32, True)
    plan = plan_for(SHAPES[5], True).replace(scale=0.125)
    got = eager.attend_levels(q16, k16, v16, levels[None], plan)
    rounded = [x.astype("float32").numpy() for x in (q16, k16, v16)]
    want = reference.attend(*exact(*rounded), levels, plan)
    assert got.dtype == paddle.bfloat16
    assert np.abs(got.astype("float32").numpy()[0] - want).max() <= 2**-8 * np.abs(want).max()


@CAUSAL
@MEANS
def test_row_that_keeps_nothing_is_zero(means, causal):
    """But for the means of the blocks that every row sees: of two blocks in query block 1, or of all."""
    q, k, v = smooth_qkv(192, 192, 2, 1, 32)
    levels = random_levels(2, 192, 192, 64, 32, causal)
    levels[0, 1] = 0
    levels[1, 0, 0] = 0  # causal: the first 32 rows of head 1 see no other block
    plan = plan_for(SHAPES[5], causal, block_means=means).replace(scale=0.2)
    got = eager.attend_levels(*tensors(q, k, v), levels[None], plan).numpy()[0]
    want = reference.attend(*exact(q, k, v), levels, plan)
    assert (got[0, 64:128] == 0).all() != means and (not causal or (got[1, :32] == 0).all())
    assert np.abs(got - want).max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    lq=st.integers(1, 260),
    extra=st.integers(0, 130),
    group=st.sampled_from([1, 2, 7]),
    dim=st.sampled_from([32, 80]),
    m=st.sampled_from([64, 128]),
    n=st.sampled_from([32, 64, 128]),
    causal=st.booleans(),
    zeros=st.sampled_from([0.3, 0.9]),
    means=st.booleans(),
    seed=st.integers(0, 99),
)
def test_fuzzed_shapes(lq, extra, group, dim, m, n, causal, zeros, means, seed):
    lk = lq + extra
    q, k, v = smooth_qkv(lq, lk, group, 1, dim, seed)
    levels = random_levels(group, lq, lk, m, n, causal, seed, zeros)
    if zeros > 0.5:
        levels[0, -1] = 0
    plan = Plan(dim**-0.5, causal, m, n, block_means=means)
    got = eager.attend_levels(*tensors(q, k, v), levels[None], plan).numpy()[0]
    want = reference.attend(*exact(q, k, v), levels, plan)
    assert np.abs(got - want).max() <= error_budget(q[0], k[0], v[0], dim**-0.5, causal, levels, (m, n, means))
