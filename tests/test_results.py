"""What RESULTS.md says is what the rows say, each row says where it was measured, and the benchmarks stay apart."""

import ast
import csv
import re
from pathlib import Path

import pytest
import report

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
ROWS = sorted((BENCHMARKS / "results").glob("*.csv"))
FILES = sorted(BENCHMARKS.glob("*.py"))


def test_the_tables_are_made_of_the_rows():
    page = report.RESULTS.read_text(encoding="utf-8")
    assert report.with_tables(page) == page, "run python benchmarks/report.py"


def test_a_table_that_is_left_out_is_missed():
    page = report.RESULTS.read_text(encoding="utf-8").replace("<!-- table: cpu -->", "")
    with pytest.raises(ValueError, match="'cpu' once, has 0"):
        report.with_tables(page)


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_every_row_says_where_it_was_measured(path):
    with open(path, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert rows and list(rows[0])[:4] == ["machine", "versions", "commit", "command"]
    for row in rows:
        assert row["machine"] and re.search(r"(torch|paddlepaddle) \d", row["versions"]), row
        assert re.fullmatch("[0-9a-f]{7,}|", row["commit"]) and None not in row, row


def test_the_rows_and_plots_are_what_the_pages_link_to():
    linked = set()
    for page in (report.RESULTS, ROOT / "docs" / "lab-notes.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
            linked.add((page.parent / target).resolve())
    assert {path.resolve() for path in (BENCHMARKS / "results").iterdir()} <= linked


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_file_imports_a_benchmark(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert not names & {file.stem for file in FILES if file.stem.startswith("bench_")}
