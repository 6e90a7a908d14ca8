"""Sentences in the language of the process: which language, and that every sentence has its Chinese."""

import re
from string import Formatter

import catalogue
import pytest

from psa_paddle.utils.language import language_here, say, say_lines
from psa_paddle.utils.terminal import columns, padded, wrapped

ENTRIES = {message.id: message.string for message in catalogue.read_catalogue() if message.id}
SENTENCES = catalogue.sentences()
CHINESE = re.compile("[\u4e00-\u9fff]")


def fields(text):
    return [field for _, field, *_ in Formatter().parse(text) if field is not None]


@pytest.fixture
def chinese(monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")


@pytest.mark.parametrize(
    "set_, wanted",
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "zh"),
        ({"LC_ALL": "C", "LC_MESSAGES": "zh_CN", "LANG": "zh_CN"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en:zh"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "fr:zh_CN:en"}, "zh"),
        ({"LANG": "C", "LANGUAGE": "zh_CN"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": ""}, "zh"),
    ],
    ids=str,
)
def test_language_of_the_process(monkeypatch, set_, wanted):
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_.items():
        monkeypatch.setenv(name, value)
    assert language_here() == wanted


def test_every_sentence_has_its_chinese():
    """What fails here: python tests/catalogue.py, and write the Chinese of what it shows into the catalogue."""
    assert len(SENTENCES) > 500
    assert [text for text in SENTENCES if not ENTRIES.get(text)] == []


def test_nothing_is_kept_that_is_not_said():
    of_argparse = {message.id for message in catalogue.read_catalogue() if "argparse" in message.user_comments}
    assert set(ENTRIES) - set(SENTENCES) - of_argparse == set()


def test_chinese_is_chinese_and_takes_the_same_values():
    for english, chinese in ENTRIES.items():
        assert english == chinese or CHINESE.search(chinese), english
        assert set(fields(chinese)) <= set(fields(english)), english
        assert {spec for *_, spec, _ in Formatter().parse(chinese)} <= {None, "", "say"}, chinese
        assert english.startswith(" ") or chinese.strip(" ") == chinese or english.startswith("a"), chinese


def test_a_sentence_is_found_again_with_its_values(chinese):
    """No sentence is taken for another one."""
    wrong = {}
    for english, translated in ENTRIES.items():
        values = [f"<{i}>" for i in range(len(fields(english)))]
        found = say(english.format(*values))
        if english != translated and found != translated.format(*map(Said, values)):
            wrong[english] = found
    assert wrong == {}


@pytest.mark.parametrize(
    "kind,others,words", [("mix", "PSA", "其余各层用 PSA"), ("trianglemix", "dense", "其余各层为稠密")]
)
def test_layers_with_commas_between_them(chinese, kind, others, words):
    said = say(f"Attention   {kind}: TriangleMix in layers 3, 4, 5, {others} in the others")
    assert said == f"注意力      {kind}：第 3, 4, 5 层用 TriangleMix，{words}"


def test_a_number_with_spaces_before_it(chinese):
    for layer, shown in ((0, "  0"), (12, " 12"), (100, "100")):
        also = ", or TriangleMix" if layer else ""
        said = say(f"  layer {layer:>3}  1.00 times the shares{also}")
        assert said == f"  层 {shown}  1.00 倍的份额{'，或用 TriangleMix' if layer else ''}"


class Said(str):
    def __format__(self, spec):
        return str(self)


def test_a_sentence_within_a_sentence(chinese):
    words = "error: video 'a of b.mp4' is a ZIP archive or an office document, not a video; MP4, MKV and WebM work."
    assert say(words) == "错误：视频 'a of b.mp4' 是 ZIP 压缩包或 Office 文档，不是视频；可用 MP4、MKV 和 WebM。"
    # the reason has lost its full stop
    assert say("--requests 'r.jsonl', line 2: prompt is empty; ask something about the input.") == (
        "--requests 'r.jsonl' 第 2 行：提示是空的；请就输入提一个问题。"
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "[Errno 13] Permission denied: '/a/is a folder of b.'", "CUDA error(2), out of memory.", "你好",
        "{} {0} {x}", "Connection refused (a, b)", "model 7: 5 of 6 files are there, but not all of them",
        "Loading: 3 GiB.",
    ],
)  # fmt: skip
def test_what_is_not_ours_stays_as_it_is(chinese, text):
    assert say(text) == text


def test_english_stays_english(monkeypatch):
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    assert say("interrupted") == "interrupted" and say_lines("prompt is empty\n") == "prompt is empty\n"


def test_braces_and_percent_signs_of_a_sentence(chinese):
    assert (
        say('JSON lines such as {"input": "a.mp4", "prompt": "..."}')
        == """JSON 行，例如 {"input": "a.mp4", "prompt": "..."}"""
    )
    assert say("text '{0}{x}%s' is empty.") == "文本 '{0}{x}%s' 是空的。"


def test_columns_of_a_terminal():
    assert columns("ab，中文c") == 9 and padded("中", 4) == "中  |"[:3] and padded("中文", 2) == "中文"
    lines = wrapped("末尾保持全分辨率的  token 数（默认：问题的长度）", 20)
    assert "".join(lines).replace(" ", "") == "末尾保持全分辨率的token数（默认：问题的长度）"
    assert max(map(columns, lines)) <= 20 and not any(line[0] in "，。：）" for line in lines)
    assert wrapped("keys of a block: 32, 64 or 128", 16) == ["keys of a block:", "32, 64 or 128"]
    assert wrapped("", 9) == [""] and wrapped("unbreakable-word", 5) == ["unbreakable-word"]
