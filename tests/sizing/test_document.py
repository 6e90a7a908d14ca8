"""The tables of docs/serving.md and its Chinese are what the formulas give."""

import re

import pytest
from shared_demo import ROOT

from psa_paddle import AttentionConfig
from psa_paddle.sizing import KNOWN, Request, fewest_gpus, prefill_seconds

LENGTHS = (32768, 131072, 524288)
FITS = (("H100", 32768), ("H100", 131072), ("H100", 262144), ("H100", 1 << 20), ("H200", 1 << 20))


def rows(page: str, columns: int) -> dict[tuple[str, ...], list[str]]:
    """Table rows of models with so many cells, by what stands before the figures."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| Qwen.*", text, re.M)]
    return {tuple(row[:-columns]): row[-columns:] for row in cells if len(row) == columns + 1 + (columns == 3)}


@pytest.mark.parametrize("page", ["serving.md", "serving.zh.md"])
def test_the_tables_are_computed(page):
    fits = rows(page, len(FITS))
    assert set(fits) == {(name,) for name in KNOWN}
    for (name,), cells in fits.items():
        for (gpu, tokens), cell in zip(FITS, cells, strict=True):
            found = [
                fewest_gpus(KNOWN[name], Request(tokens, chunk=chunk), AttentionConfig(), gpu) for chunk in (None, 8192)
            ]
            assert cell == " / ".join(str(gpus or "-") for gpus in found), (name, gpu, tokens)
    times = rows(page, len(LENGTHS))
    assert len(times) == 7
    for (name, gpus), cells in times.items():
        for tokens, cell in zip(LENGTHS, cells, strict=True):
            seconds = [prefill_seconds(KNOWN[name], Request(tokens, int(gpus)), x).total for x in ("dense", "balanced")]
            assert cell == " / ".join(f"{one:.3g}" for one in seconds), (name, tokens)
