"""What the presets cost: computed from their shares, as the reference counts it, and as the pages about presets say."""

import re
from pathlib import Path

import numpy as np
import pytest

from psa_paddle import AttentionConfig, list_presets, load_preset, reference
from psa_paddle.config import PRESETS
from psa_paddle.density import QUESTION, density
from psa_paddle.geometry import Geometry
from psa_paddle.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
TOKENS = (8192, 32768, 131072)
BY_RANK = [name for name in PRESETS if AttentionConfig.preset(name).mask_mode != "energybound"]
CONFIGS = {
    **{name: AttentionConfig.preset(name) for name in BY_RANK},
    "pooled, topk": AttentionConfig(
        mask_mode="topk", mask_ratios={1: (0, 0.1), 2: (0.1, 0.3), 8: (0.3, 0.5), 0: (0.5, 1)}, block_means=False
    ),
    "pooled, means": AttentionConfig(mask_ratios={1: (0, 0.05), 4: (0.05, 0.3), 0: (0.3, 1)}, key_block=32),
    "all at level 1": AttentionConfig(mask_ratios={1: (0, 1)}),
    "nothing pooled, bidirectional": AttentionConfig(mask_mode="topk", causal=False, key_block=128),
}


def counted(config: AttentionConfig, tokens: int, forced_first: bool) -> tuple[float, float]:
    """By the reference, of random importance, or with the forced blocks the most important ones; and the share of
    forced pairs."""
    geo = Geometry(tokens, tokens, config.query_block, config.key_block, config.causal)
    importance = np.random.default_rng(0).random((1, geo.n_i, geo.n_j))
    sizes = (tokens, tokens, config.query_block, config.key_block, config.causal)
    plan, cap = Plan.of(config.replace(text_length=QUESTION), 1.0), np.full((1, geo.n_j), 8)
    skip = plan.replace(intervals=((0, 0.0, 1.0),), mask_mode="topk")
    forced = reference.select_levels(importance, cap, skip, tokens, tokens) == 1
    levels = reference.select_levels(importance + forced * forced_first, cap, plan, tokens, tokens)
    return 1 - reference.sparsity(levels, *sizes, config.block_means), forced.sum() / geo.n_pairs()


@pytest.mark.parametrize("tokens", [1000, 4096, 8192])
@pytest.mark.parametrize("name", CONFIGS)
def test_is_what_the_reference_counts(name, tokens):
    found = density(CONFIGS[name], tokens)
    assert found == pytest.approx(counted(CONFIGS[name], tokens, True)[0], rel=1e-9)
    most, forced = counted(CONFIGS[name], tokens, False)
    assert found <= most + 1e-9 and most <= found + forced
    assert density(CONFIGS[name], tokens, 0) <= found


def test_depends_on_the_tensors_by_share_of_importance():
    with pytest.raises(ValueError, match="share of importance"):
        density("seed", 8192)


@pytest.mark.parametrize("tokens, error", [(0, ValueError), (-5, ValueError), (8192.0, TypeError), ("8k", TypeError)])
def test_refuses_lengths_that_are_none(tokens, error):
    with pytest.raises(error, match="tokens must"):
        density("balanced", tokens)


@pytest.mark.parametrize("page", ["docs/presets.md", "docs/presets.zh.md"])
def test_the_page_states_the_densities(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = [f"| `{name}` | " + " | ".join(f"{density(name, n):.2f}" for n in TOKENS) + " |" for name in BY_RANK]
    assert "\n".join(rows) in text, "the table should have these rows:\n" + "\n".join(rows)
    assert f" {QUESTION} token" in text.split(rows[0])[0][-900:], f"say that the question has {QUESTION} tokens"


def test_the_descriptions_leave_figures_to_the_pages():
    figures = re.compile(r"\d+k|tenth|eighth|quarter|third|half|\d token", re.IGNORECASE)
    for name in list_presets("Qwen2.5-VL")["Qwen2.5-VL"]:
        assert not figures.search(load_preset("Qwen2.5-VL", name).description), name
