"""The chained operator in the interpreter, on Paddle CPU tensors and NumPy arrays."""

import numpy as np
import paddle
import pytest
from kernels.kernel_cases import CAP, INTERVALS, Case, assert_as_exact_as_dense, host_qkv, qkv, stack

from psa_paddle import reference as ref


def options(case, **changes):
    found = dict(
        intervals=INTERVALS, mask_mode="energybound", importance_method="xattn", terms=4, forced_text=20,
        thresholds=tuple(CAP.values()),
    )  # fmt: skip
    return case.plan(**{**found, **changes})


LEVEL_1 = ((1, 0.0, 0.3), (0, 0.3, 1.0))
CASES = [
    (Case(lq=100, lk=300, group=2, hkv=2, layout="mixed"), {}),
    (
        Case(lq=129, lk=600, d=80, n=64, dtype="float16", layout="blhd"),
        {"mask_mode": "topk", "key_stride": 4, "terms": 1, "thresholds": None},
    ),
    (Case(lq=200, lk=333, n=64, m=128, hkv=2, causal=False), {"importance_method": "pooling", "thresholds": None}),
    (Case(lq=127, lk=320, group=7), {"importance_method": "pooling", "mask_mode": "topk", "forced_text": 0}),
    (Case(lq=300, lk=500, group=2, m=128), {"intervals": LEVEL_1, "block_means": True, "thresholds": None}),
    (Case(lq=200, lk=333, n=64, causal=False, dtype="float16"), {"intervals": LEVEL_1, "block_means": True}),
    (Case(lq=130, lk=400, d=64), {"mask_mode": "topk", "block_means": True}),
]


@pytest.mark.parametrize("case, changes", CASES, ids=[str(case) for case, _ in CASES])
def test_output_is_the_reference_given_the_chosen_levels(case, changes):
    from psa_paddle.kernels import psa_fwd, pyramid_fwd, select_blocks

    (q, k, v), (q64, k64, v64) = qkv(case)
    plan = options(case, **changes)
    out, work = psa_fwd(q, k, v, plan)
    cap = pyramid_fwd(k, v, plan)[2]
    levels = select_blocks(q, k, plan, cap, return_levels=True).levels.numpy().astype(int)
    want = stack(lambda b: ref.attend(q64[b], k64[b], v64[b], levels[b], plan), case.batch)
    assert_as_exact_as_dense(out.numpy(), want, case)
    sparsity = ref.sparsity(levels[0], case.lq, case.lk, case.m, case.n, case.causal, plan.block_means)
    pairs = ref.block_grid(case.lq, case.lk, case.m, case.n, case.causal)[0].sum() * levels.shape[1]
    assert 1 - work.numpy().sum() / pairs == pytest.approx(sparsity, abs=1e-5)
    assert 0 < sparsity


@pytest.mark.parametrize("changes", [{}, {"intervals": LEVEL_1, "block_means": True}], ids=["levels", "means"])
def test_left_padded_batch_equals_its_samples(changes):
    from psa_paddle.kernels import psa_fwd

    case, starts = Case(lq=150, lk=180, batch=3, group=2), [0, 20, 101]
    (q, k, v), _ = qkv(case)
    plan = options(case, **changes)
    out, work = psa_fwd(q, k, v, plan, kv_start=paddle.to_tensor(starts, "int32"))
    for b, start in enumerate(starts):
        first = max(0, start - 30)
        alone, own_work = psa_fwd(q[b : b + 1, :, first:], k[b : b + 1, :, start:], v[b : b + 1, :, start:], plan)
        np.testing.assert_allclose(out.numpy()[b, :, first:], alone.numpy()[0], rtol=1e-5, atol=1e-6)
        assert not out.numpy()[b, :, :first].any()
        assert work.numpy()[b].sum() == pytest.approx(own_work.numpy().sum())


def test_bidirectional_padding_cuts_keys_only():
    from psa_paddle.kernels import psa_fwd

    case = Case(lq=90, lk=200, batch=2, causal=False)
    (q, k, v), _ = qkv(case)
    plan = options(case)
    out, _ = psa_fwd(q, k, v, plan, kv_start=paddle.to_tensor([55, 0], "int32"))
    alone, _ = psa_fwd(q[:1], k[:1, :, 55:], v[:1, :, 55:], plan)
    np.testing.assert_allclose(out.numpy()[0], alone.numpy()[0], rtol=1e-5, atol=1e-6)


def test_two_block_aligned_chunks_equal_one_call():
    from psa_paddle.kernels import psa_fwd

    case = Case(lq=256, lk=256)
    (q, k, v), _ = qkv(case)
    plan = options(case, forced_text=0)
    whole, _ = psa_fwd(q, k, v, plan)
    first, _ = psa_fwd(q[:, :, :128], k[:, :, :128], v[:, :, :128], plan)
    second, _ = psa_fwd(q[:, :, 128:], k, v, plan)
    np.testing.assert_allclose(np.concatenate([first, second], 2), whole.numpy(), rtol=1e-5, atol=1e-6)


def test_all_level_one_is_dense_in_two_launches(monkeypatch):
    from psa_paddle import bridge
    from psa_paddle.kernels import psa_fwd

    case = Case(lq=150, lk=213, n=64)
    (q, k, v), (q64, k64, v64) = qkv(case)
    count, launch = [], bridge.launch
    monkeypatch.setattr(bridge, "launch", lambda kernel, *a, **b: (count.append(kernel), launch(kernel, *a, **b)))
    out, work = psa_fwd(q, k, v, options(case, intervals=((1, 0.0, 1.0),)))
    want = ref.dense_attention(q64[0], k64[0], v64[0], case.factor, True)[None]
    assert_as_exact_as_dense(out.numpy(), want, case)
    assert len(count) == 2 and work.numpy().sum() == ref.block_grid(150, 213, 64, 64, True)[0].sum()
    count.clear()
    psa_fwd(q, k, v, options(case))
    assert len(count) == 4
    count.clear()
    psa_fwd(q, k, v, options(case, intervals=((1, 0.0, 1.0),), block_means=True))
    assert len(count) == 2  # nothing is skipped
    count.clear()
    psa_fwd(q, k, v, options(case, block_means=True))
    assert len(count) == 5


def test_numpy_arrays_give_what_paddle_tensors_give():
    from psa_paddle.kernels import psa_fwd

    case = Case(lq=100, lk=130, dtype="float16")
    plan = options(case)
    out, work = psa_fwd(*host_qkv(case), plan)
    want, want_work = psa_fwd(*qkv(case)[0], plan)
    assert isinstance(out, np.ndarray) and out.dtype == np.float16
    np.testing.assert_array_equal(out, want.numpy())
    np.testing.assert_array_equal(work, want_work.numpy())


def test_inputs_are_not_written():
    from psa_paddle.kernels import psa_fwd

    case = Case(lq=100, lk=130)
    tensors, _ = qkv(case)
    before = [x.numpy().copy() for x in tensors]
    psa_fwd(*tensors, options(case))
    for x, y in zip(tensors, before, strict=True):
        np.testing.assert_array_equal(x.numpy(), y)


def test_refuses_more_causal_queries_than_keys_and_unknown_methods():
    from psa_paddle.kernels import psa_fwd

    case = Case(lq=100, lk=60)
    with pytest.raises(ValueError, match="as many keys"):
        psa_fwd(*qkv(case)[0], options(case))
    case = Case()
    with pytest.raises(ValueError, match="method"):
        psa_fwd(*qkv(case)[0], options(case, importance_method="guess"))
