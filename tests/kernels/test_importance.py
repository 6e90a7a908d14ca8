"""Importance against reference.py, read through the selection kernel, which joins the tiles."""

import numpy as np
import paddle
import pytest
from kernels.kernel_cases import INTERVALS, Case, qkv, stack

from psa_paddle import reference as ref

CASES = [
    Case(lq=1, lk=1),
    Case(lq=1, lk=300, group=4),
    Case(lq=31, lk=63, d=80, causal=False),
    Case(lq=127, lk=129, group=7, dtype="float16"),
    Case(lq=97, lk=300, d=64, n=64, group=2, hkv=2, batch=2, layout="mixed"),
    Case(lq=300, lk=300, d=128, m=128, n=128, layout="sliced"),
    Case(lq=129, lk=63, d=96, n=64, m=128, causal=False),
    Case(lq=129, lk=129, scale=-0.4),
]


def importance(q, k, case, method, strides=(16, 16), terms=4, kv_start=None, **changes):
    from psa_paddle.kernels import select_blocks

    plan = case.plan(
        intervals=INTERVALS, mask_mode="energybound", query_stride=strides[0], key_stride=strides[1], terms=terms,
        importance_method=method, **changes,
    )  # fmt: skip
    return select_blocks(q, k, plan, kv_start=kv_start, return_importance=True).importance.numpy()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("strides, terms", [((8, 8), 8), ((32, 32), 4), ((16, 4), 1), ((4, 16), 4)], ids=str)
def test_xattn(case, strides, terms):
    (q, k, _), (q64, k64, _) = qkv(case)
    want = stack(
        lambda b: ref.xattn_importance(q64[b], k64[b], case.factor, case.causal, case.m, case.n, strides, terms),
        case.batch,
    )
    np.testing.assert_allclose(importance(q, k, case, "xattn", strides, terms), want, rtol=1e-5, atol=1e-6)


def test_xattn_with_a_scale_of_zero():
    case = Case(lq=129, lk=300)
    (q, k, _), (q64, k64, _) = qkv(case)
    got = importance(q, k, case, "xattn", (16, 4), 1, scale=0.0)
    want = ref.xattn_importance(q64[0], k64[0], 0.0, case.causal, case.m, case.n, (16, 4), 1)
    np.testing.assert_allclose(got[0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("strides", [(8, 2), (16, 1), (32, 32)], ids=str)
def test_peak(case, strides):
    (q, k, _), (q64, k64, _) = qkv(case)
    want = stack(
        lambda b: ref.peak_importance(q64[b], k64[b], case.factor, case.causal, case.m, case.n, strides), case.batch
    )
    np.testing.assert_allclose(importance(q, k, case, "peak", strides, 1), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pooling(case):
    (q, k, _), (q64, k64, _) = qkv(case)
    want = stack(lambda b: ref.pooling_importance(q64[b], k64[b], case.factor, case.causal, case.m, case.n), case.batch)
    np.testing.assert_allclose(importance(q, k, case, "pooling"), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["xattn", "peak", "pooling"])
def test_logits_of_hundreds_neither_overflow_nor_vanish(method):
    case = Case(lq=600, lk=600, scale=90.0)
    (q, k, _), (q64, k64, _) = qkv(case)
    if method == "xattn":
        want = ref.xattn_importance(q64[0], k64[0], case.factor, True, case.m, case.n, (16, 16), 4)
    elif method == "peak":
        want = ref.peak_importance(q64[0], k64[0], case.factor, True, case.m, case.n, (16, 16))
    else:
        want = ref.pooling_importance(q64[0], k64[0], case.factor, True, case.m, case.n)
    got = importance(q, k, case, method, terms=1 if method == "peak" else 4)[0]
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)  # float32 products of this size are off by 1e-3


@pytest.mark.parametrize(
    "method, strides, terms", [("xattn", (16, 16), 4), ("peak", (8, 2), 1), ("pooling", (16, 16), 4)]
)
def test_padded_sample_has_the_importance_it_has_alone(method, strides, terms):
    case = Case(lq=200, lk=230, batch=2)
    (q, k, _), _ = qkv(case)
    both = importance(q, k, case, method, strides, terms, kv_start=paddle.to_tensor([0, 77], "int32"))
    first = 77 - 30
    alone = importance(q[1:, :, first:], k[1:, :, 77:], case, method, strides, terms)
    n_i, n_j = alone.shape[2:]
    np.testing.assert_allclose(both[1, :, :n_i, :n_j], alone[0], rtol=1e-6)
    np.testing.assert_array_equal(both[1, :, n_i:], 0)
    np.testing.assert_array_equal(both[0], importance(q[:1], k[:1], case, method, strides, terms)[0])


@pytest.mark.parametrize("lk", [128, 131, 300])
def test_every_valid_pair_is_written(lk):
    from psa_paddle.kernels import pooling_fwd, xattn_fwd

    case = Case(lq=128, lk=lk)
    (q, k, _), _ = qkv(case)
    valid, _ = ref.block_grid(case.lq, lk, case.m, case.n, True)
    assert np.isfinite(pooling_fwd(q, k, case.plan(scale=1.0)).numpy()[:, :, valid]).all()
    scores = xattn_fwd(q, k, case.plan(scale=1.0, terms=4)).scores.numpy()
    assert np.isfinite(scores[:, :, valid.repeat(case.m // 16, 0)]).all()
    peaks = case.plan(scale=1.0, importance_method="peak", query_stride=8, key_stride=2)
    peaks = xattn_fwd(q, k, peaks).scores.numpy()
    assert not np.isnan(peaks[:, :, valid.repeat(case.m // 8, 0)]).any()


@pytest.mark.parametrize("strides, terms", [((16, 5), 1), ((2, 16), 1), ((16, 0), 1), ((8, 8), 3), ((16, 4), 8)])
def test_bad_strides_or_terms(strides, terms):
    with pytest.raises(ValueError, match="stride"):
        Case().plan(query_stride=strides[0], key_stride=strides[1], terms=terms)
