"""Signs of life on a terminal."""

from __future__ import annotations

import os
import sys

from tqdm import tqdm

from .language import say

WORDS = {
    "load": "loading the model",
    "download": "downloading",
    "media": "reading",
    "vision": "looking",
    "prefill": "prefill",
    "decode": "answering",
}
BYTES = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}


class TerminalProgress:
    """A ``Report`` that shows one bar a stage on stderr, gone when the stage ends, and nothing where stderr is no
    terminal.

    hidden: stages that are not shown.
    """

    def __init__(self, *hidden: str):
        self._hidden, self._stage = hidden, ""
        self._bar: tqdm | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how much of a stage is done."""
        if stage in self._hidden or not sys.stderr.isatty():
            return
        known = (stage, total or None)
        if self._bar is None or known != (self._stage, self._bar.total) or done < self._bar.n:
            self.close()
            self._stage = stage
            look = {"leave": False, "ncols": _columns(), "nrows": 20, **(BYTES if stage == "download" else {})}
            self._bar = tqdm(total=total or None, desc=say(WORDS[stage]), file=sys.stderr, **look)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()
        if done == total:
            self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _columns() -> int:
    """Of the terminal behind stderr; 80 where it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
