"""Both languages say the same things."""

import re

import pytest

from psa_paddle.config import PRESETS
from psa_paddle.integrations.language.answering.reports import STAGES
from psa_paddle.web.answers import choices
from psa_paddle.web.words import WORDS, language_of, say

FIELD = re.compile(r"\{(\w+)\}")


def test_both_languages_have_the_same_words_with_the_same_values():
    assert list(WORDS["en"]) == list(WORDS["zh"])
    for key, english in WORDS["en"].items():
        chinese = WORDS["zh"][key]
        assert sorted(FIELD.findall(english)) == sorted(FIELD.findall(chinese)), key
        names = "TriangleMix" in english or key == "language"
        assert names or re.search("[\u4e00-\u9fff]", chinese), f"{key} is not in Chinese"
        assert not re.search("[\u4e00-\u9fff]", english) or key == "language"


def test_every_stage_and_every_choice_has_a_name():
    assert set(STAGES) <= set(WORDS["en"])
    assert set(choices(None, 4)) - set(PRESETS) <= set(WORDS["en"])


@pytest.mark.parametrize(
    "tag, language",
    [("zh", "zh"), ("zh-CN", "zh"), ("ZH-tw", "zh"), ("en-US", "en"), ("fr", "en"), ("", "en"), (None, "en")],
)
def test_a_language_tag(tag, language):
    assert language_of(tag) == language
    assert say(tag, "waits", ahead=3) == WORDS[language]["waits"].format(ahead=3)
