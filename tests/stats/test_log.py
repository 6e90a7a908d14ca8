"""The log of calls whose figures are known."""

import json

import numpy as np
import pytest

from psa_paddle import AttentionConfig, CallStats
from psa_paddle.stats import PSALogger, read_calls

# 2 samples of 3 heads; 20 pairs of blocks in all
SPARSE = CallStats("eager", "sparse", "", ((10, 20), (30, 40)), [np.array([[2.0, 4, 6], [1, 1, 2]])], [12, 8])
DENSE = CallStats("triton", "dense", "shorter than 9 keys", ((5, 6),))
SPARSE_RECORD = {
    "layer": 4,
    "backend": "eager",
    "mode": "sparse",
    "reason": "",
    "sparsity": 0.733333,
    "per_head_density": [0.15, 0.25, 0.4],
    "audit": None,
    "lengths": [[10, 20], [30, 40]],
}
DENSE_RECORD = {
    "layer": 0,
    "backend": "triton",
    "mode": "dense",
    "reason": "shorter than 9 keys",
    "sparsity": 0.0,
    "per_head_density": [],
    "audit": None,
    "lengths": [[5, 6]],
}


def test_a_calls_record():
    assert [one.as_dict() for one in read_calls([(4, SPARSE), (0, DENSE)])] == [SPARSE_RECORD, DENSE_RECORD]
    thirds = CallStats("eager", "sparse", "", ((1, 1),), [np.array([[1.0]])], [3])
    assert read_calls([(0, thirds)])[0].as_dict()["per_head_density"] == [0.333333]


def test_the_summary_counts_calls_by_layer(tmp_path):
    config = AttentionConfig(key_block=32)
    with PSALogger(tmp_path / "a/b", config, "run") as logger:
        for layer, call in [(4, SPARSE), (0, DENSE), (4, DENSE)]:
            logger.log(layer, call)
        assert not list(logger.log_dir.iterdir())
    lines = [json.loads(line) for line in (tmp_path / "a/b/run.jsonl").read_text().splitlines()]
    assert lines == [SPARSE_RECORD, DENSE_RECORD, {**DENSE_RECORD, "layer": 4}]
    assert json.loads((tmp_path / "a/b/run_summary.json").read_text()) == {
        "calls": 3,
        "average_sparsity": 0.358865,  # of the layers, as in stats()
        "audit_warning": "",
        "layers": {
            "0": {"calls": 1, "sparse": 0, "sparsity": 0.0, "audit": None},
            "4": {"calls": 2, "sparse": 1, "sparsity": 0.71773, "audit": None},  # by the pairs of each call
        },
        "config": config.as_dict(),
    }
    assert list(json.loads((tmp_path / "a/b/run_summary.json").read_text())["layers"]) == ["0", "4"]


def test_a_second_flush_rewrites_both_files(tmp_path):
    logger = PSALogger(tmp_path, AttentionConfig(), "run")
    logger.flush()
    assert (tmp_path / "run.jsonl").read_text() == ""
    assert json.loads((tmp_path / "run_summary.json").read_text())["average_sparsity"] == 0.0
    logger.log(1, SPARSE)
    logger.flush()
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "run_summary.json").read_text())["calls"] == 1


def test_logs_without_a_name_do_not_share_one(tmp_path):
    names = {PSALogger(tmp_path, AttentionConfig()).name for _ in range(3)}
    assert len(names) == 3 and all(name.startswith("psa_2") for name in names)


def test_layers_are_in_the_order_of_their_numbers(tmp_path):
    logger = PSALogger(tmp_path, AttentionConfig())
    assert list(logger.summary(read_calls([(layer, DENSE) for layer in (10, 9, 2)]))["layers"]) == ["2", "9", "10"]


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        PSALogger(tmp_path / "file" / "log", AttentionConfig())


def test_the_published_place():
    from psa_paddle.utils import psa_logger

    assert psa_logger.PSALogger is PSALogger and psa_logger.__all__ == ["PSALogger"]
