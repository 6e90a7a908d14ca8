"""The token orders on tensors."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import smooth_qkv

from psa_paddle import eager
from psa_paddle.eager.tokens import means, nearest
from psa_paddle.rearrange import METHODS, STA, Gilbert, Hybrid, SemanticAware
from psa_paddle.rearrange.clusters import TokenClusters
from psa_paddle.rearrange.curves import gilbert_order
from psa_paddle.rearrange.permutation import backend_of

GRID = (3, 5, 7)  # no tile divides it
EXTRA = {
    "STA": {"tile_size": (2, 2, 3)},
    "SemanticAware": {"q_clusters": 6, "k_clusters": 7},
    "Hybrid": {"k_clusters": 7},
}
TEXTS = {"no text": (0, True), "text first": (11, True), "text last": (11, False)}


def tokens(length, heads=2, kv_heads=1, dim=32, seed=0, batch=2):
    q, k, _ = smooth_qkv(length, length, heads, kv_heads, dim, seed=seed, batch=batch)
    return paddle.to_tensor(q), paddle.to_tensor(k)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("to_end", [False, True], ids=["in-place", "text-to-end"])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("method", METHODS)
def test_restore_undoes_permute_bitwise(method, text, to_end, dtype):
    length, first = TEXTS[text]
    q, k = tokens(105 + length)
    q = q.astype(dtype)
    plan = METHODS[method](GRID, length, first, text_to_end=to_end, **EXTRA.get(method, {})).plan(q, k)
    moved = plan.permute(q)
    assert moved.dtype == q.dtype and not bool((moved == q).all())
    assert bool((plan.restore(moved) == q).all())


TRIPLE = st.tuples(*[st.integers(1, 6)] * 3)


@settings(max_examples=60, deadline=None)
@given(TRIPLE, TRIPLE, st.integers(0, 9), st.booleans(), st.booleans())
def test_any_grid_tile_and_text_is_undone(grid, tile, length, first, to_end):
    x = paddle.arange(int(np.prod(grid)) + length, dtype="int32").reshape([1, 1, -1, 1])
    for order in (
        STA(grid, length, first, tile_size=tile, text_to_end=to_end),
        Gilbert(grid, length, first, text_to_end=to_end),
    ):
        assert bool((order.restore(order.permute(x)) == x).all())


@pytest.mark.parametrize("to_end", [False, True], ids=["in-place", "text-to-end"])
@pytest.mark.parametrize("text", ["text first", "text last"])
@pytest.mark.parametrize("method", METHODS)
def test_text_stays_together_and_in_order(method, text, to_end):
    length, first = TEXTS[text]
    q, k = tokens(105 + length)
    plan = METHODS[method](GRID, length, first, text_to_end=to_end, **EXTRA.get(method, {})).plan(q, k)
    source = slice(0, length) if first else slice(105, None)
    place = slice(0, length) if first and not to_end else slice(105, None)
    for moved, x in ((plan.permute(q), q), (plan.permute_kv(k), k)):
        assert bool((moved[:, :, place] == x[:, :, source]).all())
        assert np.array_equal(np.sort(moved.numpy(), axis=2), np.sort(x.numpy(), axis=2))  # every token once


@pytest.mark.parametrize("kind", [Gilbert, STA])
def test_fixed_orders_have_their_own_permute_and_restore(kind):
    x = tokens(105)[0]
    order = kind(GRID)
    assert bool((order.restore(order.permute(x)) == x).all())
    assert bool((order.permute(x) == order.plan(x, x).permute(x)).all())


def test_tile_size_sets_the_tiles():
    x = paddle.arange(105, dtype="float32").reshape([1, 1, 105, 1]).expand([1, 1, 105, 32])
    assert STA(GRID, tile_size=(1, 1, 7)).permute(x)[0, 0, :, 0].tolist() == list(range(105))
    assert STA(GRID, tile_size=(3, 1, 1)).permute(x)[0, 0, :4, 0].tolist() == [0, 35, 70, 1]


def clustered(length=300, seed=0):
    """Tokens [1, 2, L, 32] of four far groups, in random order, and the group of each, [2, L]."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 4, (2, length))
    x = 10 * np.eye(4, 32)[group] + 0.1 * rng.standard_normal((2, length, 32))
    return paddle.to_tensor(x[None].astype(np.float32)), group


def test_semantic_groups_come_out_whole():
    x, group = clustered()
    order = SemanticAware(q_clusters=8, k_clusters=8).plan(x, x).q_order.numpy()[0]
    for head in range(2):
        sorted_groups = group[head][order[head]]
        assert (np.diff(group[head]) != 0).mean() > 0.6  # mixed before
        assert (np.diff(sorted_groups) != 0).sum() <= 8  # at most one change a cluster


def test_hybrid_takes_queries_by_the_curve_and_keys_by_cluster():
    q, k = tokens(105)
    plan = Hybrid(GRID, k_clusters=5).plan(q, k)
    assert plan.q_order.numpy().tolist() == gilbert_order(GRID).tolist()
    same = SemanticAware(GRID, k_clusters=5).plan(q, k)
    assert np.array_equal(plan.kv_order.numpy(), same.kv_order.numpy())


def test_tokens_follow_the_curve_within_their_cluster():
    x, group = clustered(105)
    order = SemanticAware(GRID, q_clusters=8, k_clusters=8).plan(x, x).q_order.numpy()[0]
    place = np.argsort(gilbert_order(GRID))
    for head in range(2):
        # A step back along the curve is only taken to start a cluster.
        assert (np.diff(place[order[head]]) < 0).sum() <= 7
        assert (np.diff(group[head][order[head]]) != 0).sum() <= 8


