"""Calls as records: read from the device once, and the one source of all that is said of them."""

import ast
import json

import numpy as np
import pytest
from shared_demo import ROOT

from psa_paddle.stats import AuditedRows, CallStats, PSALogger, read_calls, totals

PACKAGE = ROOT / "psa_paddle"


class OnDevice:
    """An array that counts how often the host asks for it."""

    def __init__(self, array):
        self.array, self.reads = np.asarray(array, np.float32), 0
        self.shape = self.array.shape

    def __array__(self, dtype=None, copy=None):
        self.reads += 1
        return self.array.astype(dtype or np.float32)


def call(density, error=0.1, rows=16):
    """A call of two heads that did this share of the work of four block pairs, with every row off by ``error``."""
    sums = OnDevice(np.tile([error**2, 1.0], (1, 2, rows, 1)))
    work = OnDevice([[4 * density, 4 * density]])
    audits = [AuditedRows(sums, (rows,))]
    return CallStats("eager", "sparse", "", ((8, 8),), [work], [4], audits), (work, sums)


def test_a_log_reads_every_count_once(tmp_path):
    (first, arrays), (second, more) = call(0.5), call(0.3)
    with PSALogger(tmp_path, type("Config", (), {"as_dict": dict}), "run") as logger:
        logger.log(0, first)
        logger.log(0, second)
        assert [x.reads for x in (*arrays, *more)] == [0, 0, 0, 0], "logging waits for nothing"
    assert [x.reads for x in (*arrays, *more)] == [1, 1, 1, 1]


def test_totals_read_every_count_once():
    one, arrays = call(0.5)
    assert totals([(0, one)])["average_sparsity"] == pytest.approx(0.5)
    assert [x.reads for x in arrays] == [1, 1]


def test_the_log_and_the_totals_say_the_same(tmp_path):
    calls = [(7, call(0.5, 0.4)[0]), (2, call(0.3)[0]), (7, call(0.1, 0.6)[0]), (2, call(0.2)[0])]
    with PSALogger(tmp_path, type("Config", (), {"as_dict": dict}), "run") as logger:
        for layer, one in calls:
            logger.log(layer, one)
    summary, every = json.loads((tmp_path / "run_summary.json").read_text()), totals(calls)
    assert summary["audit_warning"] == every["audit_warning"] != ""
    assert summary["average_sparsity"] == pytest.approx(every["average_sparsity"])
    for row in every["layers"]:
        logged = summary["layers"][str(row["layer"])]
        assert (logged["calls"], logged["sparse"]) == (row["calls"], row["sparse_calls"]) == (2, 2)
        assert logged["audit"] == row["audit"] and logged["sparsity"] == pytest.approx(row["sparsity"])


def test_calls_count_by_their_work():
    """A prompt of 1,024 tokens in two chunks, of which the first ran dense: a quarter of the pairs and one."""
    dense = CallStats("eager", "dense", "shorter than 1024 keys", ((512, 512),))
    sparse = CallStats("eager", "sparse", "", ((512, 1024),), [np.array([[2.0, 2.0]])], [10])
    (row,) = totals([(0, dense), (0, sparse)])["layers"]
    first, whole = 512 * 513 / 2, 1024 * 1025 / 2
    assert row["sparsity"] == pytest.approx(0.8 * (1 - first / whole)) and row["calls"] == 2


def test_a_record_holds_nothing_of_the_device():
    one, _ = call(0.25)
    (record,) = read_calls([(3, one)])
    assert record.layer == 3 and record.sparsity == pytest.approx(0.75) and record.per_head_density == [0.25, 0.25]
    assert json.loads(json.dumps(record.as_dict())) == record.as_dict()
    assert all(isinstance(audit.sums, np.ndarray) for audit in record.audits)


def test_calls_are_read_in_one_room():
    """Elsewhere they are collected and handed on; nobody asks them for their counts or combines their audits."""
    makers = {"sparsity", "per_head_density", "error_figures", "error_warning", "attention_errors"}
    elsewhere = []
    for file in PACKAGE.rglob("*.py"):
        if file.parent != PACKAGE / "stats":
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    elsewhere += [f"{file.relative_to(PACKAGE)}:{node.lineno} {name}"] * (name in makers)
    assert not elsewhere
