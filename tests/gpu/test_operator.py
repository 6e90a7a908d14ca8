"""Importance, selection and attention against the float64 reference, given one level map; see conftest.py."""

from itertools import product

import numpy as np
import pytest
from gpu.gpu_cases import DTYPES, GPU_SHAPES, exact, host_inputs, on_device, params, poison, shape_id, torch
from gpu.launches import CAP, FLAT, RATIOS, STRIDES, attend, intervals_of, plan_of, pyramid, select
from kernels.kernel_cases import error_budget

from psa_paddle import reference

# name -> shares, block means, estimate; nothing is pooled in the last two
KINDS = {
    "skips": (RATIOS, False, "xattn"),
    "means": (RATIOS, True, "xattn"),
    "level1-means": (FLAT, True, "xattn"),
    "level1-peaks": (FLAT, False, "peak"),
}


def chosen() -> dict:
    """All combinations; quick are three of each shape, which meet every kind, dtype and direction."""
    found = {}
    for (i, shape), causal, dtype, (j, kind) in product(enumerate(GPU_SHAPES), (True, False), DTYPES, enumerate(KINDS)):
        turn = {"bf16": 0 if causal else 2, "fp16": 1, "fp32": 1}[dtype]
        quick = (i + turn) % 4 == j
        if dtype != "bf16":
            quick &= dtype == ("fp32", "fp16")[i % 2] and causal == (i % 4 < 2)
        name = f"{shape_id(shape)}-{'causal' if causal else 'full'}-{dtype}-{kind}"
        found[name] = (shape, causal, DTYPES[dtype], kind), quick
    return found


@pytest.mark.parametrize("shape, causal, dtype, kind", params(chosen()))
def test_against_the_reference(shape, causal, dtype, kind):
    lq, lk, heads, _, dim, m, n = shape
    ratios, means, method = KINDS[kind]
    host, scale = host_inputs(shape, dtype), dim**-0.5
    plan = plan_of(scale, causal, m, n, intervals_of(ratios), method=method, block_means=means)
    q, k, v = on_device(host, dtype)
    q64, k64, v64 = (x[0].astype(float) for x in host)
    *pooled, cap = pyramid(k, v, plan)
    found = select(q, k, plan, cap)
    levels, scores = found.levels[0].cpu().numpy().astype(int), exact(found.importance[0])

    estimate = reference.peak_importance if method == "peak" else reference.xattn_importance
    terms = () if method == "peak" else (1,)
    want = estimate(q64, k64, scale, causal, m, n, STRIDES[method], *terms)
    off = np.abs(scores - want).max() / want.max()
    assert off < (1e-5 if dtype == "float32" else 2e-2), f"importance is off by {off:.1e}"

    cosines = reference.key_similarity_cap(k64, n, dict(zip((2, 4, 8), CAP, strict=True)))
    wanted = reference.select_levels(scores, np.full_like(cosines, 8) if cap is None else cosines, plan, lq, lk)
    differ = (wanted != levels) & ~reference.near_a_bound(scores, plan, lq, lk, 1e-4)
    assert not differ.any(), f"{differ.sum()} levels differ, first at {np.argwhere(differ)[:3].tolist()}"
    valid, _ = reference.block_grid(lq, lk, m, n, causal)
    counted = (1 - reference.sparsity(levels, lq, lk, m, n, causal, means)) * valid.sum() * heads
    assert float(found.work.double().sum()) == pytest.approx(counted, rel=1e-3)

    out, again = poison(q), poison(q)
    attend(q, k, v, plan, pooled, found, out)
    attend(q, k, v, plan.replace(forced_text=150), pooled, found, again)  # another order of the rows
    want = reference.attend(q64, k64, v64, levels, plan)
    error, budget = np.abs(exact(out[0]) - want).max(), error_budget(*host, scale, causal, dtype)
    assert error <= budget, f"error {error:.2e} of {budget:.2e}, levels {np.unique(levels)}"
    assert torch.equal(again, out), "another order of the rows gives other numbers"
    assert not found.turns.any(), "the counters of the rows are not as they were"
