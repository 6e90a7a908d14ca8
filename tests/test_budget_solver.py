"""Densities against the reference's counts; shares that add up, stay in their bounds and go where they pay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psa_paddle import AttentionConfig, reference
from psa_paddle.budget_solver import density_of, factor_for, fit, least_density, scaled, share_out, solve
from psa_paddle.geometry import Geometry
from psa_paddle.plan import Plan

LEVELS = {1: (0.0, 0.05), 2: (0.05, 0.1), 8: (0.1, 0.3), 0: (0.3, 1.0)}
ONE = {1: (0.0, 0.1), 0: (0.1, 1.0)}
RANKED = AttentionConfig(mask_mode="topk_sqrt", mask_ratios=ONE, block_means=False, key_block=64)


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 3000),
    text=st.integers(0, 200),
    m=st.sampled_from([64, 128]),
    n=st.sampled_from([32, 64, 128]),
    mode=st.sampled_from(["topk", "topk_sqrt"]),
    ratios=st.sampled_from([LEVELS, ONE]),
    means=st.booleans(),
    factor=st.sampled_from([0.01, 0.5, 1.0, 2.3, 100.0]),
)
def test_density_is_what_the_reference_keeps(tokens, text, m, n, mode, ratios, means, factor):
    """Importance that puts the forced blocks first, as the density supposes; all counted by the slow reference."""
    config = AttentionConfig(
        query_block=m, key_block=n, mask_mode=mode, mask_ratios=ratios, block_means=means, use_sim_mask=False
    )
    text = min(text, tokens)
    geo = Geometry(tokens, tokens, m, n, True)
    j = np.arange(geo.n_j)
    importance = np.zeros((1, geo.n_i, geo.n_j))
    for i in range(geo.n_i):
        importance[0, i] = (j == 0) | (j >= geo.n_free(i)) | ((j + 1) * n > tokens - text) & (text > 0)
    importance += 0.5 * np.random.default_rng(0).random(importance.shape)
    cap = np.full((1, geo.n_j), 8)
    plan = Plan.of(config.replace(text_length=text, budgets=(factor,)), 1.0)
    levels = reference.select_levels(importance, cap, plan, tokens, tokens)
    want = 1 - reference.sparsity(levels, tokens, tokens, m, n, True, means)
    # A ragged last key block is never pooled or skipped by its mean; it is seen by the last rows alone.
    assert density_of(config, [(tokens, text)], factor) == pytest.approx(want, abs=1e-9 if tokens % n == 0 else 0.02)


def test_factor_and_scaled_ratios_reach_the_density():
    lengths = [(32768, 40), (20000, 64)]
    assert least_density(RANKED, lengths) < 0.06
    for density in (0.06, 0.12, 0.4):
        factor = factor_for(RANKED, density, lengths)
        assert density_of(RANKED, lengths, factor) == pytest.approx(density, abs=0.005)
        assert density_of(scaled(RANKED, factor), lengths) == density_of(RANKED, lengths, factor)
    assert factor_for(RANKED, 0.2, lengths) < factor_for(RANKED, 0.4, lengths)
    pooled = RANKED.replace(mask_ratios=LEVELS)
    assert scaled(pooled, 5.0).mask_ratios == {1: (0.0, 0.25), 2: (0.25, 0.5), 8: (0.5, 1.0), 0: (1.0, 1.0)}


def test_density_needs_shares_by_rank():
    with pytest.raises(ValueError, match="mask_mode 'topk' or 'topk_sqrt'"):
        density_of(RANKED.replace(mask_mode="energybound"), [(1000, 0)])
    with pytest.raises(ValueError, match="at least one prompt"):
        density_of(RANKED, [])


def test_fit_finds_a_power_law_and_clamps_noise():
    shares = (0.03, 0.06, 0.12)
    a, b = fit(shares, [[0.02 * s**-1.5 for s in shares], [1e-3, 2e-3, 4e-3], [0.0, 0.0, 0.0]])
    assert (a[0], b[0]) == (pytest.approx(0.02), pytest.approx(1.5))
    assert b[1] == b[2] == 0.3 and a[2] < 1e-7


CURVES = st.lists(st.tuples(st.floats(1e-9, 10.0), st.floats(0.3, 3.0), st.integers(1, 8)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(curves=CURVES, target=st.floats(0.01, 0.9))
def test_shares_have_the_mean_and_stay_in_their_bounds(curves, target):
    a, b, weights = (np.array(x, float) for x in zip(*curves, strict=True))
    shares = solve(a, b, weights, target)
    assert np.average(shares, weights=weights) == pytest.approx(target, rel=1e-6)
    assert shares.min() >= 0.008 and shares.max() <= 1.0
    more = solve(a, b, weights, min(0.95, target * 1.1))
    assert (more >= shares - 1e-9).all()  # nobody gets less of a larger budget
    same = solve(a, np.full(len(a), 1.0), np.ones(len(a)), target)
    assert (np.diff(same[np.argsort(a)]) >= -1e-9).all()


@settings(max_examples=50, deadline=None)
@given(curves=CURVES, target=st.floats(0.02, 0.5), seed=st.integers(0, 99))
def test_no_exchange_of_shares_loses_less(curves, target, seed):
    a, b, weights = (np.array(x, float) for x in zip(*curves, strict=True))
    shares = solve(a, b, weights, target)
    loss = (a * shares**-b).sum()
    i, j = np.random.default_rng(seed).integers(0, len(a), 2)
    moved = shares.copy()
    moved[i] += 1e-4 / weights[i]
    moved[j] -= 1e-4 / weights[j]
    if i != j and moved[i] <= 1.0 and moved[j] >= 0.008:
        assert (a * moved**-b).sum() >= loss * (1 - 1e-6)


def test_a_target_out_of_reach_is_refused():
    with pytest.raises(ValueError, match="out of reach; it can be between 0.05 and 1"):
        solve([1.0], [1.0], [4], 0.03, least=0.05)


def test_heads_share_what_their_layer_gets():
    shares = [0.06, 0.12, 0.24]
    layer = lambda worth: [worth * s**-1.0 for s in shares]  # noqa: E731
    heads = {"0": [layer(0.01), layer(0.01), layer(0.16), layer(0.01)]}
    curves = {"shares": shares, "layers": [layer(0.2), layer(0.02)], "heads": heads, "head_shares": shares}
    found = share_out(curves, 4, 0.12)
    assert found.mean() == pytest.approx(0.12)
    assert found[0, 2] > 2 * found[0, 0] and len(set(found[1])) == 1
    assert found[0].mean() > found[1].mean()
    np.testing.assert_allclose(share_out(curves, 4, 0.12, uniform=1.0), 0.12)
    alike = share_out({**curves, "heads": {}}, 4, 0.12)
    assert len(set(alike[0])) == 1 and alike[0, 0] > alike[1, 0]
