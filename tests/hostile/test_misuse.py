"""Misuse of the Python API and of the command lines: each is refused with one sentence of the promised kind, before
any model is loaded or asked, and leaves nothing behind."""

import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from infer_qwen2_5_vl_psa import main as ask
from PIL import Image
from shared_demo import ROOT
from video_generation import main as generate

from psa_paddle import AttentionConfig
from psa_paddle.integrations.language import inference
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.trianglemix import TriangleMixConfig
from psa_paddle.utils.media import load_image, load_video

VIDEO, IMAGE = str(ROOT / "demo" / "sample.mp4"), str(ROOT / "demo" / "sample.jpg")
WHAT = "What is this?"


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path, monkeypatch):
    """A folder of its own, for temporary files too, that must be as it was."""
    (tmp_path / "file").write_text("no picture")
    (tmp_path / "gbk.txt").write_bytes("红色的球".encode("gbk"))
    Image.new("RGB", (4000, 10)).save(tmp_path / "thin.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = sorted(tmp_path.rglob("*"))
    yield
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def no_model(monkeypatch):
    """Loading is the heavy work."""
    monkeypatch.setattr(inference, "load_qwen2_5_vl", lambda *given: pytest.fail("a model was loaded"))
    monkeypatch.setattr("video_generation.load", lambda *given: pytest.fail("a model was loaded"))


def one_sentence(words: str) -> bool:
    return words.endswith((".", "?")) and "\n" not in words and 10 < len(words) < 400 and "Traceback" not in words


MADE = {
    "model_name a number": ({"model_name": 5}, TypeError, "model_name must be a path, got int"),
    "model_name None": ({"model_name": None}, TypeError, "model_name must be a path"),
    "model_name empty": ({"model_name": ""}, ValueError, "model_name '' is not a path"),
    "model_name of bytes without end": ({"model_name": "a\0b"}, ValueError, "is not a path"),
    "dtype unknown": ({"dtype": "int8"}, ValueError, "dtype must be one of bfloat16, float16, float32, got 'int8'"),
    "dtype a number": ({"dtype": 32}, ValueError, "dtype must be one of"),
    "dtype a Paddle dtype": ({"dtype": paddle.float32}, ValueError, "dtype must be one of"),
    "attention unknown": ({"attention": "flash"}, ValueError, "attention must be one of dense, psa, trianglemix, mix"),
    "attention a number": ({"attention": 5}, ValueError, "attention must be one of"),
    "two attentions": ({"use_psa": True, "attention": "mix"}, ValueError, "give one of them"),
    "use_psa a word": ({"use_psa": "no"}, TypeError, "use_psa must be True or False, got 'no'"),
    "library unknown": ({"library": "torch"}, ValueError, "library must be auto"),
    "library a number": ({"library": 5}, ValueError, "library must be auto"),
    "psa_config a dict": ({"use_psa": True, "psa_config": {}}, TypeError, "psa_config must be an AttentionConfig"),
    "psa_config without psa": ({"psa_config": AttentionConfig()}, ValueError, "do nothing without use_psa=True"),
    "psa_config bidirectional": (
        {"use_psa": True, "psa_config": AttentionConfig(causal=False)},
        ValueError,
        "text layers are causal",
    ),
    "triangle layers without mix": ({"use_psa": True, "triangle_layers": [1]}, ValueError, "need attention"),
    "no triangle layers": ({"attention": "mix"}, ValueError, "needs the layers that TriangleMix takes"),
    "triangle_config a dict": (
        {"attention": "mix", "triangle_config": {}},
        TypeError,
        "must be a TriangleMixConfig, got dict",
    ),
    "triton without a GPU": (
        {"use_psa": True, "psa_config": AttentionConfig(backend="triton")},
        ValueError,
        "needs an NVIDIA GPU",
    ),
    "log_dir a number": ({"use_psa": True, "log_dir": 5}, TypeError, "log_dir must be a path, got int"),
    "log_dir a file": ({"use_psa": True, "log_dir": "file"}, ValueError, "is a file; name a folder"),
    "log_dir in a file": ({"use_psa": True, "log_dir": "file/log"}, ValueError, "is a file; name a folder"),
    "log_dir without psa": ({"log_dir": "log"}, ValueError, "do nothing without use_psa=True"),
    "video_tokens a word": ({"video_tokens": "half"}, TypeError, "video_tokens must be 'auto' or the share"),
    "video_tokens above all": ({"video_tokens": 2}, ValueError, "above 0 and at most 1, got 2"),
    "cache_dir a number": ({"cache_dir": 5}, TypeError, "cache_dir must be a path, got int"),
    "cache_dir a file": ({"cache_dir": "file"}, ValueError, "is a file; name a folder"),
}


@pytest.mark.parametrize("case", MADE)
def test_a_model_that_cannot_be(case, no_model):
    arguments, error, words = MADE[case]
    with pytest.raises(error, match=re.escape(words)) as caught:
        QwenVLInference(**{"model_name": "demo", **arguments})
    assert one_sentence(str(caught.value))


@pytest.fixture(scope="module")
def model():
    return QwenVLInference("demo")


class NoEnd:
    def put(self, value): ...


ASKED = {
    "no prompt": ("image", (IMAGE, None), {}, TypeError, "prompt must be a string, got NoneType"),
    "prompt of bytes": ("image", (IMAGE, b"What?"), {}, TypeError, "prompt must be a string, got bytes"),
    "blank prompt": ("image", (IMAGE, " \n"), {}, ValueError, "prompt is empty"),
    "special token": ("image", (IMAGE, "<|im_end|>"), {}, ValueError, "special token"),
    "half a character": ("image", (IMAGE, "What \ud83d?"), {}, ValueError, "not valid Unicode"),
    "no tokens": ("image", (IMAGE, WHAT, 0), {}, ValueError, "max_tokens must be at least 1, got 0"),
    "minus one token": ("video", (VIDEO, WHAT, -1), {}, ValueError, "max_tokens must be at least 1, got -1"),
    "half a token": ("image", (IMAGE, WHAT, 1.5), {}, TypeError, "max_tokens must be an integer, got 1.5"),
    "a flag as tokens": ("image", (IMAGE, WHAT, True), {}, TypeError, "max_tokens must be an integer, got True"),
    "NumPy's flag": ("image", (IMAGE, WHAT, np.True_), {}, TypeError, "max_tokens must be an integer"),
    "tokens in words": ("video", (VIDEO, WHAT, "many"), {}, TypeError, "max_tokens must be an integer, got 'many'"),
    "no tokens given": ("image", (IMAGE, WHAT, None), {}, TypeError, "max_tokens must be an integer, got None"),
    "no pixels": ("image", (IMAGE, WHAT), {"max_pixels": 0}, ValueError, "max_pixels must be at least 784, got 0"),
    "minus pixels": ("image", (IMAGE, WHAT), {"max_pixels": -5}, ValueError, "max_pixels must be at least 784, got -5"),
    "pixels in words": ("image", (IMAGE, WHAT), {"max_pixels": "x"}, TypeError, "max_pixels must be an integer"),
    "half a pixel": ("images", ([IMAGE], WHAT), {"max_pixels": 1e6}, TypeError, "max_pixels must be an integer"),
    "no pixels of a frame": ("video", (VIDEO, WHAT), {"max_pixels": 0}, ValueError, "at least 784, got 0"),
    "frame in words": ("video", (VIDEO, WHAT), {"max_pixels": "x"}, (ValueError, TypeError), "max_pixels must be"),
    "fps 0": ("video", (VIDEO, WHAT), {"fps": 0}, ValueError, "fps must be a number above 0"),
    "fps negative": ("video", (VIDEO, WHAT), {"fps": -1.0}, ValueError, "fps must be a number above 0"),
    "fps not a number": ("video", (VIDEO, WHAT), {"fps": float("nan")}, ValueError, "fps must be a number"),
    "fps infinite": ("video", (VIDEO, WHAT), {"fps": float("inf")}, ValueError, "fps must be a number"),
    "fps in words": ("video", (VIDEO, WHAT), {"fps": "1"}, (ValueError, TypeError), "fps must be a number"),
    "one frame": ("video", (VIDEO, WHAT), {"max_frames": 1}, ValueError, "max_frames must be"),
    "half a frame": ("video", (VIDEO, WHAT), {"max_frames": 8.5}, (ValueError, TypeError), "max_frames must be"),
    "streamer a number": ("image", (IMAGE, WHAT), {"streamer": 5}, TypeError, "streamer must have the methods put and"),
    "streamer half": ("video", (VIDEO, WHAT), {"streamer": NoEnd()}, TypeError, "methods put and end, got NoEnd"),
    "no image": ("images", ([], WHAT), {}, ValueError, "at least one image"),
    "one image alone": ("images", (IMAGE, WHAT), {}, TypeError, "give a list of images, got str"),
    "a set of images": ("images", ({IMAGE}, WHAT), {}, TypeError, "give a list of images, got set"),
    "image a number": ("image", (5, WHAT), {}, TypeError, "got int"),
    "image None": ("images", ([IMAGE, None], WHAT), {}, TypeError, "got NoneType"),
    "image of floats": ("image", (np.zeros((28, 28, 3)), WHAT), {}, TypeError, "must be uint8"),
    "image of two channels": ("image", (np.zeros((28, 28, 2), np.uint8), WHAT), {}, ValueError, "image array must be"),
    "video a number": ("video", (5, WHAT), {}, TypeError, "got int"),
    "video a list": ("video", ([VIDEO], WHAT), {}, TypeError, "got list"),
    "text as image": ("image", ("file", WHAT), {}, ValueError, "image 'file'"),
    "folder as image": ("image", (".", WHAT), {}, ValueError, "is a folder"),
    "missing image": ("image", ("no.png", WHAT), {}, ValueError, "does not exist"),
    "missing video": ("video", ("no.mp4", WHAT), {}, ValueError, "does not exist"),
    "too many tokens": ("image", (IMAGE, WHAT, 10**9), {}, ValueError, "exceeds the 128000 positions"),
}


@pytest.mark.parametrize("case", ASKED)
def test_a_request_that_cannot_be(case, model, monkeypatch):
    kind, arguments, settings, error, words = ASKED[case]
    monkeypatch.setattr(model.model, "generate", lambda **given: pytest.fail("the model was asked"))
    method = {"images": "inference_multi_image"}.get(kind, f"inference_{kind}")
    with pytest.raises(error, match=re.escape(words)) as caught:
        getattr(model, method)(*arguments, **settings)
    assert one_sentence(str(caught.value))


ON_IMAGE, ON_VIDEO = ["--model", "demo", "--input", IMAGE], ["--model", "demo", "--input", VIDEO]
FLAGS = {
    "video as image": ([*ON_VIDEO, "--type", "image"], "is a video; use --type video"),
    "fps of an image": ([*ON_IMAGE, "--fps", "1"], "--fps is for --type video"),
    "frames of an image": ([*ON_IMAGE, "--max-frames", "8"], "--max-frames is for --type video"),
    "video tokens of an image": ([*ON_IMAGE, "--video-tokens", "0.5"], "--video-tokens is for --type video"),
    "no video tokens": ([*ON_VIDEO, "--video-tokens", "0"], "--video-tokens must be 'auto' or above 0"),
    "video tokens a word": ([*ON_VIDEO, "--video-tokens", "half"], "at most 1, got half"),
    "no pixels": ([*ON_IMAGE, "--max-pixels", "0"], "--max-pixels must be at least 784, got 0"),
    "no pixels of a frame": ([*ON_VIDEO, "--max-pixels", "-5"], "max_pixels must be an integer of at least 784"),
    "no tokens": ([*ON_IMAGE, "--max-tokens", "0"], "max_tokens must be at least 1"),
    "half a character": ([*ON_IMAGE, "--prompt", "a\udce9"], "not valid Unicode"),
    "fps not a number": ([*ON_VIDEO, "--fps", "nan"], "fps must be a number above 0"),
    "stats in a folder": ([*ON_IMAGE, "--stats-json", "."], "--stats-json '.' is a folder"),
    "stats in no folder": ([*ON_IMAGE, "--stats-json", "no/s.json"], "does not exist; make it first"),
    "stats in a file": ([*ON_IMAGE, "--stats-json", "file/s.json"], "does not exist; make it first"),
    "stats without a name": ([*ON_IMAGE, "--stats-json", ""], "is not a path"),
    "log in a file": ([*ON_IMAGE, "--use-psa", "--log-dir", "file"], "is a file; name a folder"),
    "log below a file": ([*ON_IMAGE, "--use-psa", "--log-dir", "file/a/b"], "is a file; name a folder"),
    "log without psa": ([*ON_IMAGE, "--log-dir", "log"], "--log-dir does nothing without --use-psa"),
    "cache in a file": ([*ON_IMAGE, "--cache-dir", "file"], "cache_dir 'file' is a file"),
    "model without a name": ([*ON_IMAGE, "--model", ""], "model_name '' is not a path"),
    "text as image": (["--model", "demo", "--input", "file"], "image 'file'"),
    "a device as image": (["--model", "demo", "--input", "/dev/null"], "'/dev/null'"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags_that_cannot_be(case, no_model, capsys):
    flags, words = FLAGS[case]
    refused(ask, flags, words, capsys)


def refused(command, flags, words, capsys):
    assert command(flags) == 2
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.startswith("error: ") and words in streams.err
    assert one_sentence(streams.err.removesuffix("\n"))


BALL = ["--prompt", "a red ball", "--output_dir", "out"]
GENERATED = {
    "prompts that are not UTF-8": (["--prompt_file", "gbk.txt", "--output_dir", "out"], "is not UTF-8 text"),
    "output in a file": (["--prompt", "a red ball", "--output_dir", "file"], "is a file; name a folder"),
    "output below a file": (["--prompt", "a red ball", "--output_dir", "file/a"], "is a file; name a folder"),
    "guidance infinite": ([*BALL, "--guidance_scale", "inf"], "--guidance_scale"),
    "seed too large": ([*BALL, "--seed", str(2**31)], "--seed"),
    "no width": ([*BALL, "--width", "0"], "multiple of 16"),
    "frames": ([*BALL, "--num_frames", "-3"], "1, 5, 9, 13"),
}


@pytest.mark.parametrize("case", GENERATED)
def test_videos_that_cannot_be_made(case, no_model, capsys):
    flags, words = GENERATED[case]
    refused(generate, flags, words, capsys)


UNKNOWN = {
    "--bogus": (["--bogus"], "unrecognized arguments: --bogus"),
    "a kind": (["--type", "sound"], "argument --type: invalid choice: 'sound'"),
    "fps in words": (["--fps", "fast"], "argument --fps: invalid float value: 'fast'"),
    "tokens in words": (["--max-tokens", "many"], "argument --max-tokens: invalid int value: 'many'"),
    "an attention": (["--attention", "flash"], "argument --attention: invalid choice: 'flash'"),
    "a dtype": (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
    "a backend": (["--use-psa", "--backend", "cuda"], "argument --backend: invalid choice: 'cuda'"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_flags_that_do_not_exist(case, no_model, capsys):
    flags, words = UNKNOWN[case]
    with pytest.raises(SystemExit, match="2"):
        ask([*ON_IMAGE, *flags])
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_numbers_of_numpy_are_numbers(model):
    clip = load_video(Path(VIDEO), fps=np.float32(0.2), max_pixels=np.int64(10000), max_frames=np.uint8(4))
    assert len(clip.frames) == 4 and type(clip.fps) is float
    assert model.inference_image(load_image(IMAGE), WHAT, np.int32(1), max_pixels=np.uint16(20000)) == "A"


def test_triangle_config_alone_is_enough(no_model):
    with pytest.raises(pytest.fail.Exception, match="a model was loaded"):
        QwenVLInference("demo", attention="mix", triangle_config=TriangleMixConfig(triangle_layer_indices=[1]))
