"""How far an answer is, for whoever shows it, and how long its stages took."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager

import paddle

STAGES = ("load", "download", "media", "vision", "prefill", "decode")
# Called with a stage, how much of it is done, and how much there is: models for "load", bytes
# for "download" (of 0 where nobody knows), frames or files for "media", patches for
# "vision", layers of every chunk for "prefill", tokens for "decode".
Report = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """A ``Report`` that shows nothing."""


class Stopwatch:
    """Seconds of each stage; a GPU is waited for where a stage ends."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str):
        """Time what stands inside as a part of this stage."""
        start = time.perf_counter()
        yield
        if paddle.get_device().startswith("gpu"):
            paddle.device.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def peak_resident_bytes() -> int:
    """Peak resident memory of the process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
