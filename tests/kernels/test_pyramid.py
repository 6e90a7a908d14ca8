"""Pooled K and V and the similarity cap against reference.py."""

import numpy as np
import paddle
import pytest
from kernels.kernel_cases import CAP, INTERVALS, Case, qkv

from psa_paddle import reference as ref
from psa_paddle.pooled_layout import EIGHTHS, POOLED_EIGHTHS, POOLED_START, pooled_rows

CASES = [
    Case(lk=31, lq=31, n=32),
    Case(lk=32, lq=1, n=32, d=80, dtype="float16"),
    Case(lk=767, lq=1, n=32, hkv=3, batch=2, layout="mixed"),
    Case(lk=300, lq=300, n=64, d=96, hkv=2, layout="sliced"),
    Case(lk=300, lq=300, n=128, d=128, dtype="float16"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_means_of_2_4_8_rows(case):
    from psa_paddle.kernels import pyramid_fwd

    (_, k, v), (_, k64, v64) = qkv(case)
    pooled = pyramid_fwd(k, v, case.plan(intervals=INTERVALS))[:2]
    n_full = case.lk // case.n
    if n_full == 0:
        assert pooled == (None, None)
        return
    for got, x in zip(pooled, (k64, v64), strict=True):
        for b in range(case.batch):
            levels = ref.pyramid(x[b], case.n)
            want = np.concatenate([levels[p] for p in (2, 4, 8)], 1)
            rounding = np.finfo(case.dtype).eps * np.abs(want) + 1e-6
            assert (np.abs(got.numpy()[b].astype(float) - want) <= rounding).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cap_is_the_largest_level_that_is_similar_enough(case):
    from psa_paddle.kernels import pyramid_fwd

    (_, k, v), (_, k64, _) = qkv(case)
    cap = pyramid_fwd(k, v, case.plan(thresholds=tuple(CAP.values())))[2].numpy()
    for b in range(case.batch):
        want = ref.key_similarity_cap(k64[b], case.n, CAP)
        shifted = [ref.key_similarity_cap(k64[b], case.n, {p: t + e for p, t in CAP.items()}) for e in (-1e-5, 1e-5)]
        clear = shifted[0] == shifted[1]
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(cap[b][clear], want[clear])


def test_padded_sample_has_the_pyramid_it_has_alone():
    from psa_paddle.kernels import pyramid_fwd

    case = Case(lk=150, lq=150, n=32, batch=2)
    (_, k, v), _ = qkv(case)
    start = [0, 45]
    plan = case.plan(intervals=INTERVALS, thresholds=tuple(CAP.values()))
    padded = pyramid_fwd(k, v, plan, kv_start=paddle.to_tensor(start, "int32"))
    for b, s in enumerate(start):
        alone = pyramid_fwd(k[b : b + 1, :, s:], v[b : b + 1, :, s:], plan)
        n_all, n_own, at = 150 // 32, (150 - s) // 32, 0
        np.testing.assert_array_equal(padded[2].numpy()[b, :, :n_own], alone[2].numpy()[0, :, :n_own])
        for level in (2, 4, 8):
            rows, first = n_own * 32 // level, n_all * (32 - 64 // level)
            for got, want in zip(padded[:2], alone[:2], strict=True):
                np.testing.assert_array_equal(
                    got.numpy()[b, :, first : first + rows], want.numpy()[0, :, at : at + rows]
                )
            at += rows


def test_cosine_at_its_threshold_is_not_above_it():
    from psa_paddle.kernels import pyramid_fwd

    k = paddle.ones([1, 1, 32, 32])
    assert pyramid_fwd(k, k, Case().plan(thresholds=(0.9, 0.9, 0.9)))[2].item() == 8
    assert pyramid_fwd(-0 * k, k, Case().plan(thresholds=(0.0, 0.0, 0.0)))[2].item() == 1


def test_refuses_a_strided_last_dimension():
    from psa_paddle.kernels import pyramid_fwd

    k = paddle.ones([1, 1, 32, 64]).transpose([0, 1, 3, 2])
    with pytest.raises(ValueError, match="contiguous"):
        pyramid_fwd(k, k, Case().plan(intervals=INTERVALS))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_means_of_whole_blocks(case):
    from psa_paddle.kernels import means_fwd

    (_, k, v), (_, k64, v64) = qkv(case)
    means = means_fwd(k, v, case.plan())
    n_full = case.lk // case.n
    if n_full == 0:
        assert means == (None, None)
        return
    for got, x in zip(means, (k64, v64), strict=True):
        want = x[:, :, : n_full * case.n].reshape(*x.shape[:2], n_full, case.n, case.d).mean(3)
        rounding = np.finfo(case.dtype).eps * np.abs(want) + 1e-6
        assert (np.abs(got.numpy().astype(float) - want) <= rounding).all()


def test_padded_sample_has_the_means_it_has_alone_and_zeros():
    from psa_paddle.kernels import means_fwd

    case = Case(lk=150, lq=150, n=32, batch=2)
    (_, k, v), _ = qkv(case)
    k[1, :, :45] = float("nan")
    padded = means_fwd(k, v, case.plan(), kv_start=paddle.to_tensor([0, 45], "int32"))
    for got, alone in zip(padded, means_fwd(k[1:, :, 45:], v[1:, :, 45:], case.plan()), strict=True):
        np.testing.assert_array_equal(got.numpy()[1, :, :3], alone.numpy()[0])
        assert not got.numpy()[1, :, 3:].any()


def test_layout_of_pooled_rows_has_no_gap():
    at = 0
    for level, start in POOLED_START.items():
        assert start == at
        at += EIGHTHS // level
    assert at == POOLED_EIGHTHS and pooled_rows(3, 64) == 3 * (32 + 16 + 8)
