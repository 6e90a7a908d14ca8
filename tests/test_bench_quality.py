"""What bench_quality.py compares is what it says: the seeds' rule, budgets, and the cost of a triangle layer."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from psa_paddle import AttentionConfig
from psa_paddle.geometry import Geometry

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "quality_settings.py"
SPEC = importlib.util.spec_from_file_location("quality_settings", FILE)
settings = sys.modules["quality_settings"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(settings)


@pytest.mark.parametrize("length,text", [(300, 0), (512, 1), (700, 140)])
def test_seeds_rule_counts_the_block_itself(length, text):
    rng = np.random.default_rng(length)
    geo = Geometry(length, length, 128, 64, True)
    importance = rng.random((1, 4, geo.n_i, geo.n_j)).astype(np.float32) ** 4
    cap = rng.choice([1, 2, 4, 8], (1, 2, geo.n_j))
    got = settings.inclusive_levels(importance, cap, geo, text)
    for head, i, j in np.ndindex(4, geo.n_i, geo.n_j):
        n, free = geo.n_valid(i), geo.n_free(i)
        row = importance[0, head, i, :n].astype(float)
        if j >= n:
            want = 0
        elif j == 0 or j >= free or (text and ((j + 1) * 64 > length - text or geo.rows(i)[1] > length - text)):
            want = 1
        else:
            share = row[row >= row[j]].sum() / row.sum()
            want = 1 if share <= 0.6 else 2 if share <= 0.8 else 4 if share <= 0.9 else 0
            want = min(want, cap[0, head // 2, j])
        assert got[0, head, i, j] == want, (head, i, j)


@pytest.mark.parametrize("weights", [settings.ONE_EIGHT, settings.PYRAMID], ids=str)
@pytest.mark.parametrize("density", settings.DENSITIES)
def test_shares_have_the_density_that_they_name(density, weights):
    intervals = AttentionConfig(mask_ratios=settings.shares(density, weights)).intervals
    assert sum((hi - lo) / level for level, lo, hi in intervals if level) == pytest.approx(density)


def test_density_of_a_triangle_layer_is_its_masks():
    length = 2100
    i, j = np.arange(length)[:, None], np.arange(length)
    seen = (j <= settings.SINK) | (i - j <= settings.WINDOW) | (length - i < settings.LAST)
    causal = j <= i
    assert settings.triangle_density(length) == pytest.approx((seen & causal).sum() / causal.sum())
    assert settings.triangle_density(2048) == 1.0


def test_settings_have_names_of_their_own_and_the_presets_are_among_them():
    found = settings.psa_settings() + settings.triangle_settings([5, 4, 2, 3, 1, 0])
    assert len({s.name for s in found}) == len(found) == len(set(found))
    assert {s.config.dense_below for s in found if s.config is not None} == {0}
    mix = next(s for s in found if s.attention == "mix")
    assert [mix.of_layer(layer) for layer in (5, 4, 0)] == ["trianglemix", "trianglemix", "psa"]
    balanced = next(s for s in found if s.name == "preset balanced").config
    assert balanced == AttentionConfig(dense_below=0)
