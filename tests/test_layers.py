"""The layer: statistics, warm-up by timestep, the log."""

import json

import numpy as np
import paddle
import pytest
from shared import RATIOS, smooth_qkv

from psa_paddle import AttentionConfig, PyramidAdaptiveBlockSparseAttn, pyramid_attention
from psa_paddle.layers import DenoisingSteps

CONFIG = AttentionConfig.preset(
    "seed", query_block=64, key_block=32, mask_ratios=RATIOS, text_length=0, xattn_stride=8, dense_below=0
)


@pytest.fixture(scope="module")
def qkv():
    return [paddle.to_tensor(x) for x in smooth_qkv(300, 300, 4, 2, 32)]


def test_is_the_operator(qkv):
    layer = PyramidAdaptiveBlockSparseAttn(CONFIG)
    assert np.array_equal(layer(*qkv).numpy(), pyramid_attention(*qkv, CONFIG).numpy())
    assert layer.last_call.sparsity() > 0.1
    assert not layer.state_dict()


def test_warm_up_counts_timesteps_not_calls(qkv):
    layer = PyramidAdaptiveBlockSparseAttn(CONFIG.replace(warmup_steps=2))
    modes = []
    for timestep in [999, 999, 800, 800, 600, 600, 999, 800, 600]:  # with guidance, then a second run without
        layer(*qkv, timestep=timestep)
        modes.append(layer.last_call.mode)
    assert modes == ["dense"] * 4 + ["sparse"] * 2 + ["dense"] * 2 + ["sparse"]
    layer(*qkv, timestep=paddle.to_tensor([999.0]))  # a run that starts again before it ended
    assert (layer.last_call.mode, layer.last_call.reason) == ("dense", "warm-up step")


def test_runs_and_steps_count_from_one():
    steps = DenoisingSteps()
    counted = [(steps.advance(t), steps.run, steps.step) for t in [999, 999, 500.5, np.float32(2), 700, 700, 1]]
    assert counted == [(1, 1, 1), (1, 1, 1), (2, 1, 2), (3, 1, 3), (1, 2, 1), (1, 2, 1), (2, 2, 2)]


def test_warm_up_needs_a_timestep(qkv):
    with pytest.raises(ValueError, match="pass timestep"):
        PyramidAdaptiveBlockSparseAttn(CONFIG.replace(warmup_steps=1))(*qkv)


def test_log_is_written_at_the_flush(qkv, tmp_path):
    layer = PyramidAdaptiveBlockSparseAttn(CONFIG, layer_idx=3, log_dir=tmp_path / "log", session_name="run")
    layer(*qkv)
    layer(*qkv, layer_idx=5)
    assert not list((tmp_path / "log").iterdir())
    layer.flush_log()
    lines = [json.loads(line) for line in (tmp_path / "log/run.jsonl").read_text().splitlines()]
    assert [line["layer"] for line in lines] == [3, 5]
    assert lines[0]["sparsity"] == pytest.approx(layer.last_call.sparsity(), abs=1e-5)
    assert len(lines[0]["per_head_density"]) == 4 and lines[0]["lengths"] == [[300, 300]]
    summary = json.loads((tmp_path / "log/run_summary.json").read_text())
    assert summary["calls"] == 2 and set(summary["layers"]) == {"3", "5"}
    assert summary["config"] == CONFIG.as_dict()
    assert sorted(p.name for p in (tmp_path / "log").iterdir()) == ["run.jsonl", "run_summary.json"]
