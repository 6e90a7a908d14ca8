"""Clusters of tokens: each step against NumPy, and the whole against the eager backend."""

import numpy as np
import paddle
import pytest
from kernels.kernel_cases import tensor

from psa_paddle import eager
from psa_paddle.kernels import tuning
from psa_paddle.kernels.kmeans import assign_tokens, cluster_tokens, seed_centres, update_centres
from psa_paddle.kernels.sort import sort_tokens
from psa_paddle.rearrange import Hybrid, SemanticAware

# (B, H, tokens clustered, others before, others after, clusters, D)
SHAPES = {
    "one token": (1, 1, 1, 0, 0, 1, 32),
    "a cluster a token": (1, 2, 5, 0, 3, 5, 32),
    "text first": (1, 2, 65, 7, 0, 3, 80),
    "text last": (2, 2, 300, 0, 33, 17, 64),
    "two chunks": (1, 1, 513, 2, 2, 70, 32),
}
KINDS = [("float32", "blhd"), ("float16", "sliced")]


def inputs(name, dtype="float32", seed=0):
    b, h, n, before, after, clusters, d = SHAPES[name]
    rng = np.random.default_rng(seed)
    length = before + n + after
    x = rng.standard_normal((b, h, length, d)).astype(dtype)
    base = rng.permutation(length).astype(np.int32)
    return x, base, dict(first=before, n=n), clusters


def labels_of(x, base, centres, first, n):
    """Scores [B, H, n, C] whose largest names the nearest centre, in float64."""
    tokens = x[:, :, base[first : first + n]].astype(np.float64)
    c = centres.astype(np.float64)
    return tokens @ c.transpose(0, 1, 3, 2) - 0.5 * (c**2).sum(-1)[:, :, None]


