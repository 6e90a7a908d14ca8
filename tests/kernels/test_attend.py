"""Attention against reference.attend, given the same level map."""

import numpy as np
import paddle
import pytest
from kernels.kernel_cases import INTERVALS, Case, assert_as_exact_as_dense, qkv, random_levels, stack, tensor

from psa_paddle import reference as ref

CASES = [
    Case(lq=1, lk=1),
    Case(lq=1, lk=63, d=64, group=4),
    Case(lq=31, lk=31, d=80, dtype="float16"),
    Case(lq=127, lk=300, d=128, n=64),
    Case(lq=129, lk=129, d=96, group=7, hkv=2),
    Case(lq=129, lk=530, m=128, n=128, group=2, hkv=2, batch=2, layout="mixed"),
    Case(lq=65, lk=130, dtype="float16", layout="blhd", batch=2),
    Case(lq=300, lk=300, d=64, m=128, n=32, layout="sliced", dtype="float16"),
    Case(lq=300, lk=1000, n=64, group=2),
    Case(lq=200, lk=333, n=64, causal=False, group=2),
    Case(lq=70, lk=31, n=32, causal=False),
    Case(lq=63, lk=640, n=128, m=64, causal=False, dtype="float16", d=128),
    Case(lq=129, lk=300, scale=-0.4),
    Case(lq=129, lk=300, scale=30.0),
]


def attend(q, k, v, levels, case, kv_start=None, out=None, means=False, pooled=True, **changes):
    from psa_paddle.kernels import Pooled, attend_fwd, lists_from_levels, means_fwd, pyramid_fwd

    plan = case.plan(block_means=means, **({"intervals": INTERVALS} if pooled else {}), **changes)
    pair = pyramid_fwd(k, v, plan, kv_start=kv_start)[:2]
    found = lists_from_levels(paddle.to_tensor(levels), plan, case.lq, case.lk, kv_start=kv_start)
    of_blocks = means_fwd(k, v, plan, kv_start=kv_start) if means else ()
    return attend_fwd(q, k, v, found, plan, Pooled(*pair, *of_blocks), kv_start=kv_start, out=out)


