"""The audit's sums of every audited row against a float64 softmax over all keys, within four times what the rounding
of a careful implementation changes."""

from itertools import product

import pytest
from gpu.gpu_cases import DTYPES, REPEATS, assert_repeats, assert_replays, first_keys, params, randn, torch
from gpu.launches import audit
from gpu_rows import dense_rows, sums_of

from psa_paddle.stats import audited_rows

# (B, Lq, Lk, H, Hkv, D, rows, causal, first key of each sample or None)
SHAPES = [
    (1, 1, 1, 1, 1, 32, 64, True, None), (1, 1, 300, 4, 1, 64, 64, True, None), (1, 31, 31, 4, 1, 64, 64, True, None),
    (1, 129, 129, 7, 1, 80, 40, True, None), (1, 127, 300, 2, 2, 96, 64, True, None),
    (1, 1000, 1000, 7, 7, 32, 64, True, None), (1, 300, 300, 4, 2, 128, 300, False, None),
    (1, 8192, 8192, 28, 4, 128, 64, True, None), (1, 8192, 8192, 28, 4, 128, 16, True, None),
    (1, 5000, 20000, 28, 4, 128, 64, True, None), (1, 6001, 6001, 12, 12, 64, 64, False, None),
    (1, 4096, 9000, 16, 2, 128, 128, True, None), (3, 200, 230, 4, 2, 64, 64, True, (0, 77, 229)),
    (2, 3000, 3000, 14, 2, 128, 64, True, (1700, 0)), (2, 900, 2000, 7, 1, 128, 64, False, (1500, 3)),
]  # fmt: skip


def chosen() -> dict:
    """Quick: every shape in bf16, and every other one in fp16 or fp32."""
    found = {}
    for (i, shape), dtype in product(enumerate(SHAPES), DTYPES):
        b, lq, lk, heads, kv_heads, dim, rows, causal, _ = shape
        name = f"B{b}-Lq{lq}-Lk{lk}-H{heads}of{kv_heads}-D{dim}-rows{rows}-{'causal' if causal else 'full'}-{dtype}"
        found[name] = (shape, DTYPES[dtype]), dtype == "bf16" or i % 4 == {"fp16": 1, "fp32": 3}[dtype]
    return found


@pytest.mark.parametrize("shape, dtype", params(chosen()))
def test_sums_of_every_audited_row(shape, dtype):
    b, lq, lk, heads, kv_heads, dim, rows, causal, starts = shape
    scale = 2 * dim**-0.5
    q, noise = (randn(b, heads, lq, dim, dtype=dtype, seed=seed) for seed in (0, 1))
    k, v = (randn(b, kv_heads, lk, dim, dtype=dtype, seed=seed) for seed in (2, 3))
    out = 0.1 * noise
    for x, start in enumerate(starts or ()):  # padding may hold anything
        k[x, :, :start], v[x, :, :start] = float("inf"), float("nan")
    call = dict(scale=scale, causal=causal, rows=rows, kv_start=first_keys(starts))
    got = audit(q, k, v, out, **call)
    for x, start in enumerate(starts or (0,) * b):
        first = max(0, start - (lk - lq)) if causal else 0
        own = (q[x, :, first:], k[x, :, start:], v[x, :, start:])
        found = torch.tensor(audited_rows(lq - first, rows)[0], device=q.device)
        want, near = (
            sums_of(dense_rows(*own, found, scale, causal, rough), out[x, :, first:][:, found])
            for rough in (False, True)
        )
        budget = 4 * (near - want).abs().amax() + 1e-5 * want.abs().amax()
        error = (got[x, :, : len(found)].double() - want).abs().nan_to_num(torch.inf).amax()
        assert error <= budget, f"sample {x}: error {error:.2e} of {budget:.2e}"
        assert not got[x, :, len(found) :].any(), "rows that are not audited must be zeros"
    swapped = out.transpose(1, 2).contiguous()
    assert torch.equal(audit(q, k, v, swapped, **call, heads_last=True), got), "another result in the other layout"


def long_call():
    q, k, v = (randn(1, h, 8192, 128, dtype="bfloat16", seed=h + i) for i, h in enumerate((28, 4, 4)))
    return lambda: audit(q, k, v, q, scale=0.1, causal=True, rows=64)


@pytest.mark.parametrize("repeats", REPEATS)
def test_repeats_bitwise(repeats):
    assert_repeats(long_call(), repeats)


@pytest.mark.gpu
def test_a_graph_replays():
    assert_replays(long_call())
