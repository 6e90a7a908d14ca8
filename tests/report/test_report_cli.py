"""``psa-paddle ask --report``."""

import json

import pytest
from shared_demo import ROOT

from psa_paddle.cli import main

VIDEO, IMAGE = str(ROOT / "demo" / "sample.mp4"), str(ROOT / "demo" / "sample.jpg")
ASK = ["ask", "--model", "demo", "--dtype", "float32", "--max-tokens", "2", "--prompt", "请描述<i>"]


def test_page_beside_everything_else(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    page, stats = tmp_path / "out.html", tmp_path / "stats.json"
    video = [*ASK, "--type", "video", "--input", VIDEO, "--max-frames", "20", "--use-psa", "--stream"]
    flags = ["--report", str(page), "--report-layers", "1,4-5", "--compare-dense", "--stats-json", str(stats)]
    assert main([*video, *flags]) == 0
    html, s = page.read_text(encoding="utf-8"), json.loads(stats.read_text())
    assert f"{100 * s['average_sparsity']:.1f}&nbsp;%" in html and s["average_sparsity"] > 0 and s["attention"] == "psa"
    assert "层 1 · 128 × 64" in html and "层 4 ·" in html and "层 2 ·" not in html
    assert "请描述&lt;i&gt;" in html and "与稠密注意力对照" in html and html.count("<figure>") == 10
    shown = capsys.readouterr().out
    answer = html.split('id="answer">')[1].split("</p>")[0]
    assert answer and shown.lstrip().startswith(answer) and shown.count(answer) == 1  # dense answers in silence


def test_page_of_dense_attention(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    page = tmp_path / "out.html"
    assert main([*ASK, "--input", IMAGE, "--report", str(page)]) == 0
    assert "Attention was dense" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--use-psa", "--compare-dense"], "--compare-dense does nothing without --report FILE"),
        (["--use-psa", "--report-layers", "1"], "--report-layers does nothing without --report FILE"),
        (["--report", "out.html", "--compare-dense"], "--compare-dense does nothing with dense attention"),
        (["--use-psa", "--report", "out.html", "--report-layers", "x"], "--report-layers part 'x' must look like"),
        (["--use-psa", "--report", "out.html", "--input", VIDEO, IMAGE], "--report shows one video or pictures alone"),
        (["--use-psa", "--report", "out.html", "--each", "--input", IMAGE, IMAGE], "--report is for one question"),
        (["--use-psa", "--report", "no/such/out.html"], "--report: the folder of 'no/such/out.html' does not exist"),
        (["--use-psa", "--report", "out.html", "--report-layers", "6"], "no layer 6; the model's layers are 0 to 5"),
    ],
)
def test_refusals(flags, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*ASK, "--input", IMAGE, *flags]) not in (0, None)
    out, err = capsys.readouterr()
    assert words in err and not out and not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written(capsys, tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("psa_paddle.cli.ask.write_text", full)
    assert main([*ASK, "--input", IMAGE, "--report", str(tmp_path / "out.html")]) == 5
    out, err = capsys.readouterr()
    assert out.strip() and "--report could not be written: " in err and not list(tmp_path.iterdir())
