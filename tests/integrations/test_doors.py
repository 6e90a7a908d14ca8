"""The published import paths, wherever the code behind them stands."""

import importlib
import re

import pytest
from shared_demo import ROOT

PAGES = ["README.md", "README_zh.md", "qwen2.5-vl/README.md", "demo/README.md"]
PAGES += [str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").glob("*.md"))]
DOORS = {
    "calibration": ["calibrate_budgets"],
    "inference": ["DEFAULT_MODEL", "QwenVLInference", "check_request"],
    "ppdiffusers": ["plug_of", "psa_attention_in", "replace_attention_with_psa", "restore_attention"],
    "qwen2_5_vl": ["attention_in", "keep_video_tokens", "plug_of", "prune_video_tokens", "pruner_of",
                   "psa_attention_in", "replace_attention", "replace_attention_with_psa", "restore_attention",
                   "video_tokens_in"],
    "triangle_layers": ["choose_triangle_layers", "measure_middle_gradients"],
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_a_door_leads_to_its_room(door):
    module = importlib.import_module(f"psa_paddle.integrations.{door}")
    for name in DOORS[door]:
        home = getattr(module, name)
        assert name in module.__all__
        if name != "DEFAULT_MODEL":
            assert getattr(importlib.import_module(home.__module__), name) is home
            assert home.__module__.startswith(("psa_paddle.integrations.language", "psa_paddle.integrations.video"))


def named(page: str) -> list[tuple[str, str]]:
    """(module, name) of every import from psa_paddle that a page shows."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^\s*from (psa_paddle[\w.]*) import ([\w, ]+)", text, re.M)
    return [(module, name.strip()) for module, names in found for name in names.split(",")]


def test_what_the_pages_import_is_there():
    shown = [pair for page in PAGES for pair in named(page)]
    assert len({module for module, _ in shown}) >= 5
    for module, name in shown:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
