"""The sparsity log says what each call did, and its summary what all did."""

import json

import numpy as np
import pytest

from psa_paddle import AttentionConfig, CallStats
from psa_paddle.utils.psa_logger import PSALogger


def test_files(tmp_path):
    two_heads = CallStats("eager", "sparse", "", ((8, 9), (7, 7)), [np.array([[1.0, 3.0]])], [4])
    dense = CallStats("sdpa", "dense", "mask", ((8, 8),))
    with PSALogger(tmp_path / "a" / "b", AttentionConfig(), session_name="s") as logger:
        for layer, call in ((1, two_heads), (0, dense), (1, dense)):
            logger.log(layer, call)
        assert list((tmp_path / "a" / "b").iterdir()) == []
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["s.jsonl", "s_summary.json"]
    first, second, third = map(json.loads, (tmp_path / "a" / "b" / "s.jsonl").read_text().splitlines())
    assert first == {
        "layer": 1, "backend": "eager", "mode": "sparse", "reason": "", "sparsity": 0.5,
        "per_head_density": [0.25, 0.75], "lengths": [[8, 9], [7, 7]],
    }  # fmt: skip
    assert (second["layer"], second["mode"], second["reason"], second["sparsity"]) == (0, "dense", "mask", 0.0)
    assert third["layer"] == 1 and second["per_head_density"] == []
    summary = json.loads((tmp_path / "a" / "b" / "s_summary.json").read_text())
    assert summary["calls"] == 3 and summary["average_sparsity"] == pytest.approx(0.5 / 3, abs=1e-6)
    layers = {"0": {"calls": 1, "sparse": 0, "sparsity": 0.0}, "1": {"calls": 2, "sparse": 1, "sparsity": 0.25}}
    assert summary["layers"] == layers and list(summary["layers"]) == ["0", "1"]
    assert summary["config"] == json.loads(json.dumps(AttentionConfig().as_dict()))


def test_an_empty_log(tmp_path):
    PSALogger(tmp_path, AttentionConfig(), "s").flush()
    assert json.loads((tmp_path / "s_summary.json").read_text())["average_sparsity"] == 0
