"""The Hopper kernel, line by line on a stand-in for the machine, against reference.attend."""

from dataclasses import replace

import numpy as np
import paddle
import pytest
from kernels.gluon_machine import Machine
from kernels.kernel_cases import Case, assert_as_exact_as_dense, qkv, random_levels, stack
from kernels.test_attend import attend

from psa_paddle import bridge
from psa_paddle import reference as ref

BASE = Case(d=64, m=128, n=64, dtype="float16")
CASES = [
    replace(BASE, lq=1, lk=63),
    replace(BASE, lq=130, lk=700, n=32, group=2),
    replace(BASE, lq=140, lk=600, group=2, hkv=2, batch=2, layout="mixed"),
    replace(BASE, lq=257, lk=1100, n=128, d=128, layout="mixed"),
    replace(BASE, lq=200, lk=500, causal=False, group=2, hkv=2),
    replace(BASE, lq=129, lk=640, n=32, d=128, causal=False, scale=-0.3),
    replace(BASE, lq=300, lk=300, n=128, scale=-0.4),
]


@pytest.fixture(autouse=True)
def hopper(monkeypatch):
    """Make ``attend_fwd`` take the Hopper kernel; what it launched."""
    launched, launch = [], bridge.launch

    def on_a_machine(kernel, grid, *, like, **arguments):
        if type(kernel).__name__ != "GluonJITFunction":
            return launch(kernel, grid, like=like, **arguments)
        launched.append(grid)
        return Machine().run(kernel.fn, grid, arguments)

    monkeypatch.setattr(bridge, "arch", lambda like, kernel: 90)
    monkeypatch.setattr(bridge, "multiprocessors", lambda like, kernel: 2)
    monkeypatch.setattr(bridge, "launch", on_a_machine)
    yield launched
    assert launched, "the Hopper kernel was not taken"


@pytest.mark.parametrize("means", [False, True], ids=["skipped", "means"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_level_map(case, means):
    (q, k, v), (q64, k64, v64) = qkv(case)
    levels = random_levels(case)
    out = attend(q, k, v, levels, case, means=means, forced_text=40).numpy()
    plan = case.plan(block_means=means)
    want = stack(lambda b: ref.attend(q64[b], k64[b], v64[b], levels[b].astype(int), plan), case.batch)
    assert_as_exact_as_dense(out, want, case)


@pytest.mark.parametrize("means", [False, True], ids=["skipped", "means"])
@pytest.mark.parametrize("n", [32, 64, 128])
def test_blocks_are_kept_or_skipped(n, means):
    """Nothing is pooled: every tile is of whole blocks."""
    case = replace(BASE, lq=150, lk=150 + 5 * n, n=n, layout="mixed", batch=2)
    (q, k, v), (q64, k64, v64) = qkv(case)
    levels = np.minimum(random_levels(case), 1)
    out = attend(q, k, v, levels, case, means=means, pooled=False).numpy()
    plan = case.plan(block_means=means)
    want = stack(lambda b: ref.attend(q64[b], k64[b], v64[b], levels[b].astype(int), plan), case.batch)
    assert_as_exact_as_dense(out, want, case)


@pytest.mark.parametrize("level", [2, 4, 8])
@pytest.mark.parametrize("n", [32, 128])
def test_full_tiles_of_one_level_and_what_is_left_over(n, level):
    case = replace(BASE, lq=128, lk=128 + n * (9 * level * 32 // n) // 4 + 2 * n, n=n)
    (q, k, v), (q64, k64, v64) = qkv(case)
    valid, free = ref.block_grid(case.lq, case.lk, case.m, n, True)
    levels = (np.where(free, level, 1) * valid)[None, None].astype(np.int8)
    levels[..., 1::7] = np.where(free[:, 1::7], 0, levels[..., 1::7])
    want = ref.attend(q64[0], k64[0], v64[0], levels[0].astype(int), case.plan())[None]
    assert_as_exact_as_dense(attend(q, k, v, levels, case).numpy(), want, case)


@pytest.mark.parametrize("pooled", [False, True], ids=["kept or skipped", "pooled"])
@pytest.mark.parametrize("means", [False, True], ids=["skipped", "means"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_padded_sample_is_the_sample_alone(means, causal, pooled):
    case, start = replace(BASE, lq=270, lk=400, batch=2, causal=causal, layout="blhd"), 170
    (q, k, v), _ = qkv(case)
    first = max(0, start - (case.lk - case.lq)) if causal else 0
    alone = replace(case, lq=case.lq - first, lk=case.lk - start, batch=1)
    own = random_levels(alone, skipped_rows=False)
    levels = random_levels(case)
    if not pooled:
        own, levels = np.minimum(own, 1), np.minimum(levels, 1)
    levels[1] = 0
    levels[1, :, : own.shape[2], : own.shape[3]] = own[0]
    settings = dict(means=means, pooled=pooled, forced_text=60)
    out = attend(q, k, v, levels, case, paddle.to_tensor([0, start], "int32"), **settings).numpy()
    want = attend(q[1:, :, first:], k[1:, :, start:], v[1:, :, start:], own, alone, **settings).numpy()
    np.testing.assert_allclose(out[1, :, first:].astype(float), want[0].astype(float), atol=2e-3)
    assert not out[1, :, :first].any()


def test_turns_are_zero_again_and_few_programs_take_all_rows(hopper):
    case = replace(BASE, lq=400, lk=400, hkv=3)
    (q, k, v), _ = qkv(case)
    levels = random_levels(case)
    first = attend(q, k, v, levels, case, heads_last=True)
    assert hopper == [(2,)] and first.shape == [1, 400, 3, 64]
    np.testing.assert_array_equal(first.transpose([0, 2, 1, 3]).numpy(), attend(q, k, v, levels, case).numpy())


@pytest.mark.parametrize("other", ["float32", "D of 80", "rows of 64", "unaligned rows", "other Gluon"])
def test_what_it_does_not_take_goes_to_the_portable_kernel(other, hopper, monkeypatch):
    from psa_paddle.kernels import tuning

    case = {
        "float32": replace(BASE, dtype="float32"),
        "D of 80": replace(BASE, d=80),
        "rows of 64": replace(BASE, m=64),
    }
    case = replace(case.get(other, BASE), layout="sliced" if other == "unaligned rows" else "bhld")
    monkeypatch.setattr(bridge, "has_gluon", lambda: other != "other Gluon")
    pick = tuning.pick
    monkeypatch.setattr(tuning, "pick", lambda kernel, d, size, arch: pick(kernel, d, size, 0))
    (q, k, v), _ = qkv(case)
    attend(q, k, v, random_levels(case), case)
    assert not hopper
    hopper.append("none, as it should be")
