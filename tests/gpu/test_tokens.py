"""Permutations, k-means and the stable sort, against torch's own."""

from itertools import product
from unittest import mock

import pytest
from gpu.gpu_cases import DEVICE, DTYPES, REPEATS, params, poisoned_empty, randn, torch

from psa_paddle import bridge, kernels
from psa_paddle.kernels.kmeans import assign_tokens, seed_centres, update_centres
from psa_paddle.kernels.sort import sort_tokens

PERMUTED = [(1, 1, 1, 32), (2, 3, 1000, 80), (1, 4, 75601, 128)]  # B, H, L, D
B, H, LENGTH, D, CLUSTERS, FIRST, N = 1, 3, 3000, 128, 40, 100, 2800


@pytest.fixture(autouse=True)
def poison(cuda):
    with mock.patch.object(bridge, "empty", poisoned_empty):
        yield


def every_dtype() -> list:
    return params({name: ((dtype,), True) for name, dtype in DTYPES.items()})


def permutations() -> dict:
    found = {}
    for shape, name, layout in product(PERMUTED, DTYPES, ("bhld", "blhd")):
        found[f"{'x'.join(map(str, shape))}-{name}-{layout}"] = (shape, DTYPES[name], layout), True
    return found


@pytest.mark.parametrize("shape, dtype, layout", params(permutations()))
def test_gathers_and_restores_bitwise(shape, dtype, layout):
    b, h, length, d = shape
    x = randn(*shape, dtype=dtype)
    if layout == "blhd":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    one = torch.randperm(length, device=DEVICE).int()
    each = torch.stack([torch.randperm(length, device=DEVICE) for _ in range(b * h)]).int().view(b, h, -1)
    for order in (one, each):
        moved = kernels.permute_tokens(x, order)
        assert torch.equal(moved, x.gather(2, order.expand(b, h, length).long()[..., None].expand(-1, -1, -1, d)))
        assert torch.equal(kernels.restore_tokens(moved, order), x)
        assert torch.equal(kernels.restore_tokens(moved, order, heads_last=True), x.transpose(1, 2))


def clustered(dtype: str):
    """Tokens, their order, and the first centres with half of their squares."""
    x, base = randn(B, H, LENGTH, D, dtype=dtype), torch.randperm(LENGTH, device=DEVICE).int()
    return x, base, *seed_centres(x, base, first=FIRST, n=N, n_clusters=CLUSTERS)


@pytest.mark.parametrize("dtype", every_dtype())
def test_labels_are_the_nearest_centres(dtype):
    x, base, centres, half = clustered(dtype)
    labels = assign_tokens(x, base, centres, half, first=FIRST, n=N)
    tokens = x[:, :, base[FIRST : FIRST + N].long()].double()
    scores = tokens @ centres.double().transpose(2, 3) - 0.5 * centres.double().square().sum(-1)[:, :, None]
    short = scores.amax(-1) - scores.gather(-1, labels.long()[..., None])[..., 0]
    assert float(short.max()) < 1e-3


@pytest.mark.parametrize("dtype", every_dtype())
def test_sorts_stably_and_takes_the_means(dtype):
    x, base, centres, half = clustered(dtype)
    labels = assign_tokens(x, base, centres, half, first=FIRST, n=N)
    order, starts, chunks = sort_tokens(labels, base, n_clusters=CLUSTERS, first=FIRST)
    want = base.expand(B, H, LENGTH).clone()
    want[..., FIRST : FIRST + N] = base[FIRST : FIRST + N][labels.argsort(dim=-1, stable=True)]
    assert torch.equal(order, want)
    update_centres(x, order, starts, chunks, centres, half, first=FIRST, n=N)
    tokens = x[:, :, base[FIRST : FIRST + N].long()].double()
    onehot = torch.nn.functional.one_hot(labels.long(), CLUSTERS).double()
    means = (onehot.transpose(2, 3) @ tokens) / onehot.sum(2)[..., None].clamp(min=1)
    off = ((centres.double() - means).abs() * (onehot.sum(2) > 0)[..., None]).max()
    assert float(off) <= 2 * torch.finfo(x.dtype).eps * float(means.abs().max())


@pytest.mark.parametrize("repeats", REPEATS)
def test_clusters_repeat_bitwise(repeats):
    x, base = randn(2, 8, 20000, D, dtype="bfloat16"), torch.arange(20000, dtype=torch.int32, device=DEVICE)
    call = dict(first=0, n=20000, n_clusters=80, iterations=4)
    order, (centres, _) = kernels.cluster_tokens(x, base, **call)
    for _ in range(repeats):
        again, (others, _) = kernels.cluster_tokens(x, base, **call)
        assert torch.equal(again, order) and torch.equal(others, centres)
