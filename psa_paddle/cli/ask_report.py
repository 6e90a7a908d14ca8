"""``psa-paddle ask --report``: the answer as a page."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

from PIL import Image

from ..integrations.language.inference import QwenVLInference
from ..report import Recorder, Report, ask_dense, language_here, recording
from ..utils.files import check_file
from ..utils.media import Clip


class Asked(NamedTuple):
    """What a page is made of: ``Report``'s, and ``record``, None where nothing was recorded."""

    question: str
    answer: str
    shown: Any
    stats: dict
    record: Recorder | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    group = parser.add_argument_group("a page about the answer")
    group.add_argument(
        "--report", metavar="FILE", help="write a self-contained HTML page: frames, answer, what was skipped and how"
    )
    group.add_argument("--report-layers", metavar="L", help="layers whose level maps it shows, such as 0,5,8-11 (four)")
    group.add_argument("--compare-dense", action="store_true", help="also answer with dense attention, for the page")


def check(args: argparse.Namespace, attention: str, parse_layers: Callable[[str, str], list[int]]) -> None:
    """Settle the flags; ``args.report`` becomes a path and ``args.report_layers`` numbers.

    Raises:
        ValueError: flags that do nothing, a file that cannot be written.
    """
    for name in ("report_layers", "compare_dense"):
        if not getattr(args, name):
            continue
        flag = f"--{name.replace('_', '-')}"
        if args.report is None:
            raise ValueError(f"{flag} does nothing without --report FILE; add it.")
        if attention == "dense":
            raise ValueError(f"{flag} does nothing with dense attention; add --use-psa.")
    if args.report is not None:
        args.report = check_file(args.report, "--report")
    if args.report_layers is not None:
        args.report_layers = parse_layers(args.report_layers, "--report-layers")


def check_shown(args: argparse.Namespace, shown: list) -> None:
    """Refuse a page about what it cannot show.

    Raises:
        ValueError: anything but one clip or pictures alone.
    """
    one_clip = len(shown) == 1 and isinstance(shown[0], Clip)
    if args.report is not None and not one_clip and not all(isinstance(what, Image.Image) for what in shown):
        raise ValueError("--report shows one video or pictures alone; ask about these without it.")


def watching(model: QwenVLInference, args: argparse.Namespace, streamer=None):
    """A context that yields the recorder of the request that is made inside, where a page wants one, else None."""
    if args.report is None or model.attention == "dense":
        return nullcontext()
    return recording(model, args.report_layers, streamer)


def page(model: QwenVLInference, asked: Asked, ask: Callable[[], str] | None) -> str:
    """The page; ask: makes the same request again, for dense attention to answer, None where nobody wants that."""
    dense = None if ask is None else ask_dense(model, ask)
    return Report(*asked, dense).html(language_here())
