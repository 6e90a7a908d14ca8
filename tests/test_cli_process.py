"""The command line as a process: streams, exit status, signals, and nothing left behind."""

import os
import signal
import subprocess
import sys

import pytest
from shared_demo import ROOT
from shared_http import serving
from shared_hub import Stall

QWEN, GENERATE = ROOT / "qwen2.5-vl" / "infer_qwen2_5_vl_psa.py", ROOT / "examples" / "video_generation.py"
VIDEO, IMAGE = str(ROOT / "demo" / "sample.mp4"), str(ROOT / "demo" / "sample.jpg")
DEMO = ["--model", "demo", "--prompt", "请描述这个视频"]


def take_interrupts():
    """Also where the tests run in the background of a shell, which lets its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(script, *flags, **surroundings):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **surroundings}
    command = [sys.executable, str(script), *flags]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    return subprocess.Popen(command, env=environment, preexec_fn=take_interrupts, **pipes)


def run(script, *flags, **surroundings):
    process = start(script, *flags, **surroundings)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_answer_and_statistics_on_an_ascii_terminal():
    """Nothing of the libraries' chatter, no word about a dtype that nobody asked for, and no answer lost."""
    flags = ["--input", VIDEO, "--fps", "0.5", "--use-psa", "--max-tokens", "64"]
    status, out, err = run(QWEN, *DEMO, *flags, PYTHONIOENCODING="ascii")
    answer = out.split("\n\n")[0]
    assert (status, err) == (0, "") and answer.isascii() and "Sparsity" in out
    assert "向右移动" in answer.encode().decode("unicode_escape")


def test_no_hub(tmp_path):
    """The main command of the README on a machine without a network."""
    flags = ["--type", "video", "--input", VIDEO, "--prompt", "请描述这个视频", "--use-psa"]
    status, out, err = run(QWEN, *flags, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert (status, out) == (4, "") and err.count("\n") == 1
    for words in (
        "could not be downloaded from http://127.0.0.1:9",
        "--model Qwen/Qwen2.5-VL-7B-Instruct",
        "offline use",
    ):
        assert words in err


def test_a_text_as_video_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    status, out, err = run(QWEN, *DEMO, "--input", str(tmp_path / "a.mp4"))
    assert (status, out) == (2, "") and err.startswith("error: video '") and err.count("\n") == 1


@pytest.mark.parametrize("script", [QWEN, GENERATE], ids=["qwen", "generate"])
def test_ctrl_c_while_the_libraries_are_imported(script, tmp_path):
    """A library that takes for ever to import, in place of those that take seconds."""
    (tmp_path / "paddle.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = start(script, "--input", IMAGE, PYTHONPATH=path)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "interrupted\n") and process.returncode == 130


@pytest.mark.parametrize("number,status,words", [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")])
def test_a_signal_during_a_download(number, status, words, tmp_path):
    stall = Stall()
    with serving(stall.handler) as address:
        process = start(QWEN, *DEMO, "--input", f"{address}/v.mp4", TMPDIR=str(tmp_path))
        assert stall.reached.wait(60)
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", words) and process.returncode == status
        stall.leave.set()
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_during_the_answer():
    process = start(QWEN, *DEMO, "--input", VIDEO, "--fps", "0.3", "--stream", "--max-tokens", "64")
    assert process.stdout.read(1) == "首"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert err == "interrupted\n" and process.returncode == 130
