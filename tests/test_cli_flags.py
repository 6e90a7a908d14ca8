"""Every flag arrives where it belongs: what the command line hands to the model, without a model."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from infer_qwen2_5_vl_psa import main
from PIL import Image
from shared_cli import parser_of
from shared_demo import ROOT

from psa_paddle import AttentionConfig
from psa_paddle.cli import ask as script
from psa_paddle.cli import ask_requests
from psa_paddle.cli.ask_flags import looks_like_video
from psa_paddle.integrations.language.answering.sampling import Sampling
from psa_paddle.integrations.language.families import FAMILIES
from psa_paddle.integrations.language.inference import DEFAULT_MODEL
from psa_paddle.integrations.language.team import Team
from psa_paddle.trianglemix import TriangleMixConfig
from psa_paddle.utils.media import Clip
from psa_paddle.utils.progress import TerminalProgress

VIDEO, IMAGE = str(ROOT / "demo" / "sample.mp4"), str(ROOT / "demo" / "sample.jpg")
STATS = {
    "model": "m", "library": "paddleformers", "device": "cpu", "dtype": "float32", "sequence_length": 3,
    "vision_tokens": 2, "text_tokens": 1, "ttft_s": 0.1, "decode_tokens_per_s": None, "new_tokens": 1,
    "peak_memory_bytes": 1, "finish_reason": "stop", "attention": "dense", "timings_s": {"load": 2.0, "media": 0.0},
}  # fmt: skip


class FakeModel:
    """Notes what it is made with and asked, and answers at once."""

    library, stats = "paddleformers", STATS.copy
    answer, team = "一个菱形", Team()

    def __init__(self, *made, **with_):
        self.made, self.logs, self.asked = (made, with_), [], None
        type(self).last = self

    def inference_multi_image(self, *given, **keywords):
        self.asked = ("image", given, keywords)
        return self.answer

    def inference_video(self, clip, *given, **keywords):
        self.asked = ("video", (clip.source, *given), keywords)
        return self.answer

    def write_log(self, folder):
        self.logs.append(folder)


@pytest.fixture
def ask(monkeypatch):
    """Run the command line; returns the model that it made."""

    def clip(source, progress, downloading, **given):
        found = Clip(np.zeros((2, 28, 28, 3), np.uint8), 1.0)
        found.source = source, given
        return found

    monkeypatch.setattr(script, "QwenVLInference", FakeModel)
    monkeypatch.setattr(ask_requests, "load_video", clip)
    monkeypatch.setattr(ask_requests, "load_image", lambda source, downloading: Path(source))
    monkeypatch.setattr(script, "checkpoint_family", lambda name, *rest: FAMILIES[name == "a Qwen3-VL"])

    def run(*flags):
        assert main(list(flags)) == 0
        return FakeModel.last

    return run


def test_defaults(ask, capsys):
    model = ask("--input", IMAGE)
    wanted = {"cache_dir": None, "library": "paddleformers", "attention": "dense", "budgets": None}
    wanted |= {"psa_config": None, "triangle_config": None, "prefill_chunk": None, "sampling": Sampling()}
    wanted |= {"video_tokens": None, "tensor_parallel": None}
    progress = model.made[1].pop("progress")
    assert model.made == ((DEFAULT_MODEL, None), wanted) and isinstance(progress, TerminalProgress)
    assert model.asked == ("image", ([Path(IMAGE)], "请描述这张图片", 512), {"max_pixels": None, "streamer": None})
    out = capsys.readouterr().out
    assert out.startswith("一个菱形\n\nModel       m  (paddleformers, cpu, float32)\n")
    assert ask("--input", VIDEO).asked == (
        "video",
        ((VIDEO, {"factor": 28}), "请描述这个视频", 512),
        {"streamer": None},
    )
    assert DEFAULT_MODEL == "Qwen/Qwen2.5-VL-7B-Instruct"


def made(model, name):
    positional, keywords = model.made
    return {"model": positional[0], "dtype": positional[1], **keywords}[name]


MADE = {
    "--model": (["--model", "demo"], "model", "demo"),
    "--dtype": (["--dtype", "float16"], "dtype", "float16"),
    "--cache-dir": (["--cache-dir", "there"], "cache_dir", "there"),
    "--library": (["--library", "paddleformers"], "library", "paddleformers"),
    "--use-psa": (["--use-psa"], "attention", "psa"),
    "--attention psa": (["--attention", "psa"], "attention", "psa"),
    "--attention mix": (["--attention", "mix", "--triangle-layers", "1"], "attention", "mix"),
    "--prefill-chunk": (["--prefill-chunk", "256"], "prefill_chunk", 256),
    "--temperature": (["--temperature", "0.7"], "sampling", Sampling(temperature=0.7)),
    "--top-p": (["--top-p", "0.5", "--temperature", "1"], "sampling", Sampling(temperature=1.0, top_p=0.5)),
    "--top-k": (["--top-k", "5"], "sampling", Sampling(top_k=5)),
    "--repetition-penalty": (["--repetition-penalty", "1.2"], "sampling", Sampling(repetition_penalty=1.2)),
    "--seed": (["--seed", "3"], "sampling", Sampling(seed=3)),
    "--tensor-parallel": (["--tensor-parallel", "1"], "tensor_parallel", 1),
}


@pytest.mark.parametrize("case", MADE)
def test_what_the_model_is_made_with(case, ask):
    flags, name, value = MADE[case]
    assert made(ask("--input", IMAGE, *flags), name) == value


@pytest.mark.parametrize("text,value", [("auto", "auto"), ("0.5", 0.5), ("1", 1.0)])
def test_how_many_video_tokens(text, value, ask):
    assert made(ask("--input", VIDEO, "--video-tokens", text), "video_tokens") == value


PSA = {
    "--preset": (["--preset", "fast"], AttentionConfig.preset("fast")),
    "--query-block": (["--query-block", "64"], AttentionConfig(query_block=64)),
    "--key-block": (["--key-block", "32"], AttentionConfig(key_block=32)),
    "--xattn-stride": (["--xattn-stride", "8"], AttentionConfig(xattn_stride=8)),
    "--mask-mode": (["--mask-mode", "topk"], AttentionConfig(mask_mode="topk")),
    "--mask-ratios": (
        ["--mask-ratios", "1:0-0.5,0:0.5-1"],
        AttentionConfig(mask_ratios={1: (0.0, 0.5), 0: (0.5, 1.0)}),
    ),
    "--block-means": (["--block-means"], AttentionConfig(block_means=True)),
    "--text-length": (["--text-length", "20"], AttentionConfig(text_length=20)),
    "--backend": (["--backend", "eager"], AttentionConfig(backend="eager")),
}


@pytest.mark.parametrize("case", PSA)
def test_settings_of_psa(case, ask):
    flags, config = PSA[case]
    assert made(ask("--input", IMAGE, "--use-psa", *flags), "psa_config") == config != AttentionConfig()


TRIANGLE = {
    "--triangle-layers": ([], {}),
    "--num-sink-tokens": (["--num-sink-tokens", "9"], {"num_sink_tokens": 9}),
    "--sliding-window-size": (["--sliding-window-size", "99"], {"sliding_window_size": 99}),
    "--num-last-tokens": (["--num-last-tokens", "77"], {"num_last_tokens": 77}),
}


@pytest.mark.parametrize("case", TRIANGLE)
def test_settings_of_trianglemix(case, ask):
    flags, settings = TRIANGLE[case]
    model = ask("--input", IMAGE, "--attention", "trianglemix", "--triangle-layers", "0,2-3", *flags)
    assert made(model, "triangle_config") == TriangleMixConfig(triangle_layer_indices=[0, 2, 3], **settings)


def test_what_is_asked_about_images(ask):
    flags = ["--prompt", "What differs?", "--max-tokens", "7", "--max-pixels", "2000"]
    model = ask("--input", IMAGE, "b.png", *flags)
    assert model.asked == (
        "image",
        ([Path(IMAGE), Path("b.png")], "What differs?", 7),
        {"max_pixels": 2000, "streamer": None},
    )


def test_what_is_asked_about_a_video(ask):
    flags = ["--fps", "2.5", "--max-frames", "9", "--max-pixels", "2000", "--prompt", "Who?", "--max-tokens", "7"]
    given = {"fps": 2.5, "max_frames": 9, "max_pixels": 2000, "factor": 28}
    assert ask("--input", VIDEO, *flags).asked == ("video", ((VIDEO, given), "Who?", 7), {"streamer": None})
    assert ask("--input", VIDEO, "--model", "a Qwen3-VL").asked[1][0] == (VIDEO, {"factor": 32})


def test_stream(ask, monkeypatch, capsys):
    monkeypatch.setattr(script, "text_streamer", lambda model: "streamer")
    for source in (IMAGE, VIDEO):
        assert ask("--input", source, "--stream").asked[2]["streamer"] == "streamer"
        assert "一个菱形" not in capsys.readouterr().out  # the streamer has printed it


KINDS = {
    "a.mp4": True, "A.MKV": True, "clip.webm?x": False, "https://a/b.mov?token=1.jpg": True, "http://a/b": False,
    "a.jpg": False, "a.gif": False, "a.mp4.png": False, "nothing": False,
}  # fmt: skip


@pytest.mark.parametrize("source", KINDS)
def test_the_kind_by_its_name(source):
    assert looks_like_video(source) == KINDS[source]


def test_the_kind_by_its_content(tmp_path, ask):
    clip, picture = tmp_path / "clip", tmp_path / "picture"
    clip.write_bytes(Path(VIDEO).read_bytes()[:99])
    picture.write_bytes(Path(IMAGE).read_bytes()[:99])
    heads = {"mkv": b"\x1aE\xdf\xa3" + bytes(9), "avi": b"RIFF\0\0\0\0AVI LIST", "heic": b"\0\0\0\x18ftypheic\0\0\0\0"}
    for name, head in {**heads, "webp": b"RIFF\0\0\0\0WEBPVP8 "}.items():
        (tmp_path / name).write_bytes(head)
    assert looks_like_video(str(clip)) and not looks_like_video(str(picture))
    assert [looks_like_video(str(tmp_path / name)) for name in ("mkv", "avi", "heic", "webp")] == [1, 1, 0, 0]
    assert ask("--input", str(clip)).asked[0] == "video" and ask("--input", str(picture)).asked[0] == "image"
    assert ask("--input", str(picture), "--type", "video").asked[0] == "video"


def test_home_is_expanded(monkeypatch, tmp_path, ask, capsys):
    (tmp_path / "clip").write_bytes(Path(VIDEO).read_bytes()[:99])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ask("--input", "~/clip", "--stats-json", "~/s.json").asked[0] == "video"
    written = json.loads((tmp_path / "s.json").read_text())
    assert written.pop("timings_s")["media"] > 0 and written == {k: v for k, v in STATS.items() if k != "timings_s"}
    Image.new("RGB", (60, 60)).save(tmp_path / "a.png")
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path))
    capsys.readouterr()
    assert main(["--model", "~/none", "--input", "~/a.png"]) == 2
    assert f"'{tmp_path / 'none'}' is neither a folder here" in capsys.readouterr().err


def test_the_answer_comes_before_extras_that_fail(ask, monkeypatch, capsys, tmp_path):
    def cannot(self, folder):
        raise OSError("disk quota")

    monkeypatch.setattr(FakeModel, "write_log", cannot)
    flags = ["--input", IMAGE, "--use-psa", "--stats-json", "/dev/full", "--log-dir", str(tmp_path / "log")]
    assert main(flags) == 5
    streams = capsys.readouterr()
    assert streams.out.startswith("一个菱形\n\nModel ")
    assert streams.err == (
        "error: --stats-json could not be written: [Errno 28] No space left on device. "
        "--log-dir could not be written: disk quota.\n"
    )
    assert Path("/dev/full").is_char_device()


def test_the_log_is_written_where_it_is_wanted(ask, tmp_path):
    assert ask("--input", IMAGE, "--use-psa", "--log-dir", str(tmp_path / "log")).logs == [tmp_path / "log"]
    assert ask("--input", IMAGE).logs == []


def test_no_memory_no_network(ask, monkeypatch, capsys):
    def fail(error):
        monkeypatch.setattr(FakeModel, "inference_multi_image", lambda *given, **keywords: (_ for _ in ()).throw(error))

    fail(MemoryError("(ResourceExhausted) Fail to alloc memory"))
    assert main(["--input", IMAGE]) == 3
    fail(ConnectionError("gone"))
    assert main(["--input", IMAGE]) == 4
    fail(KeyboardInterrupt())
    assert main(["--input", IMAGE]) == 130
    streams = capsys.readouterr()
    first, second, third = streams.err.splitlines()
    assert first.startswith("error: not enough memory; ") and "--max-pixels" in first and "--max-frames" in first
    assert second == "error: gone" and third == "interrupted" and streams.out == ""


def test_help_says_the_exit_codes(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    for code in ("2 bad input", "3 not enough memory", "4 the network", "5 answered, but", "130 Ctrl-C"):
        assert code in words


def test_the_readme_lists_every_flag():
    """Those of the question, and after them what calibrate_psa.py has beside them."""
    parts = (ROOT / "qwen2.5-vl" / "README.md").read_text(encoding="utf-8").split("calibrate_psa.py --type")
    written = [set(re.findall(r"--[\w-]+", " ".join(re.findall(r"^\| (`--.*?) \|", p, re.M)))) for p in parts]
    flags = [
        {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")} - {"--help"}
        for parser in (parser_of("ask"), parser_of("calibrate"))
    ]
    assert written[0] == flags[0] and written[1] <= flags[1] and not flags[1] - written[1] - flags[0]


def test_leaves_the_log_as_it_was(ask):
    log = logging.getLogger("psa_paddle")
    before = log.level, log.propagate, list(log.handlers)
    ask("--input", IMAGE)
    assert (log.level, log.propagate, list(log.handlers)) == before
