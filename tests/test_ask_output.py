"""Where an answer, its statistics and signs of life go: stdout, stderr, a line of JSON, a terminal."""

import io
import json
import os
import pty
import subprocess
import sys

import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from infer_qwen2_5_vl_psa import main
from shared_demo import ROOT
from shared_http import folder, serving
from test_cli_process import run as process

from psa_paddle.cli.ask import logged
from psa_paddle.utils.progress import TerminalProgress

IMAGE, VIDEO = str(ROOT / "demo" / "sample.jpg"), str(ROOT / "demo" / "sample.mp4")
ASK = ["--model", "demo", "--input", IMAGE, "--prompt", "What is this?"]
ANSWER = "A small white diamond at the top left, a small green star at the top right, "
ANSWER += "a small pink cross at the right and a card with 31."


def test_json_is_one_line_with_times_of_every_stage(capsys):
    flags = ["--input", VIDEO, "--max-frames", "4", "--prompt", "Which way?", "--max-tokens", "3", "--use-psa"]
    assert main(["--model", "demo", "--json", *flags]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert list(said) == ["id", "input", "prompt", "answer", "finish_reason", "stats"]
    assert said["input"] == [VIDEO] and said["prompt"] == "Which way?" and said["finish_reason"] == "length"
    stats = said["stats"]
    assert list(stats["timings_s"]) == ["load", "media", "vision", "prefill", "decode"]
    assert min(stats["timings_s"].values()) > 1e-3 and len(stats["frame_times_s"]) == 4
    assert stats["new_tokens"] == 3 and len(stats["layers"]) == stats["layers_dense"] > 0


@pytest.mark.parametrize(
    "flags,out,err",
    [
        (["--quiet"], f"{ANSWER}\n", ""),
        (["--stats", "off"], f"{ANSWER}\n", ""),
        (["--stats", "stderr"], f"{ANSWER}\n", "\nModel "),
        (["--quiet", "--stats", "after"], f"{ANSWER}\n\nModel ", ""),
        (["--json", "--stats", "stderr"], '{"id": 1, ', "\nModel "),
        (["--json", "--quiet"], '{"id": 1, ', ""),
    ],
    ids=str,
)
def test_the_places_of_answer_and_statistics(flags, out, err, capsys):
    assert main([*ASK, *flags]) == 0
    streams = capsys.readouterr()
    whole = "Model" in out or out.startswith("{")
    assert streams.out.startswith(out) if whole else streams.out == out
    assert streams.err.startswith(err) if err else streams.err == ""
    if "--json" in flags:
        assert ("stats" in json.loads(streams.out)) == ("--quiet" not in flags)


def test_quiet_says_no_warnings_and_still_errors(capsys, tmp_path):
    assert main([*ASK, "--max-tokens", "2", "--quiet", "--dtype", "float16"]) == 0
    assert capsys.readouterr() == ("A small\n", "")
    assert main([*ASK, "--input", str(tmp_path / "no.jpg"), "--quiet"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_no_signs_of_life_without_a_terminal():
    script = ROOT / "qwen2.5-vl" / "infer_qwen2_5_vl_psa.py"
    assert process(script, *ASK, "--stats", "off") == (0, f"{ANSWER}\n", "")


def test_signs_of_life_on_a_terminal():
    """Every stage, and nothing on stdout but the answer."""
    ours, theirs = pty.openpty()
    script = str(ROOT / "qwen2.5-vl" / "infer_qwen2_5_vl_psa.py")
    video = ["--input", VIDEO, "--max-frames", "4"]
    command = [sys.executable, script, "--model", "demo", *video, "--prompt", "What?", "--max-tokens", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    with subprocess.Popen(
        [*command, "--stats", "off"], stdout=subprocess.PIPE, stderr=theirs, env=environment, encoding="utf-8"
    ) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            shown += part
        out = running.stdout.read()
    os.close(ours)
    assert running.returncode == 0 and len(out.splitlines()) == 1
    places = [shown.index(words) for words in (b"reading", b"loading the model", b"looking", b"prefill", b"answering")]
    assert places == sorted(places)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_a_stage(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = TerminalProgress("decode")
    for done in (3, 10):
        progress("vision", done, 10)
    progress("decode", 1, 3)
    progress("prefill", 2, 4)
    progress("prefill", 1, 4)  # another prompt
    progress.close()
    shown = terminal.getvalue()
    assert "looking:  30%" in shown and "looking: 100%" in shown and "prefill:  50%" in shown and "3/10" in shown
    assert shown.index("prefill:  50%") < shown.index("prefill:  25%") and "answering" not in shown
    assert shown.rstrip(" ").endswith("\r"), "a bar was left"
    before = terminal.getvalue()
    progress.close()
    assert terminal.getvalue() == before
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress("vision", 1, 2)
    assert sys.stderr.getvalue() == ""


def test_a_download_is_shown_in_bytes(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("psa_paddle.utils.progress._columns", lambda: 80)
    progress = TerminalProgress()
    progress("download", 1 << 20, 4 << 20)
    progress("download", 3 << 19, 0)  # another one, which does not say how long it is
    progress.close()
    shown = terminal.getvalue()
    assert "downloading:  25%" in shown and "1.00M/4.00M" in shown and "1.50MB [" in shown and "B/s" in shown


def test_a_download_on_a_terminal_and_quietly(monkeypatch, tmp_path):
    """From a loopback server, by psa-paddle ask."""
    monkeypatch.setattr("psa_paddle.utils.progress._columns", lambda: 80)
    (tmp_path / "a.jpg").write_text("no picture")
    with serving(folder(tmp_path)) as address:
        for quiet in ([], ["--quiet"]):
            terminal = Terminal()
            monkeypatch.setattr(sys, "stderr", terminal)
            assert main([*ASK, "--input", f"{address}/a.jpg", *quiet]) == 2
            assert ("downloading: 100%" in terminal.getvalue()) is (not quiet)


def test_quiet_silences_the_bars_of_the_hub():
    with logged(False):
        assert not are_progress_bars_disabled()
    with logged(True):
        assert are_progress_bars_disabled()
    assert not are_progress_bars_disabled()
