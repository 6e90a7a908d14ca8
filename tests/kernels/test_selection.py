"""Selection against reference.select_levels, given the same importance; its lists against its levels."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.kernel_cases import INTERVALS, Case, random_levels

from psa_paddle import reference as ref

MODES = ["energybound", "topk", "topk_sqrt"]
DYADIC = ((1, 0.0, 0.25), (2, 0.25, 0.5), (4, 0.5, 0.75), (8, 0.75, 0.875), (0, 0.875, 1.0))
EARLY = ((1, 0.0, 0.05), (8, 0.05, 0.1), (0, 0.1, 1.0))  # ends that topk_sqrt reaches in a short row


def select(importance, case, intervals, mode, text=0, cap=None, kv_start=None, budgets=None):
    from psa_paddle.kernels import Scores, select_fwd

    plan = case.plan(intervals=intervals, mask_mode=mode, forced_text=text, budgets=budgets)
    cap = None if cap is None else paddle.to_tensor(cap.astype(np.int8))
    scores = Scores(paddle.to_tensor(importance.astype(np.float32)))
    return select_fwd(scores, plan, case.lq, case.lk, cap=cap, kv_start=kv_start, return_levels=True)


def reference(importance, case, intervals, mode, text=0, cap=None, budgets=None):
    cap = np.full((1, case.n_j), 8) if cap is None else cap[0]
    plan = case.plan(intervals=intervals, mask_mode=mode, forced_text=text, budgets=budgets)
    return ref.select_levels(importance[0].astype(np.float32).astype(float), cap, plan, case.lq, case.lk)


def check_lists(found, case):
    """Lists, counts and work say what the level map says."""
    levels, lists, counts, work = (x.numpy() for x in (found.levels, found.lists, found.counts, found.work))
    _, free = ref.block_grid(case.lq, case.lk, case.m, case.n, case.causal)
    free &= (np.arange(case.n_j) + 1) * case.n <= case.lk
    for index in np.ndindex(levels.shape[:3]):
        row, n_list = levels[index], free[index[2]].sum()
        want = [np.flatnonzero(row[:n_list] == p) for p in (1, 2, 4, 8)]
        assert counts[index][:4].tolist() == [len(w) for w in want]
        assert lists[index][: sum(map(len, want))].tolist() == np.concatenate(want).tolist()
        assert counts[index][4] == sum(1 << t for t, level in enumerate(row[n_list:]) if level)
        assert work[index] == pytest.approx(sum(1 / level for level in row if level))


CASES = [
    Case(lq=1, lk=1),
    Case(lq=63, lk=64, group=2),
    Case(lq=300, lk=1000, n=32),
    Case(lq=300, lk=700, n=64, m=128, hkv=2, group=2, causal=False),
    Case(lq=300, lk=301, n=128, causal=False),
    Case(lq=130, lk=10000, n=64, m=128),
    Case(lq=64, lk=20001, n=128, group=2, causal=False),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_levels_given_the_importance(case, mode):
    rng = np.random.default_rng(7)
    importance = rng.exponential(size=(1, case.hkv * case.group, case.n_i, case.n_j)) ** 2
    cap = rng.choice([1, 2, 4, 8, 8], (1, case.hkv, case.n_j))
    for text, this_cap in ((0, None), (40, cap)):
        found = select(importance, case, INTERVALS, mode, text, this_cap)
        want = reference(importance, case, INTERVALS, mode, text, this_cap)
        clear = np.ones(want.shape, bool)
        if mode == "energybound":  # a share within rounding of its bound may fall on either side
            near = [
                tuple((level, lo + e * (lo > 0), hi + e * (hi < 1)) for level, lo, hi in INTERVALS)
                for e in (-3e-6, 3e-6)
            ]
            clear = np.equal(*(reference(importance, case, x, mode, text, this_cap) for x in near))
            assert clear.mean() > 0.99
        np.testing.assert_array_equal(found.levels.numpy()[0][clear], want[clear])
        check_lists(found, case)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_ties_fall_as_in_a_stable_descending_sort(data):
    case = data.draw(
        st.sampled_from([Case(lq=1, lk=640, causal=False), Case(lq=64, lk=333), Case(lq=70, lk=500, m=64)])
    )
    shape = (1, 1, case.n_i, case.n_j)
    values = data.draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, 8]), min_size=case.n_j, max_size=case.n_j))
    importance = np.broadcast_to(np.array(values, float), shape).copy()  # small integers: every sum is exact
    mode = data.draw(st.sampled_from(MODES))
    intervals = (
        DYADIC
        if mode == "energybound"
        else data.draw(st.sampled_from([DYADIC, INTERVALS, EARLY, ((0, 0.0, 0.7), (2, 0.7, 1.0))]))
    )
    found = select(importance, case, intervals, mode)
    if importance.sum() == 0 and mode == "energybound":  # no share is defined; only the domain is checked
        assert np.isin(found.levels.numpy(), (0, 1, 2, 4, 8)).all()
    else:
        np.testing.assert_array_equal(found.levels.numpy()[0], reference(importance, case, intervals, mode))
    check_lists(found, case)


@pytest.mark.parametrize("mode", ["topk", "topk_sqrt"])
@pytest.mark.parametrize("n", range(1, 24))
def test_ranks_compare_as_in_float64(n, mode):
    case = Case(lq=1, lk=128 * n, n=128, causal=False)
    importance = np.random.default_rng(n).random((1, 1, 1, n))
    bounds = tuple((level, i / 5, (i + 1) / 5) for i, level in enumerate((1, 2, 4, 8, 0)))
    found = select(importance, case, bounds, mode)
    np.testing.assert_array_equal(found.levels.numpy()[0], reference(importance, case, bounds, mode))


ROUNDED = [("topk", x) for x in (0.07, 0.14, 0.28, 0.29, 0.55, 0.57)]
ROUNDED += [("topk_sqrt", x) for x in (0.1, 0.15, 0.3, 0.35, 0.6, 0.7)]  # 80 x: whole but for rounding


@pytest.mark.parametrize("mode, bound", ROUNDED)
def test_bounds_whose_product_is_rounded_past_a_rank(mode, bound):
    case = Case(lq=1, lk=12800, n=128, causal=False)
    importance = np.random.default_rng(0).random((1, 1, 1, 100))
    bounds = ((2, 0.0, bound), (0, bound, 1.0))
    found = select(importance, case, bounds, mode)
    np.testing.assert_array_equal(found.levels.numpy()[0], reference(importance, case, bounds, mode))


FACTORS = st.one_of(st.sampled_from([0.1, 0.5, 1 / 3, 0.7, 1.0, 1.1, 2.0, 3.0, 1e-6, 1e6]), st.floats(0.01, 20.0))


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_budgets_scale_the_ends_of_each_head_as_in_float64(data):
    m, n = data.draw(st.sampled_from([64, 128])), data.draw(st.sampled_from([32, 64, 128]))
    lq, lk, causal = data.draw(st.integers(1, 200)), data.draw(st.integers(200, 6000)), data.draw(st.booleans())
    case = Case(lq=lq, lk=lk, hkv=2, group=2, m=m, n=n, causal=causal)
    budgets = tuple(data.draw(st.lists(FACTORS, min_size=4, max_size=4)))
    importance = np.random.default_rng(lk).random((1, 4, case.n_i, case.n_j))
    mode = data.draw(st.sampled_from(MODES[1:]))
    intervals = data.draw(st.sampled_from([DYADIC, INTERVALS, EARLY, ((1, 0.0, 0.09), (0, 0.09, 1.0))]))
    found = select(importance, case, intervals, mode, budgets=budgets)
    want = reference(importance, case, intervals, mode, budgets=budgets)
    np.testing.assert_array_equal(found.levels.numpy()[0], want)
    check_lists(found, case)


def test_budgets_of_one_change_nothing_and_larger_ones_keep_more():
    case = Case(lq=128, lk=6400, hkv=1, group=3, n=64, causal=False)
    importance = np.random.default_rng(0).random((1, 3, case.n_i, case.n_j))
    ends = ((1, 0.0, 0.1), (0, 0.1, 1.0))
    plain = select(importance, case, ends, "topk").levels.numpy()[0]
    found = select(importance, case, ends, "topk", budgets=(1.0, 0.5, 2.5)).levels.numpy()[0]
    np.testing.assert_array_equal(found[0], plain[0])
    assert [(head == 1).sum() // case.n_i for head in found] == [10 + 1, 5 + 1, 25 + 1]


def test_budgets_are_copied_to_the_device_once(monkeypatch):
    from psa_paddle.bridge import alloc

    copies, copy = [], alloc.from_host
    monkeypatch.setattr(alloc, "from_host", lambda *args: copies.append(args) or copy(*args))
    case = Case(lq=64, lk=640, hkv=1, group=2, n=64)
    importance = np.random.default_rng(0).random((1, 2, case.n_i, case.n_j))
    for _ in range(3):
        select(importance, case, EARLY, "topk_sqrt", budgets=(0.123456, 7.5))
    assert len(copies) == 1


def test_budgets_that_fit_no_head_are_refused():
    case = Case(lq=64, lk=640, hkv=1, group=2, n=64)
    importance = np.ones((1, 2, case.n_i, case.n_j))
    for mode, budgets in (("topk", (1.0,)), ("topk_sqrt", (1.0,) * 4), ("energybound", (1.0, 1.0))):
        with pytest.raises(ValueError, match="2 factors, one for each query head"):
            select(importance, case, EARLY, mode, budgets=budgets)


def test_one_interval_needs_no_importance():
    case = Case(lq=100, lk=300, group=2)
    q = np.zeros((1, 2, 100, 32))
    levels = select(q, case, ((1, 0.0, 1.0),), "energybound").levels.numpy()
    valid, _ = ref.block_grid(case.lq, case.lk, case.m, case.n, True)
    np.testing.assert_array_equal(levels[0], np.broadcast_to(valid, (2, *valid.shape)))


def test_nan_importance_stays_in_its_row():
    case = Case(lq=256, lk=256)
    importance = np.random.default_rng(0).random((1, 1, case.n_i, case.n_j))
    clean = select(importance, case, INTERVALS, "energybound").levels.numpy()
    importance[0, 0, 2] = np.nan
    found = select(importance, case, INTERVALS, "energybound")
    rows = [0, 1, 3]
    np.testing.assert_array_equal(found.levels.numpy()[:, :, rows], clean[:, :, rows])
    np.testing.assert_array_equal(found.levels.numpy()[0], reference(importance, case, INTERVALS, "energybound"))
    check_lists(found, case)


@pytest.mark.parametrize("mode, intervals", [("energybound", INTERVALS), ("topk", INTERVALS), ("topk_sqrt", EARLY)])
def test_padded_rows_are_the_rows_of_the_sample_alone(mode, intervals):
    case, start = Case(lq=400, lk=430, batch=2), 77
    own = Case(lq=400 - 47, lk=430 - 77)
    importance = np.random.default_rng(0).random((2, 1, case.n_i, case.n_j))
    found = select(importance, case, intervals, mode, 40, kv_start=paddle.to_tensor([0, start], "int32"))
    alone = select(importance[1:, :, : own.n_i, : own.n_j], own, intervals, mode, 40)
    levels = found.levels.numpy()
    np.testing.assert_array_equal(levels[1, :, : own.n_i, : own.n_j], alone.levels.numpy()[0])
    assert not levels[1, :, own.n_i :].any() and not levels[1, :, :, own.n_j :].any()
    np.testing.assert_array_equal(found.counts.numpy()[1, :, : own.n_i], alone.counts.numpy()[0])
    assert not found.work.numpy()[1, :, own.n_i :].any()


@pytest.mark.parametrize("case", [Case(lq=300, lk=300, group=3), Case(lq=200, lk=333, n=64, causal=False)], ids=str)
def test_lists_of_a_given_map(case):
    from psa_paddle.kernels import lists_from_levels

    levels = random_levels(case)
    check_lists(lists_from_levels(paddle.to_tensor(levels), case.plan(), case.lq, case.lk), case)


def test_turns_start_at_zero():
    from psa_paddle.kernels import lists_from_levels

    case = Case()
    levels = paddle.to_tensor(random_levels(case))
    for found in (
        select(np.ones((1, 1, 3, 5)), case, INTERVALS, "topk"),
        lists_from_levels(levels, case.plan(), case.lq, case.lk),
    ):
        assert found.turns.numpy().tolist() == [0, 0]


def test_refuses_unknown_mode():
    with pytest.raises(ValueError, match="mode"):
        select(np.ones((1, 1, 3, 5)), Case(), INTERVALS, "best")


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("given", [False, True], ids=["chosen", "given"])
def test_work_counts_the_means_of_skipped_blocks(given, causal):
    from psa_paddle.kernels import Scores, lists_from_levels, select_fwd

    case = Case(lq=300, lk=500, n=64, causal=causal)
    importance = np.random.default_rng(3).exponential(size=(1, 1, case.n_i, case.n_j)).astype(np.float32)
    plan = case.plan(intervals=((1, 0.0, 0.3), (0, 0.3, 1.0)), block_means=True)
    found = select_fwd(Scores(paddle.to_tensor(importance)), plan, case.lq, case.lk)
    if given:
        found = lists_from_levels(found.levels, plan, case.lq, case.lk)
    levels, grid = found.levels.numpy()[0], (case.lq, case.lk, case.m, case.n, causal)
    pairs = ref.block_grid(*grid)[0].sum()
    with_means, without = ((1 - ref.sparsity(levels, *grid, means)) * pairs for means in (True, False))
    assert found.work.numpy().sum() == pytest.approx(with_means) and with_means > without