@pytest.mark.parametrize("dtype, layout", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_assigns_to_the_nearest_centre(name, dtype, layout):
    host, base, span, clusters = inputs(name, dtype)
    x, index = tensor(host, layout), paddle.to_tensor(base)
    centres, half = seed_centres(x, index, **span, n_clusters=clusters)
    places = (2 * np.arange(clusters) + 1) * span["n"] // (2 * clusters)
    want = host[:, :, base[span["first"] + places]]
    assert np.array_equal(centres.numpy(), want)
    np.testing.assert_allclose(half.numpy(), 0.5 * (want.astype(np.float64) ** 2).sum(-1), rtol=1e-6)
    got = assign_tokens(x, index, centres, half, **span).numpy()
    scores = labels_of(host, base, want, **span)
    chosen = np.take_along_axis(scores, got[..., None].astype(int), -1)[..., 0]
    assert (scores.max(-1) - chosen).max() <= 1e-4  # a tie in float32
    assert (got == scores.argmax(-1)).mean() > 0.99


def test_equal_centres_take_the_first_and_nan_stays_in_its_head():
    x = np.random.default_rng(0).standard_normal((1, 2, 40, 32)).astype(np.float32)
    x[0, 1, 3] = np.nan
    index = paddle.arange(40, dtype="int32")
    centres = np.repeat(x[:, :, :1], 5, 2)
    half = 0.5 * (centres**2).sum(-1)
    labels = assign_tokens(tensor(x), index, tensor(centres), paddle.to_tensor(half), first=0, n=40).numpy()
    assert (labels == 0).all()
    order, (state, _) = cluster_tokens(tensor(x), index, first=0, n=40, n_clusters=4, iterations=3)
    assert np.array_equal(np.sort(order.numpy(), -1), np.broadcast_to(np.arange(40), (1, 2, 40)))
    assert np.isfinite(state.numpy()[0, 0]).all()


@pytest.mark.parametrize("scan_block", [32, 4096], ids=["counts in parts", "counts at once"])
@pytest.mark.parametrize("name", SHAPES)
def test_sorts_as_a_stable_sort_does(name, scan_block, monkeypatch):
    monkeypatch.setattr(tuning, "SCAN_BLOCK", scan_block)
    _, base, span, clusters = inputs(name)
    b, h, n = *SHAPES[name][:2], span["n"]
    labels = np.random.default_rng(1).integers(0, clusters, (b, h, n)).astype(np.int32)
    order, starts, chunks = sort_tokens(
        paddle.to_tensor(labels), paddle.to_tensor(base), n_clusters=clusters, first=span["first"]
    )
    vision = base[span["first"] : span["first"] + n]
    want = np.broadcast_to(base, (b, h, len(base))).copy()
    want[..., span["first"] : span["first"] + n] = vision[np.argsort(labels, axis=-1, kind="stable")]
    assert np.array_equal(order.numpy(), want)
    begins = (labels[..., None, :] < np.arange(clusters)[:, None]).sum(-1)
    assert np.array_equal(starts.numpy()[..., 0], begins) and starts.shape[3] == chunks


@pytest.mark.parametrize("dtype, layout", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_centres_become_means(name, dtype, layout):
    host, base, span, clusters = inputs(name, dtype)
    b, h, n, *_, d = SHAPES[name]
    x, index = tensor(host, layout), paddle.to_tensor(base)
    labels = np.random.default_rng(1).integers(0, clusters, (b, h, n)).astype(np.int32)
    labels[labels == clusters - 1] = 0  # the last cluster is empty where there are several
    centres = np.full((b, h, clusters, d), 7, dtype)
    half = np.full((b, h, clusters), 5, np.float32)
    got, got_half = tensor(centres), paddle.to_tensor(half)
    order, starts, chunks = sort_tokens(paddle.to_tensor(labels), index, n_clusters=clusters, first=span["first"])
    update_centres(x, order, starts, chunks, got, got_half, **span)
    tokens = host[:, :, base[span["first"] : span["first"] + n]].astype(np.float64)
    for i in np.ndindex(b, h, clusters):
        mine = tokens[i[:2]][labels[i[:2]] == i[2]]
        want = mine.mean(0) if len(mine) else np.full(d, 7.0)
        np.testing.assert_allclose(got.numpy()[i], want, rtol=2e-3 if dtype == "float16" else 1e-5, atol=1e-3)
        squared = 0.5 * (got.numpy()[i].astype(np.float64) ** 2).sum()
        np.testing.assert_allclose(got_half.numpy()[i], squared if len(mine) else 5.0, rtol=1e-5)


def groups(length=300, before=6, seed=0):
    """Tokens [1, 2, before + L, 32] of four far groups, mixed."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 4, (2, before + length))
    return (10 * np.eye(4, 32)[group] + 0.1 * rng.standard_normal((2, before + length, 32)))[None].astype(np.float32)


def test_two_backends_one_order():
    x, base = tensor(groups()), paddle.to_tensor(np.random.default_rng(2).permutation(306).astype(np.int32))
    call = dict(first=6, n=300, n_clusters=9)
    got, state = cluster_tokens(x, base, **call, iterations=4)
    want, centres = eager.cluster_tokens(x, base, **call, iterations=4)
    assert np.array_equal(got.numpy(), want.numpy())
    np.testing.assert_allclose(state[0].numpy().reshape(centres.shape), centres.numpy(), atol=1e-5)
    again, warm = cluster_tokens(x, base, **call, iterations=2, state=state)  # from where the last call ended
    want, centres = eager.cluster_tokens(x, base, **call, iterations=2, state=centres)
    assert np.array_equal(again.numpy(), want.numpy())
    np.testing.assert_allclose(warm[0].numpy().reshape(centres.shape), centres.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", [SemanticAware, Hybrid])
def test_methods_plan_alike_on_both_backends(kind):
    x = tensor(groups(105, 11))
    plans = [
        kind((3, 5, 7), 11, k_clusters=6, text_to_end=True, backend=name).plan(x, x) for name in ("triton", "eager")
    ]
    assert np.array_equal(plans[0].kv_order.numpy(), plans[1].kv_order.numpy())
    assert np.array_equal(plans[0].q_order.numpy(), plans[1].q_order.numpy())
    assert np.array_equal(plans[0].restore(plans[0].permute(x)).numpy(), x.numpy())
