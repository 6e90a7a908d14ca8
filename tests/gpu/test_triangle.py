"""TriangleMix's kernels against a float64 softmax with the exact mask, within twice the error of the same softmax in
the inputs' dtype, plus rounding."""

from itertools import product

import pytest
from gpu.gpu_cases import DTYPES, REPEATS, assert_repeats, assert_replays, first_keys, params, randn, torch
from gpu.launches import triangle
from gpu_rows import triangle_rows

# (B, Lq, Lk, H, Hkv, D, (sink, window, last), first key of each sample or None)
SHAPES = [
    (1, 1, 1, 1, 1, 32, (4, 32, 64), None), (1, 1, 300, 4, 1, 64, (4, 32, 64), None),
    (1, 31, 31, 4, 1, 64, (0, 0, 0), None), (1, 63, 127, 3, 1, 32, (0, 16, 1), None),
    (1, 129, 129, 7, 1, 80, (4, 32, 64), None), (1, 127, 300, 2, 2, 96, (150, 20, 30), None),
    (1, 300, 300, 4, 2, 128, (0, 130, 77), None), (1, 1000, 1000, 7, 7, 32, (3, 5, 5000), None),
    (1, 1000, 1000, 4, 1, 128, (2, 5000, 3), None), (1, 777, 1500, 4, 2, 128, (5000, 1, 2), None),
    (1, 2048, 2048, 28, 4, 128, (8, 512, 128), None), (1, 4096, 4096, 28, 4, 128, (8, 512, 128), None),
    (1, 1111, 2222, 28, 1, 80, (8, 64, 128), None), (1, 40, 60, 130, 1, 32, (4, 32, 64), None),
    (1, 4096, 9000, 7, 1, 128, (8, 512, 600), None), (3, 200, 230, 4, 2, 64, (3, 20, 50), (0, 77, 229)),
    (2, 1500, 1500, 14, 2, 128, (8, 200, 3000), (700, 0)), (2, 900, 2000, 7, 1, 128, (8, 100, 128), (1500, 3)),
]  # fmt: skip


def chosen() -> dict:
    """Quick: every shape in bf16, and every other one in fp16 or fp32."""
    found = {}
    for (i, shape), dtype in product(enumerate(SHAPES), DTYPES):
        b, lq, lk, heads, kv_heads, dim, pattern, _ = shape
        name = f"B{b}-Lq{lq}-Lk{lk}-H{heads}of{kv_heads}-D{dim}-" + "-".join(map(str, pattern)) + f"-{dtype}"
        found[name] = (shape, DTYPES[dtype]), dtype == "bf16" or i % 4 == {"fp16": 1, "fp32": 3}[dtype]
    return found


@pytest.mark.parametrize("shape, dtype", params(chosen()))
def test_against_the_exact_mask(shape, dtype):
    b, lq, lk, heads, kv_heads, dim, pattern, starts = shape
    scale = 2 * dim**-0.5
    q = randn(b, heads, lq, dim, dtype=dtype)
    k, v = (randn(b, kv_heads, lk, dim, dtype=dtype, seed=seed) for seed in (1, 2))
    for x, start in enumerate(starts or ()):  # padding may hold anything
        k[x, :, :start], v[x, :, :start] = float("inf"), float("nan")
    out = torch.full((b, lq, heads, dim), float("nan"), dtype=q.dtype, device=q.device)
    call = dict(pattern=pattern, scale=scale, kv_start=first_keys(starts), heads_last=True)
    triangle(q, k, v, **call, out=out)
    rows = torch.arange(lq, device=q.device)
    for x in range(b):
        own = (q[x], k[x], v[x], rows, pattern, scale, starts[x] if starts else 0)
        want, rough = triangle_rows(*own), triangle_rows(*own, rough=True)
        budget = 2 * (rough - want).abs().max() + torch.finfo(q.dtype).eps * max(1.0, float(want.abs().max()))
        error = (out[x].transpose(0, 1).double() - want).abs().nan_to_num(torch.inf).max()
        assert error <= budget, f"sample {x}: error {error:.2e} of {budget:.2e}"
    assert torch.equal(out, triangle(q, k, v, **call)), "another result the second time"


def long_call():
    q, k, v = (randn(1, h, 8192, 128, dtype="bfloat16", seed=h + i) for i, h in enumerate((28, 4, 4)))
    return lambda: triangle(q, k, v, pattern=(8, 512, 128), scale=0.1)


@pytest.mark.parametrize("repeats", REPEATS)
def test_repeats_bitwise(repeats):
    assert_repeats(long_call(), repeats)


@pytest.mark.gpu
def test_a_graph_replays():
    assert_replays(long_call())
