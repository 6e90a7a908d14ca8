"""QwenVLInference on the bundled checkpoint."""

import json

import numpy as np
import pytest
from PIL import Image
from shared_demo import ALL_ONE, LAYERS, ROOT, SPARSE

from psa_paddle.integrations.language import inference
from psa_paddle.integrations.language.attention import plug_of, restore_attention
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.utils.media import load_video

VIDEO, IMAGE = ROOT / "demo" / "sample.mp4", ROOT / "demo" / "sample.jpg"


@pytest.fixture(scope="module")
def dense():
    return QwenVLInference("demo", dtype="float32")


@pytest.fixture(scope="module")
def sparse():
    return QwenVLInference("demo", dtype="float32", use_psa=True, psa_config=SPARSE)


def test_video_with_all_blocks_at_level_one_answers_as_dense(dense):
    psa = QwenVLInference("demo", dtype="float32", use_psa=True, psa_config=ALL_ONE)
    question = {"prompt": "请描述这个视频", "max_tokens": 12, "fps": 0.5}
    answer = dense.inference_video(VIDEO, **question)
    assert answer and psa.inference_video(VIDEO, **question) == answer
    assert not dense.use_psa and psa.use_psa


def test_statistics_of_a_video(sparse):
    with pytest.raises(RuntimeError, match="before the first request"):
        QwenVLInference.stats(type("Fresh", (), {"_last": None})())
    sparse.inference_video(VIDEO, "请描述这个视频", max_tokens=5, fps=0.5)
    s = sparse.stats()
    assert s["sequence_length"] == s["vision_tokens"] + s["text_tokens"] and s["vision_tokens"] == 14 // 2 * 9 * 12
    assert s["layers_sparse"] == LAYERS and len(s["layers"]) == LAYERS and 0.1 < s["average_sparsity"] < 1
    assert s["ttft_s"] > 0 and s["decode_tokens_per_s"] > 0 and s["new_tokens"] == 5
    assert s["peak_memory_bytes"] > 50 << 20
    assert json.loads(json.dumps(s)) == s
    sparse.inference_image(IMAGE, "What is this?", max_tokens=1)
    assert sparse.stats()["decode_tokens_per_s"] is None and sparse.stats()["sequence_length"] < s["sequence_length"]


def test_print_stats(sparse, capsys):
    sparse.inference_image(IMAGE, "What is this?", max_tokens=2)
    sparse.print_stats()
    printed = capsys.readouterr().out
    for words in ("vision", "first token", "tokens/s", "MiB", "skipped", f"{LAYERS} sparse, 0 dense", "layer   3"):
        assert words in printed


def test_short_prompt_says_why_it_ran_dense(capsys):
    psa = QwenVLInference("demo", dtype="float32", use_psa=True)
    psa.inference_image(IMAGE, "What is this?", max_tokens=1)
    psa.print_stats()
    assert f"{LAYERS} calls: shorter than 1024 keys" in capsys.readouterr().out
    assert psa.stats()["layers_dense"] == LAYERS


def test_image_sources_give_one_answer(dense):
    image = Image.open(IMAGE)
    answers = {dense.inference_image(x, "What is this?", 6) for x in (IMAGE, str(IMAGE), image, np.asarray(image))}
    assert len(answers) == 1


def test_several_images_and_fewer_pixels(dense):
    dense.inference_multi_image([IMAGE, IMAGE], "Compare them.", 1)
    both = dense.stats()["vision_tokens"]
    dense.inference_image(IMAGE, "Compare them.", 1)
    assert both == 2 * dense.stats()["vision_tokens"]
    dense.inference_image(IMAGE, "Compare them.", 1, max_pixels=28 * 28 * 20)
    assert dense.stats()["vision_tokens"] <= 20


def test_clip_that_is_read_already(dense):
    clip = load_video(VIDEO, fps=0.5)
    assert dense.inference_video(clip, "Which way?", 4) == dense.inference_video(VIDEO, "Which way?", 4, fps=0.5)


