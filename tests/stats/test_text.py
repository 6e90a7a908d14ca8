"""The statistics of calls in plain types, and as text."""

import numpy as np
import pytest

from psa_paddle.stats import CallStats, format_stats, per_layer, totals


def sparse(density):
    """A call of one head that did this share of the work of four block pairs."""
    return CallStats("eager", "sparse", "", ((8, 8),), [np.array([[4 * density]])], [4])


def dense(reason):
    return CallStats("sdpa", "dense", reason, ((8, 8),))


# Two prefills: layers 0, 10 and 11 sparse twice, 1 once, 3 never.
CALLS = [
    (11, sparse(0.1)), (10, sparse(0.5)), (0, sparse(0.2)), (1, sparse(0.4)), (3, dense("short")),
    (0, sparse(0.6)), (1, dense("mask")), (3, dense("mask")), (10, sparse(0.5)), (11, sparse(0.1)),
]  # fmt: skip


def test_rows_of_layers():
    rows = per_layer(CALLS)
    assert [row["layer"] for row in rows] == [0, 1, 3, 10, 11] and [row["calls"] for row in rows] == [2] * 5
    assert [row["sparse_calls"] for row in rows] == [2, 1, 0, 2, 2]
    assert [row["sparsity"] for row in rows] == pytest.approx([0.6, 0.3, 0.0, 0.5, 0.9])
    assert [row["dense_reasons"] for row in rows] == [[], ["mask"], ["short", "mask"], [], []]
    assert per_layer([(2, dense("mask")), (2, dense("mask"))])[0]["dense_reasons"] == ["mask"]


def test_totals():
    found = totals(CALLS)
    assert found["average_sparsity"] == pytest.approx((0.6 + 0.3 + 0.0 + 0.5 + 0.9) / 5)
    assert (found["layers_sparse"], found["layers_dense"]) == (4, 1)  # in chunks, a prompt begins dense
    assert found["dense_reasons"] == {"short": 1, "mask": 2} and found["backends"] == ["eager", "sdpa"]
    assert found["layers"] == per_layer(CALLS)
    assert totals([])["average_sparsity"] == 0 and totals([])["layers"] == []


STATS = {
    "model": "m", "library": "paddlemix", "device": "gpu:0", "dtype": "float16", "sequence_length": 9,
    "vision_tokens": 6, "text_tokens": 3, "ttft_s": 1.25, "decode_tokens_per_s": 41.26, "new_tokens": 7,
    "peak_memory_bytes": 3 << 20, "finish_reason": "stop", "attention": "dense",
}  # fmt: skip
REQUEST = """\
Model       m  (paddlemix, gpu:0, float16)
Prompt      9 tokens: 6 vision, 3 text
Prefill     1.25 s to the first token
Decode      41.3 tokens/s, 7 tokens
Memory      3 MiB at the peak
"""
SPARSE = """\
Sparsity    46.0% of the attention work was skipped, on average over the layers
Layers      4 sparse, 1 dense, backend eager/sdpa
Dense       1 calls: short
Dense       2 calls: mask
  layer   0  60.0%
  layer   1  30.0%
  layer   3  0.0%
  layer  10  50.0%
  layer  11  90.0%"""


def test_text():
    assert format_stats(STATS) == f"{REQUEST}Attention   dense (no --use-psa)"
    psa = {**STATS, **totals(CALLS), "attention": "psa", "config": {}}
    assert format_stats(psa) == f"{REQUEST}Attention   psa\n{SPARSE}"
    mixed = {**psa, "attention": "mix", "triangle_layers": [1, 3]}
    words = "Attention   mix: TriangleMix in layers 1, 3, PSA in the others"
    assert format_stats(mixed) == f"{REQUEST}{words}\n{SPARSE}"
    assert "TriangleMix in layers 1, 3, dense in the others" in format_stats({**mixed, "attention": "trianglemix"})


def test_text_of_video_tokens():
    """A bar a frame, as high as what stayed; of a long clip a bar for some frames each."""
    clips = [{"tokens_of_a_frame": 8, "dropped_of_frames": [0, 8, 4, 7]}]
    video = {"setting": "auto", "tokens": 32, "dropped": 19, "clips": clips}
    lines = format_stats({**STATS, "video_tokens": video}).splitlines()
    assert lines[2] == "Video       19 of 32 video tokens dropped, 59.4% (auto)"
    assert lines[3] == "  frames    |█ ▄▁| 4 of 8 tokens, as high as what stayed"
    clips[0]["dropped_of_frames"] = [0, 8] * 60 + [8] * 120
    assert f"|{'▄' * 30}{' ' * 30}| 240 of 8" in format_stats({**STATS, "video_tokens": video})
    none = {"setting": 0.5, "tokens": 0, "dropped": 0, "clips": []}
    assert "Video       no video tokens to drop" in format_stats({**STATS, "video_tokens": none})


def test_text_of_an_answer_that_was_cut():
    cut = format_stats({**STATS, "finish_reason": "length", "decode_tokens_per_s": None, "new_tokens": 1})
    assert "Decode      -, 1 tokens, cut off at max_tokens\n" in cut
