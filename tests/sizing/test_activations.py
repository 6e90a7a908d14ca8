"""Activations by formula against the measured prefill of a Qwen2.5-VL-7B-shaped model."""

import pytest
from shared_results import rows_of

from psa_paddle import AttentionConfig
from psa_paddle.sizing import KNOWN, Request, cache_bytes, layer_bytes

SEVEN = KNOWN["Qwen2.5-VL-7B"]


@pytest.mark.parametrize("row", rows_of("prefill_memory.csv"), ids=lambda row: "-".join(list(row.values())[5:8]))
def test_activations_are_about_the_measured_ones(row):
    """transformers holds one tensor of the MLP less than PaddleFormers."""
    request = Request(int(row["L"]), chunk=int(row["chunk"]) or None)
    config = None if row["attention"] == "dense" else AttentionConfig.preset(row["attention"], text_length=64)
    cache = cache_bytes(SEVEN, request) / SEVEN.layers * int(row["layers"])
    assert cache / 2**20 == pytest.approx(float(row["cache_mib"]), rel=1e-3)
    got = layer_bytes(SEVEN, request, config, mlp_tensors=3) / 2**20
    assert got == pytest.approx(float(row["activations_mib"]), rel=0.02)
