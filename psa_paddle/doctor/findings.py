"""What the doctor finds: facts about a machine, and checks with a status and what to do about it."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from pathlib import Path

STATUSES = OK, FAILED, NOT_POSSIBLE = "ok", "FAILED", "not possible here"
# Names of checks that others depend on.
BUILD, OPERATIONS, KERNELS = "Paddle", "Paddle's operations", "Triton kernels"
OPERATOR, TIMING, ANSWER = "operator", "time", "demo model"
INSTALL_PADDLE = "https://www.paddlepaddle.org.cn/install/quick"
MOST_LETTERS = 240  # of an error's words


def shorten(text: str) -> str:
    """The text with ``~`` for the user's home folder."""
    home = os.path.expanduser("~").rstrip("/")
    return text.replace(home, "~") if home else text


class _Short:
    """A dataclass of text, in which the home folder is ``~``."""

    def __post_init__(self):
        for name, text in vars(self).items():
            object.__setattr__(self, name, shorten(text))


@dataclass(frozen=True)
class Fact(_Short):
    """One line about the machine."""

    name: str
    value: str


@dataclass(frozen=True)
class Check(_Short):
    """status: ``OK``, ``FAILED`` or ``NOT_POSSIBLE``; detail: what was seen; advice: one sentence, what to do."""

    name: str
    status: str
    detail: str
    advice: str = ""


def words_of(error: BaseException) -> str:
    """An error in one line: its class and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:MOST_LETTERS]}" if lines else type(error).__name__


def place_of(error: BaseException) -> str:
    """Where an error was raised, ``file.py:12``."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


def joined(names: list[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def plural(number: int, one: str, many: str) -> str:
    """``1 check``, ``2 checks`` of ``"{} check"``, ``"{} checks"``."""
    return (one if number == 1 else many).format(number)
