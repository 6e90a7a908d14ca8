"""Every kernel compiles for GPUs that are not here, through the launchers that production uses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

ROOT = Path(__file__).resolve().parents[2]
HOPPER = triton.__version__.startswith("3.6")  # the Gluon that the Hopper kernel is written in
SPILLED = 0 if HOPPER else 32  # bytes; tuned on 3.6
KERNELS = {"pyramid", "means", "xattn", "select", "attend", "lists"}


def report(*args) -> list[dict]:
    """Rows of benchmarks/compile_report.py, in a process of its own: here kernels belong to the interpreter."""
    command = [sys.executable, str(ROOT / "benchmarks/compile_report.py"), "--json", *args]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "arch, shared_limit", [(80, 166912), (90, 232448), (100, 232448)], ids=["sm_80", "sm_90", "sm_100"]
)
def test_main_variants_compile_and_fit(arch, shared_limit):
    rows = report("--arch", str(arch), "--dim", "64", "128")
    attend = "attend_hopper" if arch == 90 and HOPPER else "attend"
    assert {row["kernel"] for row in rows} == KERNELS - {"attend"} | {attend} and len(rows) == 2 * len(KERNELS)
    for row in rows:
        assert row["shared"] <= shared_limit, row
        if row["kernel"] == "attend_hopper":
            assert row["spilled"] == 0, row


@pytest.mark.parametrize(
    "more", [[], ["--bidirectional", "--padded"], ["--budgets"]], ids=["causal", "bidirectional, padded", "budgets"]
)
def test_default_preset_has_no_spills_on_hopper(more):
    rows = report("--arch", "90", "--dim", "64", "128", "--preset", "balanced", *more)
    attend = "attend_hopper" if HOPPER else "attend"
    assert {row["kernel"] for row in rows} == {"xattn", "select", "lists", attend}  # nothing is pooled
    assert all(row["spilled"] <= SPILLED and row["shared"] <= 232448 for row in rows), rows


def test_portable_attention_kernel_has_no_spills_on_hopper():
    rows = [row for row in report("--arch", "90", "--dim", "128", "--portable") if row["kernel"] == "attend"]
    assert len(rows) == 1 and rows[0]["spilled"] <= SPILLED, rows


def test_attention_kernel_over_its_settings():
    rows = report("--attend-grid", "--arch", "90", "--dim", "64")
    assert {row["kernel"] for row in rows} == {"attend"}
    assert len({(row["variant"], row["warps"], row["stages"]) for row in rows}) == len(rows) == 12


TRIANGLE = ["triangle_band", "triangle_full", "triangle_combine", "triangle_full"]  # the last one is not split


@pytest.mark.parametrize(
    "arch, shared_limit", [(80, 166912), (90, 232448), (100, 232448)], ids=["sm_80", "sm_90", "sm_100"]
)
def test_triangle_kernels_compile_and_fit(arch, shared_limit):
    rows = report("--triangle", "--arch", str(arch), "--dim", "64", "128")
    assert [row["kernel"] for row in rows] == 2 * TRIANGLE
    for row in rows:
        assert row["shared"] <= shared_limit and row["spilled"] <= SPILLED, row


@pytest.mark.parametrize(
    "args",
    [["--dim", "80", "--dtype", "float16"], ["--dim", "96", "--padded"], ["--dim", "32", "128", "--dtype", "float32"]],
    ids=["D=80", "padded", "float32"],
)
def test_triangle_kernels_have_no_spills_on_hopper(args):
    rows = report("--triangle", "--arch", "90", *args)
    assert len(rows) >= len(TRIANGLE) and all(row["spilled"] <= SPILLED for row in rows), rows


@pytest.mark.parametrize(
    "arch, shared_limit", [(80, 166912), (90, 232448), (100, 232448)], ids=["sm_80", "sm_90", "sm_100"]
)
def test_audit_compiles_without_spills(arch, shared_limit):
    rows = report("--audit", "--arch", str(arch), "--dim", "64", "128", "--padded")
    assert [row["kernel"] for row in rows] == 2 * ["audit", "audit_compare"]
    for row in rows:
        assert row["shared"] <= shared_limit and row["spilled"] <= SPILLED, row


@pytest.mark.parametrize(
    "args",
    [["--bidirectional", "--dim", "80", "128", "--dtype", "float16"], ["--dim", "32", "128", "--dtype", "float32"]],
    ids=["bidirectional", "float32"],
)
def test_audit_of_other_variants_has_no_spills_on_hopper(args):
    rows = report("--audit", "--arch", "90", *args)
    assert len(rows) == 4 and all(row["spilled"] <= SPILLED for row in rows), rows


def test_pooling_keeps_its_products_in_registers_on_hopper():
    rows = report("--arch", "90", "--dim", "128", "--method", "pooling", "--bidirectional", "--key-block", "128")
    (row,) = [row for row in rows if row["kernel"] == "pooling"]
    assert row["registers"] <= 128 and row["spilled"] <= SPILLED and 2 * row["shared"] <= 232448, row  # two at a time


@pytest.mark.parametrize("arch", [80, 90, 100], ids=["sm_80", "sm_90", "sm_100"])
def test_token_orders_compile(arch):
    rows = report("--arch", str(arch), "--tokens", "--dim", "128")
    assert {row["kernel"] for row in rows} == {"seed", "assign", "count", "scan", "place", "mean", "permute"}
    assert all(row["spilled"] <= max(SPILLED, 32 * (arch == 100)) for row in rows), rows


VARIANTS = {
    "bidirectional": ["--bidirectional", "--dim", "128", "--dtype", "float16"],
    "padded batch": ["--padded", "--dim", "128"],
    "key blocks of 32 and 128": ["--dim", "128", "--key-block", "32", "128"],
    "odd head dimensions": ["--dim", "80", "96"],
    "pooling": ["--dim", "128", "--method", "pooling"],
    "peak": ["--dim", "80", "128", "--method", "peak"],
    "float32": ["--dim", "32", "--dtype", "float32"],
}


@pytest.mark.parametrize("args", VARIANTS.values(), ids=VARIANTS)
def test_other_variants_compile_for_hopper(args):
    rows = report("--arch", "90", *args)
    assert {row["kernel"] for row in rows} >= KERNELS - {"xattn", "attend"}
    assert any(row["kernel"].startswith("attend") for row in rows)
    assert all(row["shared"] <= 232448 for row in rows)
