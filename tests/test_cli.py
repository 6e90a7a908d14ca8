"""The command line: answers on stdout, one sentence on stderr for bad input, nothing half-written."""

import json

import numpy as np
import pytest
from infer_qwen2_5_vl_psa import main
from shared_cli import parser_of
from shared_demo import ROOT
from shared_http import Stream, folder, serving

from psa_paddle import AttentionConfig
from psa_paddle.cli.model_flags import parse_layers, parse_ratios, psa_config

VIDEO, IMAGE = str(ROOT / "demo" / "sample.mp4"), str(ROOT / "demo" / "sample.jpg")
ASK = ["--model", "demo", "--dtype", "float32", "--max-tokens", "4", "--prompt", "请描述"]
ON_IMAGE = [*ASK, "--input", IMAGE]
ON_VIDEO = [*ASK, "--type", "video", "--input", VIDEO, "--fps", "0.5"]


def test_video_with_psa(capsys, tmp_path):
    stats = tmp_path / "stats.json"
    flags = ["--use-psa", "--query-block", "64", "--key-block", "32", "--xattn-stride", "8", "--backend", "eager"]
    ratios = ["--mask-ratios", "1:0-0.2,4:0.2-0.5,0:0.5-1", "--mask-mode", "topk", "--text-length", "20"]
    # 1,404 vision tokens: long enough to run sparse
    video = [*ASK, "--type", "video", "--input", VIDEO, "--max-frames", "26"]
    assert main([*video, *flags, *ratios, "--stats-json", str(stats), "--log-dir", str(tmp_path / "log")]) == 0
    out = capsys.readouterr().out
    saved = json.loads(stats.read_text())
    assert saved["average_sparsity"] > 0.1 and f"{saved['average_sparsity']:.1%} of the attention work" in out
    assert saved["config"]["mask_mode"] == "topk" and saved["config"]["query_block"] == 64
    assert saved["vision_tokens"] == 26 // 2 * 9 * 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "stats.json"]
    assert len(list((tmp_path / "log").iterdir())) == 2


def settings(*flags):
    return psa_config(parser_of("ask").parse_args(["--input", "x.mp4", "--use-psa", *flags]))


def test_preset_and_single_flags():
    assert settings() == settings("--preset", "balanced") == AttentionConfig()
    assert settings("--preset", "fast") == AttentionConfig.preset("fast") != AttentionConfig()
    assert settings("--mask-mode", "topk_sqrt") == AttentionConfig(mask_mode="topk_sqrt")
    assert settings("--no-block-means") == AttentionConfig(block_means=False)
    flags = ["--mask-ratios", "1:0-0.5,0:0.5-1", "--key-block", "32", "--block-means"]
    wanted = AttentionConfig.preset("seed", mask_ratios={1: (0.0, 0.5), 0: (0.5, 1.0)}, key_block=32, block_means=True)
    assert settings("--preset", "seed", *flags) == wanted


def test_audit_takes_a_number_of_rows_or_the_usual_one():
    assert settings("--audit") == AttentionConfig(audit_rows=64)
    assert settings("--audit", "32", "--preset", "fast") == AttentionConfig.preset("fast", audit_rows=32)
    triangle = ["--input", "x.mp4", "--attention", "trianglemix", "--triangle-layers", "1", "--audit"]
    assert psa_config(parser_of("ask").parse_args(triangle)) == AttentionConfig(audit_rows=64)


