"""The command line where the locale is Chinese: all that it prints, and nothing that a program reads."""

import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import catalogue
import pytest
import test_cli
from golden import make_statistics
from infer_qwen2_5_vl_psa import main as script
from shared_cli import parser_of
from shared_demo import ROOT
from test_cli_flags import STATS, FakeModel, ask  # noqa: F401
from test_language import CHINESE

from psa_paddle import doctor
from psa_paddle.cli import COMMANDS, ask_requests, main
from psa_paddle.cli.ask import logged
from psa_paddle.config import PRESETS
from psa_paddle.doctor.findings import FAILED, NOT_POSSIBLE, OK, Check, Fact
from psa_paddle.integrations.language.families import FAMILIES
from psa_paddle.plan import DenseReason
from psa_paddle.stats import format_stats
from psa_paddle.utils import progress
from psa_paddle.utils.command import NotWritten, run_command
from psa_paddle.utils.language import say, say_lines
from psa_paddle.utils.media import load_image

IMAGE = str(ROOT / "demo" / "sample.jpg")
EXAMPLE = re.compile(r"^(psa-paddle|\s*\[?-|.*\[--).*", re.MULTILINE)


@pytest.fixture(autouse=True)
def chinese(monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")


def english_in(text: str) -> list[str]:
    """Three words of English in a row, outside quotes and lists of names."""
    text = text.replace(", ".join(PRESETS), "")
    return re.findall(r"[a-z]{2,}[,;:.]? [a-z]+[,;:.]? [a-z]{2,}", re.sub(r"'[^']*'", "", text))


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    words = capsys.readouterr().out
    assert words.startswith("用法：psa-paddle") and "选项" in words and "显示此帮助并退出" in words
    assert english_in(EXAMPLE.sub("", words)) == []
    for action in parser_of(*command)._actions if command else ():
        assert CHINESE.search(say(action.help or "")), action.option_strings
    for name, (_, line) in COMMANDS.items() if not command else ():
        assert f"{name} {say(line)}" in " ".join(words.split())


@pytest.mark.parametrize("case", test_cli.REFUSED)
def test_refusals(case, tmp_path, capsys):
    assert script(test_cli.REFUSED[case][0](tmp_path)) == 2
    streams = capsys.readouterr()
    (line,) = [line for line in streams.err.splitlines() if line.startswith("错误：")]
    assert CHINESE.search(line.removeprefix("错误：")) and english_in(line) == [] and streams.out == ""


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], "psa-paddle: 错误：缺少必需的参数：COMMAND"),
        (["sing"], "psa-paddle: 错误：参数 COMMAND：无效的选择 'sing'"),
        (["ask"], "psa-paddle ask: 错误：必须给出 --input --requests 之一"),
        (["ask", "--input", IMAGE, "--fps", "x"], "参数 --fps：'x' 不是有效的 float 值"),
        (["ask", "--input", IMAGE, "--fps"], "参数 --fps：需要一个值"),
        (["ask", "--input", IMAGE, "--bogus"], "错误：无法识别的参数：--bogus"),
    ],
    ids=str,
)
def test_what_argparse_refuses(flags, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(flags)
    err = capsys.readouterr().err
    assert err.startswith("用法：") and words in err.splitlines()[-1]


def test_statistics():
    said = make_statistics.said_of(json.loads(make_statistics.CALLS.read_text(encoding="utf-8")))
    for name, forms in said.items():
        text = say_lines("\n".join(forms["text"]))
        assert english_in(text) == [], name
        assert all(CHINESE.search(line) for line in text.splitlines()), name


def test_reasons_of_dense_calls():
    for reason in DenseReason:
        said = say(f"Dense       3 calls: {reason.text(512, 7)}")
        assert re.match(r"稠密        3 次调用：", said)
        assert CHINESE.search(said[len("稠密        3 次调用：") :]) or say(reason.value) == reason.value, reason


def test_an_answer_with_its_statistics_and_warnings(ask, capsys, tmp_path):  # noqa: F811
    ask("--input", IMAGE)
    out = capsys.readouterr().out
    assert (
        out == f"一个菱形\n\n{say_lines(format_stats(STATS))}\n" and "提示        3 个 token：2 个视觉，1 个文本" in out
    )
    with logged(False):
        words = "the answer was cut off after %d tokens; a larger max_tokens gives the rest."
        logging.getLogger("psa_paddle.x").warning(words, 5)
    assert capsys.readouterr().err == "答案在 5 个 token 后被截断；增大 max_tokens 可得到其余部分。\n"


def test_what_programs_read_is_as_in_english(ask, capsys, tmp_path, monkeypatch):  # noqa: F811
    """Answers and statistics in JSON, and errors in lines of JSON."""
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(FakeModel, "family", FAMILIES[0], raising=False)
    said, requests = [], tmp_path / "r.jsonl"
    requests.write_text('{"input": "no.jpg"}')
    for locale in ("zh_CN.UTF-8", "C.UTF-8"):
        monkeypatch.setenv("LC_ALL", locale)
        ask("--input", IMAGE, "--json", "--stats-json", str(tmp_path / "s.json"))
        monkeypatch.setattr(ask_requests, "load_image", load_image)
        assert main(["ask", "--requests", str(requests)]) == 2
        said.append((capsys.readouterr().out, (tmp_path / "s.json").read_text()))
        monkeypatch.setattr(ask_requests, "load_image", lambda source, downloading: Path(source))
    assert said[0] == said[1] and "image 'no.jpg' does not exist" in said[0][0]


def test_progress(monkeypatch):
    shown = []
    monkeypatch.setattr(progress, "tqdm", lambda **given: shown.append(given["desc"]) or Bar())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    report = progress.TerminalProgress()
    for stage in progress.WORDS:
        report(stage, 0, 9)
    assert shown == [say(words) for words in progress.WORDS.values()] and all(map(CHINESE.search, shown))


class Bar:
    n, total = 0, 9

    def update(self, more):
        """Nothing is shown."""

    refresh = close = lambda self: None


def test_memory_and_ctrl_c(capsys):
    def full():
        raise MemoryError

    def stopped():
        raise KeyboardInterrupt

    def unwritten():
        raise NotWritten("--report could not be written: disk quota.", "--log-dir could not be written: disk quota.")

    assert [run_command(run, "look at less.") for run in (full, stopped, unwritten)] == [3, 130, 5]
    assert capsys.readouterr().err.splitlines() == [
        "错误：内存不足；look at less.",
        "已中断",
        "错误：--report 无法写入：disk quota。 --log-dir 无法写入：disk quota。",
    ]


def test_the_doctor(monkeypatch, capsys):
    found = [
        Fact("memory", "2.0 GiB free of 4.0 GiB"),
        Check("Paddle", OK, "3.3.1, CPU build, on device cpu"),
        Check("operator", FAILED, "3 of 7 blocks of rows are wrong", "Put this report into an issue."),
        Check("hub", NOT_POSSIBLE, "HF_HUB_OFFLINE says not to ask", "Unset it to download weights."),
    ]
    monkeypatch.setattr(doctor, "examine", lambda quick: iter(found))
    assert main(["doctor"]) == 6
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:9] == [
        "内存              共 4.0 GiB，可用 2.0 GiB",
        "正常              Paddle: 3.3.1，CPU 版，设备 cpu",
        "失败              operator: 7 个行块中有 3 个出错",
        "                  -> 请把这份报告提交到 issue。",
        "此处无法进行      hub: HF_HUB_OFFLINE 要求不联网",
        "                  -> 要下载权重，请取消它。",
        "结论              3 项检查中有 1 项失败，1 项此处无法进行：operator。首先要做：请把这份报告提交到 issue。",
        "用时              0 s",
    ]
    assert main(["doctor", "--json"]) == 6
    report = json.loads(capsys.readouterr().out)
    assert report["checks"][1]["status"] == "FAILED" and "1 of 3 checks FAILED" in report["verdict"]


def test_help_on_a_terminal_that_knows_no_chinese():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "psa_paddle", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("\\u7528\\u6cd5")


def test_the_catalogue_is_where_the_package_is():
    assert catalogue.CATALOGUE.is_file() and catalogue.PACKAGE == ROOT / "psa_paddle"
