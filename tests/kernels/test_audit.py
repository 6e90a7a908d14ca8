"""The audit's kernels against the reference and the eager backend."""

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.kernel_cases import Case, host_qkv, qkv

from psa_paddle import eager
from psa_paddle import reference as ref
from psa_paddle.stats import audited_rows

CASES = [
    (Case(lq=1, lk=1), 64, (0,)),
    (Case(lq=31, lk=31, group=4, layout="blhd"), 64, (0,)),
    (Case(lq=63, lk=127, group=7, hkv=2, layout="sliced"), 16, (0,)),
    (Case(lq=129, lk=129, d=80, scale=-0.3), 40, (0,)),
    (Case(lq=300, lk=300, d=96, group=3, causal=False), 64, (0,)),
    (Case(lq=300, lk=1100, d=64, group=2, dtype="float16"), 64, (0,)),
    (Case(lq=600, lk=600, d=128, group=7), 48, (0,)),
    (Case(lq=1100, lk=1100, hkv=2), 16, (0,)),
    (Case(lq=150, lk=180, batch=3, group=2, hkv=2), 40, (0, 77, 179)),
    (Case(lq=150, lk=1280, batch=2, causal=False), 16, (700, 0)),
]
IDS = [f"{case}-rows{rows}" + (f"-starts{list(starts)}" if any(starts) else "") for case, rows, starts in CASES]


def check(case: Case, rows: int, starts) -> None:
    """Every sample's sums are those of its own rows and keys alone; what stands in the padding does not matter."""
    from psa_paddle.kernels import audit_fwd

    q, k, v = host_qkv(case)
    out = (host_qkv(case, seed=1)[0] * 0.2).astype(case.dtype)
    for b, start in enumerate(starts):
        k[b, :, :start], v[b, :, :start] = np.nan, np.nan
    padding = paddle.to_tensor(starts, "int32") if any(starts) else None
    tensors = [paddle.to_tensor(x) for x in (q, k, v, out)]
    if case.layout == "bhld":
        keywords = {}
    else:  # what comes from a projection, and what goes to one
        tensors[3], keywords = tensors[3].transpose([0, 2, 1, 3]).contiguous(), {"heads_last": True}
        tensors[:3] = [x.transpose([0, 2, 1, 3]).contiguous().transpose([0, 2, 1, 3]) for x in tensors[:3]]
    got = audit_fwd(*tensors, case.plan(audit_rows=rows, **keywords), kv_start=padding).numpy()
    assert got.shape == (case.batch, case.hkv * case.group, min(rows, case.lq), 2) and np.isfinite(got).all()
    for b, start in enumerate(starts):
        first = max(0, start - (case.lk - case.lq)) if case.causal else 0
        own = [q[b, :, first:], k[b, :, start:], v[b, :, start:], out[b, :, first:]]
        found, _ = audited_rows(case.lq - first, rows)
        want = ref.audit(*(x.astype(np.float64) for x in own), found, case.factor, case.causal)
        assert not got[b, :, len(found) :].any()
        tolerance = 2e-5 if case.dtype == "float32" else 4e-3
        np.testing.assert_allclose(got[b, :, : len(found)], want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case, rows, starts", CASES, ids=IDS)
def test_sums_are_those_of_exact_attention(case, rows, starts):
    check(case, rows, starts)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_shape(data):
    lk = data.draw(st.integers(1, 400), "lk")
    batch = data.draw(st.integers(1, 2), "batch")
    case = Case(
        lq=data.draw(st.integers(1, lk), "lq"), lk=lk, batch=batch, group=data.draw(st.integers(1, 5), "group"),
        causal=data.draw(st.booleans(), "causal"),
    )  # fmt: skip
    check(
        case, data.draw(st.integers(1, 90), "rows"), [data.draw(st.integers(0, lk - 1), "start") for _ in range(batch)]
    )


def test_two_backends_one_figure():
    from psa_paddle.kernels import audit_fwd

    case = Case(lq=500, lk=600, group=3, hkv=2)
    q, k, v = qkv(case)[0]
    out = q * 0.3
    got = audit_fwd(q, k, v, out, case.plan(audit_rows=48))
    want = eager.audit_sums(q, k, v, out, case.factor, True, 48)
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-4, atol=1e-5)


def test_two_launches_and_numpy_arrays(monkeypatch):
    from psa_paddle import bridge
    from psa_paddle.kernels import audit_fwd

    case, count, launch = Case(lq=200, lk=200, group=2), [], bridge.launch
    monkeypatch.setattr(bridge, "launch", lambda kernel, *a, **b: (count.append(kernel), launch(kernel, *a, **b)))
    host = host_qkv(case)
    plan = case.plan(audit_rows=16)
    want = audit_fwd(*qkv(case)[0], paddle.to_tensor(host[0]), plan).numpy()
    assert len(count) == 2
    np.testing.assert_array_equal(audit_fwd(*host, host[0], plan), want)


def test_bad_numbers_stay_in_their_head():
    from psa_paddle.kernels import audit_fwd

    case = Case(lq=300, lk=300, group=2, hkv=2)
    host = host_qkv(case)
    plan = case.plan(audit_rows=16)
    clean = audit_fwd(*host, host[0], plan)
    host[2][0, 0, 0, 3] = np.nan
    dirty = audit_fwd(*host, host[0], plan)
    assert np.isnan(dirty[0, :2]).all() and np.array_equal(dirty[0, 2:], clean[0, 2:])


def test_splits_cover_the_keys_and_stay_few():
    from psa_paddle.kernels.audit import MAX_SPLITS, split_audit

    for tiles, samples, lk in ((4, 4, 65536), (1, 4, 65536), (1, 1, 131072), (7, 56, 900), (1, 1, 1)):
        splits, chunk = split_audit(tiles, samples, lk, 64, True)
        assert (splits - 1) * chunk < lk <= splits * chunk and chunk % 64 == 0 and splits <= MAX_SPLITS


REFUSED = {
    "dtypes": (dict(out="float16"), {}, ValueError, "out must be float32"),
    "another output": (dict(lq=30), {}, ValueError, "out must be"),
    "heads last": ({}, {"heads_last": True}, ValueError, "out must be"),
    "no rows": ({}, {"audit_rows": 0}, ValueError, "at least 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name):
    from psa_paddle.kernels import audit_fwd

    changes, keywords, error, words = REFUSED[name]
    case = Case(lq=40, lk=40, group=2)
    q, k, v = host_qkv(case)
    out = q[:, :, : changes.get("lq", 40)].astype(changes.get("out", "float32"))
    with pytest.raises(error, match=words):
        audit_fwd(q, k, v, np.ascontiguousarray(out), case.plan(**{"scale": 1.0, "audit_rows": 8, **keywords}))
