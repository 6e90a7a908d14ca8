"""``argparse`` in the language of the process."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from ..utils.language import say
from ..utils.terminal import wrapped


class Parser(argparse.ArgumentParser):
    """Help, as plain text that keeps its lines, and errors; commands fill it in English."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **{"formatter_class": _Formatter, **settings})

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong, and leave with status 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {say(f'error: {message}')}\n")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def add_usage(self, usage, actions, groups, prefix=None):
        super().add_usage(usage, actions, groups, say("usage: ") if prefix is None else prefix)

    def start_section(self, heading):
        super().start_section(heading and say(heading))

    def add_text(self, text):
        super().add_text(text and say(text))

    def _get_help_string(self, action):
        return say(action.help)

    def _split_lines(self, text, width):
        return wrapped(text, width)