@pytest.mark.parametrize("means", [False, True], ids=["skipped", "means"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_level_map(case, means):
    (q, k, v), (q64, k64, v64) = qkv(case)
    levels = random_levels(case)
    out = attend(q, k, v, levels, case, means=means).numpy()
    plan = case.plan(block_means=means)
    want = stack(lambda b: ref.attend(q64[b], k64[b], v64[b], levels[b].astype(int), plan), case.batch)
    assert_as_exact_as_dense(out, want, case)
    if not means:
        assert not out[0, 0, (case.n_i - 1) * case.m :].any(), "a row that keeps nothing must give zeros"


@pytest.mark.parametrize("level", [2, 4, 8])
@pytest.mark.parametrize("n", [32, 64, 128])
def test_runs_of_one_level_with_every_remainder(n, level):
    case = Case(lq=64 * 3, lk=64 * 3 + 5 * n, n=n)
    (q, k, v), (q64, k64, v64) = qkv(case)
    valid, free = ref.block_grid(case.lq, case.lk, case.m, n, True)
    levels = np.where(free, level, 1)[None, None]
    levels[..., 1::3] = np.where(free[:, 1::3], 0, levels[..., 1::3])
    levels = (levels * valid).astype(np.int8)
    want = ref.attend(q64[0], k64[0], v64[0], levels[0].astype(int), case.plan())[None]
    assert_as_exact_as_dense(attend(q, k, v, levels, case).numpy(), want, case)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_all_level_one_equals_dense(causal):
    case = Case(lq=150, lk=213, n=64, group=2, causal=causal)
    (q, k, v), (q64, k64, v64) = qkv(case)
    valid, _ = ref.block_grid(case.lq, case.lk, case.m, case.n, causal)
    levels = np.broadcast_to(valid, (1, 2, *valid.shape)).astype(np.int8)
    want = ref.dense_attention(q64[0], k64[0], v64[0], case.factor, causal)[None]
    assert_as_exact_as_dense(attend(q, k, v, levels, case).numpy(), want, case)


@pytest.mark.parametrize("text", [1, 70, 10**6])
def test_the_order_of_the_rows_changes_nothing(text):
    case = Case(lq=200, lk=300, group=2, hkv=2, batch=2, n=64)
    (q, k, v), _ = qkv(case)
    levels = random_levels(case)
    want = attend(q, k, v, levels, case, means=True).numpy()
    poison = paddle.full(want.shape, float("nan"), q.dtype)
    found = attend(q, k, v, levels, case, means=True, out=poison, forced_text=text).numpy()
    np.testing.assert_array_equal(found, want)


def test_nothing_kept_gives_zeros_not_nan():
    case = Case(lq=129, lk=300)
    (q, k, v), _ = qkv(case)
    out = attend(q, k, v, np.zeros((1, 1, case.n_i, case.n_j), np.int8), case)
    assert not out.numpy().any()


def test_writes_paddles_layout_and_nothing_else():
    case = Case(lq=100, lk=130, group=2)
    (q, k, v), _ = qkv(case)
    levels = random_levels(case)
    buffer = paddle.full([1, 103, 2, 40], 7.0)
    attend(q, k, v, levels, case, out=buffer.transpose([0, 2, 1, 3])[:, :, 2:102, :32])
    host = buffer.numpy()
    np.testing.assert_array_equal(host[:, 2:102, :, :32].transpose(0, 2, 1, 3), attend(q, k, v, levels, case).numpy())
    host[:, 2:102, :, :32] = 7.0
    assert (host == 7.0).all()


@pytest.mark.parametrize("means", [False, True], ids=["skipped", "means"])
def test_padded_sample_is_the_sample_alone(means):
    case, start = Case(lq=200, lk=230, batch=2), 77
    own = Case(lq=200 - 47, lk=230 - 77)
    (q, k, v), _ = qkv(case)
    k[1, :, :start] = float("inf")  # padding may hold anything
    v[1, :, :start] = float("inf")
    levels = random_levels(case)
    levels[1] = 0
    levels[1, :, : own.n_i, : own.n_j] = random_levels(own)[0]
    out = attend(q, k, v, levels, case, kv_start=paddle.to_tensor([0, start], "int32"), means=means).numpy()
    alone = [x[1:, :, first:] for x, first in ((q, 47), (k, start), (v, start))]
    alone = attend(*alone, levels[1:, :, : own.n_i, : own.n_j], own, means=means).numpy()
    np.testing.assert_allclose(out[1, :, 47:], alone[0], rtol=1e-6, atol=1e-7)
    assert not out[1, :, :47].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_numbers_stay_in_their_head(bad):
    case = Case(lq=100, lk=130, hkv=2)
    (q, k, v), (q64, k64, v64) = qkv(case)
    levels = random_levels(case, skipped_rows=False)
    v[0, 0, 5] = bad
    k[0, 0, 9] = bad
    with np.errstate(invalid="ignore"):
        out = attend(q, k, v, levels, case).numpy()
    want = ref.attend(q64[0, 1:], k64[0, 1:], v64[0, 1:], levels[0, 1:].astype(int), case.plan())
    np.testing.assert_allclose(out[0, 1], want[0], rtol=1e-4, atol=1e-5)


def test_expanded_batch_and_heads():
    case = Case(lq=65, lk=97, group=2)
    (_, k, v), _ = qkv(case)
    q = tensor(np.random.default_rng(1).standard_normal((1, 1, 65, 32)).astype("float32"))
    levels = random_levels(case, skipped_rows=False)
    levels[:, 1] = levels[:, 0]
    out = attend(q.expand([1, 2, 65, 32]), k, v, levels, case).numpy()
    np.testing.assert_array_equal(out[:, 0], out[:, 1])


def test_refusals():
    from psa_paddle.kernels import Pooled, attend_fwd, lists_from_levels

    case = Case()
    (q, k, v), _ = qkv(case)
    plan = case.plan()
    found = lists_from_levels(paddle.zeros([1, 1, 3, 5], "int8"), plan, case.lq, case.lk)
    with pytest.raises(ValueError, match="query_block"):
        attend_fwd(q, k, v, found, case.plan(query_block=32))
    with pytest.raises(ValueError, match="lists must be"):
        attend_fwd(q, k, v, found._replace(lists=found.lists[..., :4]), plan)
    with pytest.raises(ValueError, match="means=True"):
        attend_fwd(q, k, v, found._replace(levels=None), plan, Pooled(mean_k=k, mean_v=v))
    with pytest.raises(ValueError, match="out must be"):
        attend_fwd(q, k, v, found, plan, out=paddle.zeros([1, 1, 5, 32]))
    with pytest.raises(TypeError, match="float32, float16 or bfloat16"):
        attend_fwd(q.astype("float64"), k, v, found, plan)
    with pytest.raises(ValueError, match="kv_start"):
        attend_fwd(q, k, v, found, plan, kv_start=paddle.zeros([1], "int64"))