def test_centres_are_means_and_empty_clusters_stay():
    x = paddle.to_tensor(np.float32([[[0, 0], [2, 0], [10, 10]]]))
    centres = paddle.to_tensor(np.float32([[[1, 1], [9, 9], [-50, 0]]]))
    labels = nearest(x, centres)
    assert labels.tolist() == [[0, 0, 1]]
    assert means(x, labels, centres).tolist() == [[[1, 0], [10, 10], [-50, 0]]]


def spread(x, labels, centres):
    return float(((x - paddle.take_along_axis(centres, labels.unsqueeze(-1), axis=1)) ** 2).sum())


def test_the_next_call_starts_where_the_last_one_ended():
    """The second call on the same tokens improves on the first; after a reset it repeats it."""
    x = tokens(400)[0]
    flat = x.reshape([4, 400, 32])
    clusters, base = TokenClusters(12), paddle.arange(400, dtype="int32")

    def order():
        return clusters.order(x, base, eager, first=0, n=400).numpy()

    first_order = order()
    first = clusters.state
    order()
    second = clusters.state
    assert not bool((first == second).all())
    assert spread(flat, nearest(flat, second), second) < spread(flat, nearest(flat, first), first)
    clusters.reset()
    assert np.array_equal(order(), first_order)
    assert bool((clusters.state == first).all())


def test_other_shapes_start_anew():
    small, large = tokens(120)[0], tokens(400)[0]
    warm = SemanticAware(q_clusters=6, k_clusters=6)
    warm.plan(small, small)
    got, anew = warm.plan(large, large), SemanticAware(q_clusters=6, k_clusters=6).plan(large, large)
    assert np.array_equal(got.q_order.numpy(), anew.q_order.numpy())


@pytest.mark.parametrize("kind", [SemanticAware, Hybrid])
def test_planning_reads_nothing_back_from_the_device(kind, monkeypatch):
    q, k = tokens(116)
    order = kind(GRID, 11)

    def refuse(*_):
        raise AssertionError("read from the device")

    for name in ("numpy", "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__array__"):
        monkeypatch.setattr(paddle.Tensor, name, refuse)
    for _ in range(2):
        order.plan(q, k).permute_kv(k)
        monkeypatch.setattr(paddle, "to_tensor", refuse)  # from the second call on, nothing is copied to it either
    with pytest.raises(AssertionError, match="read from the device"):
        q.numpy()


REFUSED = {
    "no grid": (lambda: Gilbert(None), ValueError, "Gilbert needs the grid"),
    "no grid for STA": (lambda: STA(None), ValueError, "STA needs the grid"),
    "no grid for Hybrid": (lambda: Hybrid(None), ValueError, "Hybrid needs the grid"),
    "bad tile": (lambda: STA(GRID, tile_size=(2, 8)), TypeError, "tile_size must be three"),
    "empty tile": (lambda: STA(GRID, tile_size=(2, 8, 0)), ValueError, "tile_size must be positive"),
    "negative text": (lambda: Gilbert(GRID, -1), ValueError, "text_length must not be negative"),
    "text of no number": (lambda: Gilbert(GRID, 1.5), TypeError, "text_length must be an integer"),
    "text nowhere": (lambda: Gilbert(GRID, 1, None), TypeError, "text_first"),
    "no clusters": (lambda: SemanticAware(q_clusters=0), ValueError, "at least 1"),
    "half a cluster": (lambda: Hybrid(GRID, k_clusters=0.5), TypeError, "integer"),
    "other length": (lambda: Gilbert(GRID).plan(*tokens(106)), ValueError, "105 tokens, but a sequence of 106"),
    "only text": (lambda: SemanticAware(None, 9).plan(*tokens(9)), ValueError, "no vision tokens"),
    "more keys": (lambda: Gilbert(GRID).plan(tokens(105)[0], tokens(106)[1]), ValueError, "as many keys as queries"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    call, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        call()


def test_clusters_and_iterations_of_a_first_and_a_later_call():
    asked = []

    class Backend:
        __name__ = "spy"

        @staticmethod
        def cluster_tokens(x, base, **more):
            asked.append((more["n_clusters"], more["iterations"], more["state"]))
            return base, "centres"

    def call(clusters, length):
        clusters.order(paddle.zeros([1, 1, length, 4]), None, Backend(), first=0, n=length)

    clusters = TokenClusters()
    for length in (256, 256, 257, 512, 100):
        call(clusters, length)
    assert asked == [(1, 8, None), (1, 2, "centres"), (2, 8, None), (2, 8, None), (1, 8, None)]
    asked.clear()
    few = TokenClusters(7)
    call(few, 300)
    call(few, 5)
    assert [one[0] for one in asked] == [7, 5]


@pytest.mark.parametrize(
    "name, place, module",
    [("auto", True, "kernels"), ("auto", False, "eager"), ("triton", False, "kernels"), ("eager", True, "eager")],
)
def test_tokens_move_where_they_are(name, place, module):
    """On a GPU by the kernels, unless the backend is named."""
    x = SimpleNamespace(place=SimpleNamespace(is_gpu_place=lambda: place))
    assert backend_of(x, name).__name__ == f"psa_paddle.{module}"


def test_a_torch_tensor_moves_by_the_kernels_only():
    assert backend_of(SimpleNamespace(is_cuda=True)).__name__ == "psa_paddle.kernels"
    with pytest.raises(TypeError, match="need a paddle.Tensor"):
        backend_of(SimpleNamespace(is_cuda=False))
    with pytest.raises(ValueError, match="backend must be one of auto, eager, triton, got 'cuda'"):
        backend_of(paddle.zeros([1]), "cuda")