def test_help_names_the_presets(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "quality, balanced, fast, seed (default: balanced)" in " ".join(capsys.readouterr().out.split())


def test_video_with_both_attentions(capsys, tmp_path):
    stats = tmp_path / "stats.json"
    video = [*ASK, "--type", "video", "--input", VIDEO, "--fps", "2"]  # more than 2,048 tokens
    pattern = ["--num-sink-tokens", "8", "--sliding-window-size", "100", "--num-last-tokens", "50"]
    flags = ["--attention", "mix", "--triangle-layers", "1-2", *pattern, "--query-block", "64", "--backend", "eager"]
    assert main([*video, *flags, "--stats-json", str(stats)]) == 0
    saved = json.loads(stats.read_text())
    assert "mix: TriangleMix in layers 1, 2, PSA in the others" in capsys.readouterr().out
    assert saved["attention"] == "mix" and saved["triangle_layers"] == [1, 2] and saved["sequence_length"] > 2048
    assert saved["config"]["query_block"] == 64 and saved["config"]["trianglemix"]["sliding_window_size"] == 100
    assert saved["layers_dense"] == 0
    n = saved["sequence_length"]
    rows = np.arange(1, n + 1)
    seen = np.where(n - rows + 1 < 50, rows, np.minimum(rows, 8 + 100 + 2)).sum()
    sparsity = [row["sparsity"] for row in saved["layers"]]
    assert sparsity[1] == sparsity[2] == pytest.approx(1 - seen / rows.sum()) and sparsity[0] != sparsity[1]


def test_stream_prints_the_same_answer(capsys):
    whole = [*ON_IMAGE, "--prompt", "请描述这张图片", "--max-tokens", "60"]
    assert main(whole) == 0
    answer = capsys.readouterr().out.split("\n\n")[0]
    assert answer == "左上角有一个小的白色菱形,右上角有一个小的绿色星形,右边有一个小的粉色十字形,还有一张写着31的卡片。"
    assert main([*whole, "--stream"]) == 0
    assert capsys.readouterr().out.split("\n\n")[0].strip() == answer


def test_two_images_with_few_pixels(capsys):
    assert main([*ASK, "--input", IMAGE, IMAGE, "--max-pixels", "20000"]) == 0
    assert " 40 vision" in capsys.readouterr().out  # 96 without the limit


def write(path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def cut(path, source, share=0.5) -> str:
    data = open(source, "rb").read()
    return write(path, data[: int(len(data) * share)])


PSA = [*ON_IMAGE, "--use-psa"]
MIX = [*ON_IMAGE, "--attention", "mix"]
REFUSED = {
    "library that is not installed": (lambda d: [*ON_IMAGE, "--library", "paddlemix"], "paddlemix is not installed"),
    "missing file": (lambda d: [*ASK, "--input", str(d / "no.jpg")], "does not exist"),
    "directory": (lambda d: [*ASK, "--input", str(d)], "is a folder"),
    "empty file": (lambda d: [*ASK, "--input", write(d / "a.jpg", b"")], "is empty"),
    "text named .jpg": (lambda d: [*ASK, "--input", write(d / "a.jpg", b"text")], "not an image file"),
    "truncated mp4": (lambda d: [*ASK, "--type", "video", "--input", cut(d / "a.mp4", VIDEO)], "truncated"),
    "mp4 cut in its index": (
        lambda d: [*ASK, "--type", "video", "--input", cut(d / "a.mp4", VIDEO, 0.01)],
        "truncated",
    ),
    "video without frames": (
        lambda d: [*ASK, "--type", "video", "--input", str(ROOT / "tests" / "golden" / "no_frames.mp4")],
        "has no frames",
    ),
    "fps 0": (lambda d: [*ASK, "--type", "video", "--input", VIDEO, "--fps", "0"], "fps must be a number above 0"),
    "fps for an image": (lambda d: [*ON_IMAGE, "--fps", "1"], "--fps is for --type video"),
    "stream and json": (lambda d: [*ON_IMAGE, "--json", "--stream"], "--stream prints text"),
    "prefill-chunk 100": (lambda d: [*ON_IMAGE, "--prefill-chunk", "100"], "prefill_chunk must be at least 128"),
    "top-p alone": (lambda d: [*ON_IMAGE, "--top-p", "0.5"], "top_p does nothing at temperature 0"),
    "max-tokens 0": (lambda d: [*ON_IMAGE, "--max-tokens", "0"], "max_tokens must be at least 1"),
    "max-pixels 5": (lambda d: [*ON_IMAGE, "--max-pixels", "5"], "--max-pixels must be at least 784"),
    "empty prompt": (lambda d: [*ON_IMAGE, "--prompt", " "], "prompt is empty"),
    "query-block 100": (lambda d: [*PSA, "--query-block", "100"], "query_block must be one of 64, 128, got 100"),
    "audit of 5 rows": (lambda d: [*PSA, "--audit", "5"], "audit_rows must be 0 or at least 16, got 5"),
    "audit of dense attention": (lambda d: [*ON_IMAGE, "--audit"], "--audit does nothing without --use-psa"),
    "unknown preset": (lambda d: [*PSA, "--preset", "turbo"], "no preset 'turbo'; use quality, balanced, fast, seed"),
    "preset without --use-psa": (lambda d: [*ON_IMAGE, "--preset", "fast"], "--preset does nothing without --use-psa"),
    "overlapping ratios": (lambda d: [*PSA, "--mask-ratios", "1:0-0.6,0:0.5-1"], "overlaps its neighbour"),
    "gapped ratios": (lambda d: [*PSA, "--mask-ratios", "1:0-0.4,0:0.5-1"], "leaves a gap"),
    "unknown level": (lambda d: [*PSA, "--mask-ratios", "1:0-0.4,3:0.4-1"], "names level 3"),
    "ratios that are no ratios": (lambda d: [*PSA, "--mask-ratios", "half"], "must look like LEVEL:FROM-TO"),
    "a level twice": (lambda d: [*PSA, "--mask-ratios", "1:0-0.4,1:0.4-1"], "names level 1 twice"),
    "psa flag without --use-psa": (lambda d: [*ON_IMAGE, "--key-block", "32"], "does nothing without --use-psa"),
    "psa flag with trianglemix": (
        lambda d: [*ON_IMAGE, "--attention", "trianglemix", "--triangle-layers", "1", "--key-block", "32"],
        "--key-block does nothing",
    ),
    "two attentions": (lambda d: [*MIX, "--use-psa", "--triangle-layers", "1"], "contradicts --attention mix"),
    "mix without layers": (lambda d: MIX, "need --triangle-layers"),
    "layers without mix": (lambda d: [*PSA, "--triangle-layers", "1"], "does nothing without --attention trianglemix"),
    "layers that are no numbers": (lambda d: [*MIX, "--triangle-layers", "1,two"], "part 'two' must look like"),
    "layers backwards": (lambda d: [*MIX, "--triangle-layers", "5-3"], "part '5-3' must look like"),
    "a layer twice": (lambda d: [*MIX, "--triangle-layers", "1,0-2"], "names a layer twice"),
    "a layer that the model lacks": (lambda d: [*MIX, "--triangle-layers", "99"], "exceed"),
    "negative window": (
        lambda d: [*MIX, "--triangle-layers", "1", "--sliding-window-size", "-1"],
        "sliding_window_size must be at least 0",
    ),
    "triton without a GPU": (lambda d: [*PSA, "--backend", "triton"], "needs an NVIDIA GPU"),
    "model without config": (lambda d: [*ON_IMAGE, "--model", str(d)], "has no config.json"),
    "no such model": (lambda d: [*ON_IMAGE, "--model", str(d / "x")], "neither a folder here nor a hub name"),
    "ftp": (lambda d: [*ASK, "--type", "video", "--input", "ftp://a/b.mp4"], "not http or https"),
    "stats in no folder": (lambda d: [*ON_IMAGE, "--stats-json", str(d / "no" / "s.json")], "make it first"),
}


@pytest.mark.parametrize("case", REFUSED, ids=list(REFUSED))
def test_refuses(case, tmp_path, capsys):
    make, words = REFUSED[case]
    arguments = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments) == 2
    streams = capsys.readouterr()
    lines = [line for line in streams.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and words in lines[0] and "Traceback" not in streams.err
    assert streams.out == "" and sorted(tmp_path.rglob("*")) == before


def test_url_that_answers_404(capsys):
    with serving(folder(ROOT / "demo")) as address:
        assert main([*ASK, "--input", f"{address}/no.jpg"]) == 2
        assert "answered 404" in capsys.readouterr().err
        assert main([*ASK, "--type", "video", "--input", f"{address}/sample.mp4", "--fps", "0.2"]) == 0
        assert "vision" in capsys.readouterr().out


def test_url_that_announces_too_much(capsys):
    with serving(type("Huge", (Stream,), {"mebibytes": 65, "body": False})) as address:
        assert main([*ASK, "--input", f"{address}/x.jpg"]) == 2
        assert "is larger than 64 MiB" in capsys.readouterr().err


def test_bfloat16_falls_back_and_says_so(capsys):
    assert main([*ON_IMAGE, "--dtype", "bfloat16"]) == 0
    streams = capsys.readouterr()
    assert "bfloat16 is not supported on this device" in streams.err and "float32" in streams.out


def test_parse_ratios():
    assert parse_ratios("1:0-0.6,0:0.6-1") == {1: (0.0, 0.6), 0: (0.6, 1.0)}


def test_parse_layers():
    assert parse_layers("2,5,8-11") == [2, 5, 8, 9, 10, 11] and parse_layers("0") == [0]
