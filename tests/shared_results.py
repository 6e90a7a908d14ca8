"""Rows of benchmarks/results, to hold formulas to."""

import csv

from shared_demo import ROOT


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file, as text."""
    with (ROOT / "benchmarks" / "results" / name).open(encoding="utf-8") as f:
        return list(csv.DictReader(f))