def test_log_dir(tmp_path):
    psa = QwenVLInference("demo", dtype="float32", use_psa=True, psa_config=SPARSE, log_dir=tmp_path)
    psa.inference_video(VIDEO, "What is this?", 3, fps=0.5)
    lines = [json.loads(line) for line in next(tmp_path.glob("*.jsonl")).read_text().splitlines()]
    assert [line["layer"] for line in lines] == list(range(LAYERS)) and lines[0]["sparsity"] > 0
    summary = json.loads(next(tmp_path.glob("*_summary.json")).read_text())
    assert summary["average_sparsity"] == pytest.approx(psa.stats()["average_sparsity"], abs=1e-5)


def test_restored_model_answers_dense(dense, sparse):
    question = ("请描述这个视频", 6, 0.5)
    psa = QwenVLInference("demo", dtype="float32", use_psa=True, psa_config=SPARSE)
    restore_attention(psa.model)
    assert plug_of(psa.model) is None
    assert psa.inference_video(VIDEO, *question) == dense.inference_video(VIDEO, *question)
    assert not psa.stats()["use_psa"]


@pytest.mark.parametrize(
    "arguments,error,words",
    [
        (("", 5), ValueError, "prompt is empty"),
        ((None, 5), TypeError, "must be a string"),
        (("a <|image_pad|> b", 5), ValueError, "special token"),
        (("What?", 0), ValueError, "max_tokens must be at least 1"),
        (("What?", 1.5), TypeError, "max_tokens must be an integer"),
    ],
    ids=["empty prompt", "no prompt", "special token", "no tokens", "half a token"],
)
def test_refuses_requests(dense, arguments, error, words):
    with pytest.raises(error, match=words):
        dense.inference_image(IMAGE, *arguments)


def test_refuses_no_images(dense):
    with pytest.raises(ValueError, match="at least one image"):
        dense.inference_multi_image([], "What?")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_that_the_device_lacks_falls_back(dtype, caplog):
    model = QwenVLInference("demo", dtype=dtype)
    assert model.dtype == "float32" and f"{dtype} is not supported" in caplog.text
    assert {str(p.dtype) for p in model.model.parameters()} == {"paddle.float32"}


def test_fewer_video_tokens_need_paddleformers(monkeypatch):
    monkeypatch.setattr(inference, "check_library", lambda library: "paddlemix")
    with pytest.raises(ValueError, match="video_tokens needs library 'paddleformers'"):
        QwenVLInference("demo", video_tokens=0.5)


def test_refuses_settings_without_effect():
    with pytest.raises(ValueError, match="do nothing without use_psa"):
        QwenVLInference("demo", psa_config=SPARSE)


def bad_models(folder):
    (folder / "bare").mkdir()
    (folder / "no_weights").mkdir()
    (folder / "no_weights" / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    for name, kind in (("other", "bert"), ("empty weights", "qwen2_5_vl"), ("empty text", "llama")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"model_type": kind}))
        (folder / name / "model.safetensors").write_bytes(b"")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    (folder / "broken" / "model.safetensors").write_bytes(b"")


@pytest.mark.parametrize(
    "name,words",
    [
        ("bare", "no config.json"),
        ("no_weights", "no weights"),
        ("other", "could not be loaded: it is a 'bert' model, not Qwen2.5-VL, Qwen3-VL, Llama, .* or Qwen3-MoE[.]$"),
        ("empty weights", "could not be loaded: "),
        ("empty text", "could not be loaded: "),
        ("broken", "could not be loaded"),
        ("missing", "neither a folder here nor a hub name"),
    ],
)
def test_refuses_models(name, words, tmp_path):
    bad_models(tmp_path)
    with pytest.raises(ValueError, match=words):
        QwenVLInference(str(tmp_path / name))
