"""``psa-paddle web``: its flags, and the process."""

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest
from shared_demo import ROOT
from shared_web import free_port

from psa_paddle.cli import main
from psa_paddle.cli import web as command
from psa_paddle.config import AttentionConfig


@pytest.fixture
def served(monkeypatch):
    """What ``serve`` is called with."""
    seen = {}

    def serve(make_model, progress, settings, tell):
        seen.update(settings=settings, model=make_model(progress))
        tell(f"http://{settings.host}:{settings.port}/")

    monkeypatch.setattr(command, "serve", serve)
    monkeypatch.setattr(command, "QwenVLInference", lambda *given, **named: {"given": given, **named})
    return seen


def test_the_demo_model_on_this_machine_alone_without_flags(served, capsys):
    assert main(["web"]) == 0
    settings = served["settings"]
    assert (settings.host, settings.port, settings.given, settings.default) == ("127.0.0.1", 7860, None, "balanced")
    assert (settings.looking.fps, settings.looking.max_frames, settings.max_tokens) == (2.0, 256, 512)
    assert served["model"]["given"] == ("demo", None) and "attention" not in served["model"]
    out, err = capsys.readouterr()
    assert out == "http://127.0.0.1:7860/ (Ctrl-C ends it)\n" and err == ""


def test_every_flag_arrives(served, capsys):
    flags = ["--model", "m", "--dtype", "float16", "--preset", "fast", "--attention", "mix", "--triangle-layers", "1,2"]
    flags += ["--host", "0.0.0.0", "--port", "80", "--queue", "0", "--max-upload", "7", "--max-seconds", "8"]
    flags += ["--max-pictures", "2", "--conversations", "3", "--idle", "9", "--fps", "1", "--max-frames", "10"]
    flags += ["--max-pixels", "9999", "--max-tokens", "5", "--prefill-chunk", "256", "--video-tokens", "auto"]
    assert main(["web", *flags, "--backend", "eager", "--temperature", "0.5"]) == 0
    settings, model = served["settings"], served["model"]
    assert settings.given.attention == settings.default == "mix" and settings.given.triangle.triangle_layer_indices == [
        1,
        2,
    ]
    assert settings.given.config == AttentionConfig.preset("fast", backend="eager")
    limits = settings.limits
    assert (limits.waiting, limits.upload_bytes, limits.video_seconds, limits.pictures) == (0, 7 << 20, 8, 2)
    assert (limits.caches, limits.idle_seconds) == (3, 9)
    assert (settings.looking.frame_pixels, settings.looking.image_pixels, settings.max_tokens) == (9999, 9999, 5)
    assert (model["given"], model["prefill_chunk"], model["video_tokens"]) == (("m", "float16"), 256, "auto")
    assert model["sampling"].temperature == 0.5
    err = capsys.readouterr().err
    assert err == "warning: everybody who reaches 0.0.0.0:80 can use this page; it asks for no password.\n"


def test_dense_is_chosen_where_it_is_asked_for(served):
    main(["web", "--attention", "dense"])
    assert (served["settings"].given, served["settings"].default) == (None, "dense")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--queue", "-1"], "--queue must be at least 0"),
        (["--max-upload", "0"], "--max-upload must be at least 1"),
        (["--max-tokens", "0"], "max_tokens must be at least 1"),
        (["--fps", "0"], "fps must be"),
        (["--max-frames", "1"], "max_frames must be"),
        (["--max-pixels", "1"], "max_pixels must be"),
        (["--preset", "turbo", "--use-psa"], "turbo"),
        (["--log-dir", "x", "--use-psa"], "--log-dir does nothing here"),
        (["--port", "0", "--model", "/nowhere"], "--port must be a number from 1"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--model", "/nowhere", "--use-psa", "--backend", "triton"], "triton"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(flags, words, capsys):
    port = [] if "--port" in flags else ["--port", str(free_port())]
    assert main(["web", *port, *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


def test_without_gradio_there_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["web", "--model", "/nowhere"]) == 2
    assert "pip install 'psa_paddle[web]'" in capsys.readouterr().err


def test_a_process_that_is_ended_leaves_nothing(tmp_path):
    """While somebody has the page open."""
    (tmp_path / "tmp").mkdir()
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
    run = [sys.executable, "-m", "psa_paddle", "web", "--port", str(port)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", cwd=tmp_path)
    with subprocess.Popen(run, env=environment, **pipes) as process:
        timer = threading.Timer(120, process.kill)
        timer.start()
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/ (Ctrl-C ends it)\n"
        (folder,) = (tmp_path / "tmp").glob("psa_paddle_web_*")
        beat = urllib.request.urlopen(f"http://127.0.0.1:{port}/gradio_api/heartbeat/abc", timeout=20)
        process.terminate()
        out, err = process.communicate()
        timer.cancel()
        beat.close()
    assert (process.returncode, out, err) == (128 + signal.SIGTERM, "", "")
    left = [name for name in os.listdir(tmp_path / "tmp") if not re.match("paddle|triton", name)]
    assert left == [] and not folder.exists() and os.listdir(tmp_path) == ["tmp"]
