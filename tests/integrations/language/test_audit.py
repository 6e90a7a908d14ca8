"""The audit of a whole model: every layer of every kind, and what a person reads of it."""

import json

import numpy as np
import pytest
from integrations.language.test_paddleformers import logits_of
from shared_demo import ALL_ONE, LAYERS, ROOT, SPARSE

from psa_paddle import AttentionConfig
from psa_paddle.attention import pyramid_attention
from psa_paddle.integrations.language import choice
from psa_paddle.integrations.language.attention import attention_in, plug_of
from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.integrations.language.inference import QwenVLInference, format_stats
from psa_paddle.stats import totals
from psa_paddle.trianglemix import TriangleMixConfig

ALL_ROWS = 1 << 20
PATTERN = TriangleMixConfig(3, 20, 30)


@pytest.fixture
def no_short_prompts(monkeypatch):
    """The demo's prompts are shorter than what TriangleMix is for."""
    monkeypatch.setattr(choice, "DENSE_UP_TO", 0)


def test_statistics_of_a_video(capsys, tmp_path):
    psa = QwenVLInference(
        "demo", dtype="float32", use_psa=True, psa_config=SPARSE.replace(audit_rows=32), log_dir=tmp_path
    )
    plain = QwenVLInference("demo", dtype="float32", use_psa=True, psa_config=SPARSE)
    question = (ROOT / "demo" / "sample.mp4", "请描述这个视频", 4, 0.5)
    assert psa.inference_video(*question) == plain.inference_video(*question)
    s = psa.stats()
    found = [row["audit"] for row in s["layers"]]
    assert len(found) == LAYERS and all(0 < x["error"] <= x["worst_head_error"] for x in found)
    assert all(0 < x["sampling_error"] < x["error"] for x in found) and json.loads(json.dumps(s)) == s
    psa.print_stats()
    printed = capsys.readouterr().out
    first = found[0]
    assert f"layer   0  {s['layers'][0]['sparsity']:.1%}, error {first['error']:.1%} +- " in printed
    assert f"worst head {first['worst_head']}: {first['worst_head_error']:.1%}" in printed
    assert f"{np.mean([x['error'] for x in found]):.1%} from exact, on average over {LAYERS} audited layers" in printed
    assert s["audit_warning"] and s["audit_warning"] in printed  # these settings keep a fifth of the blocks
    summary = json.loads(next(tmp_path.glob("*_summary.json")).read_text())
    assert summary["audit_warning"] == s["audit_warning"]
    silent = format_stats({**plain.stats(), "model": "x"})
    assert "audit" not in silent.lower() and "error" not in silent and "Warning" not in silent


@pytest.mark.parametrize("batch", [0, 2], ids=["one prompt", "left-padded batch"])
@pytest.mark.parametrize("attention", ["psa", "mix", "trianglemix"])
def test_every_sparse_layer_is_audited(demo, prompts, monkeypatch, no_short_prompts, attention, batch):
    """With all rows audited, the figure is the error of what each layer returned against dense attention."""
    model, _ = demo
    psa = AttentionConfig(backend="eager") if attention == "trianglemix" else SPARSE
    pattern = {} if attention == "psa" else dict(triangle=PATTERN, triangle_layers=[0, 2])
    chosen = AttentionChoice(attention, psa.replace(audit_rows=ALL_ROWS), **pattern)
    with attention_in(model, chosen):
        plug, true = plug_of(model), []

        def prefill(layer, query, key, value, scaling, own=plug._prefill):
            out, call = own(layer, query, key, value, scaling)
            dense = pyramid_attention(
                query, key, value, ALL_ONE, scale=scaling, kv_start=plug._kv_start, heads_last=True
            )
            if call.mode == "sparse":
                lengths = [((x - y).norm(axis=-1), y.norm(axis=-1)) for x, y in zip(out, dense, strict=True)]
                wrong, size = (sum(float(pair[i].sum()) for pair in lengths) for i in (0, 1))
                true.append(wrong / size)
            return out, call

        monkeypatch.setattr(plug, "_prefill", prefill)
        logits_of(model, prompts[batch])
        rows = totals(plug.calls)["layers"]
    audited = [row["audit"] for row in rows if row["audit"]]
    assert len(audited) == len(true) == (2 if attention == "trianglemix" else LAYERS) and min(true) > 0.001
    for found, want in zip(audited, true, strict=True):
        assert found["error"] == pytest.approx(want, rel=1e-3) and found["sampling_error"] == 0
