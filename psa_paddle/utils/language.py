"""The language of the process, and the package's sentences in it.

The package writes English everywhere, so that what it raises can be searched for. Where the command line prints a
sentence it asks ``say`` for it: ``locale/zh/LC_MESSAGES/psa_paddle.po`` holds the Chinese of every sentence. A sentence
with figures stands there as its f-string, with {0}, {1}, ... for what is filled in; ``say`` finds the one that the text
was made from. ``{0:say}`` in the Chinese: what is filled in is again a sentence of ours.
"""

from __future__ import annotations

import locale
import os
import re
from functools import lru_cache
from pathlib import Path
from string import Formatter

CATALOGUE = Path(__file__).parents[1] / "locale" / "zh" / "LC_MESSAGES" / "psa_paddle.po"


def language_here() -> str:
    """``"zh"`` where the process speaks Chinese, else ``"en"``; LANGUAGE, LC_ALL, LC_MESSAGES and LANG say it."""
    names = [os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG")]
    here = next((name for name in names if name), locale.getlocale()[0] or "")
    # As gettext has it: a list that comes first, but not in the locale C.
    wanted = [] if here in ("C", "POSIX") else os.environ.get("LANGUAGE", "").split(":")
    known = [name for name in (*wanted, here) if name.lower().startswith(("zh", "chinese", "en"))]
    return "en" if not known or known[0].lower().startswith("en") else "zh"


def say(text: str, language: str | None = None) -> str:
    """A sentence of the package in ``"en"`` or ``"zh"``, by default the language of the process; as it is where that is
    English, or the sentence is not one of ours."""
    if (language or language_here()) == "en":
        return text
    whole, patterns = _catalogue()
    if text in whole:
        return whole[text]
    for pattern, chinese in patterns:
        if found := pattern.fullmatch(text):
            return chinese.format(*map(_Part, found.groups()))
    return text


def say_lines(text: str) -> str:
    """``say`` line by line."""
    return "\n".join(map(say, text.split("\n")))


class _Part(str):
    """What is filled into a Chinese sentence; as ``{:say}`` in Chinese itself."""

    def __format__(self, spec: str) -> str:
        if spec != "say":
            return str(self)
        said, sentence = say(self, "zh"), f"{self}."  # a reason in a longer sentence has lost its full stop
        return said if said != self or say(sentence, "zh") == sentence else say(sentence, "zh").removesuffix("。")


@lru_cache(maxsize=1)
def _catalogue() -> tuple[dict[str, str], list[tuple[re.Pattern, str]]]:
    """Chinese of sentences without figures, and of those with, each with the pattern of its English: first those that
    begin with most words of their own, as what is filled in at their end may match others."""
    try:
        from babel.messages.pofile import read_po
    except ImportError:  # psa-paddle doctor speaks where requirements are missing, too
        return {}, []
    whole: dict[str, str] = {}
    patterns: list[tuple[tuple[int, int], re.Pattern, str]] = []
    with open(CATALOGUE, encoding="utf-8") as file:
        for message in read_po(file, ignore_obsolete=True):
            english, chinese = str(message.id), str(message.string)
            if not english or not chinese or english == chinese:
                continue
            parts = list(Formatter().parse(english))
            words = [literal for literal, *_ in parts]
            if all(field is None for _, field, *_ in parts):
                whole["".join(words)] = chinese.format()
                continue
            pattern = "".join(re.escape(literal) + ("" if field is None else "(.*?)") for literal, field, *_ in parts)
            patterns.append(((len(words[0]), len("".join(words))), re.compile(pattern, re.DOTALL), chinese))
    patterns.sort(key=lambda row: row[0], reverse=True)
    return whole, [(pattern, chinese) for _, pattern, chinese in patterns]
