"""``psa-paddle ask``: questions about images and videos."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from contextlib import contextmanager, nullcontext

from ..integrations.language.answering.reports import STAGES
from ..integrations.language.inference import QwenVLInference
from ..integrations.language.loading import checkpoint_family
from ..stats import format_stats
from ..utils.command import NotWritten, keeping_sigterm, run_command
from ..utils.files import check_file, check_folder, write_text
from ..utils.language import say, say_lines
from ..utils.media import Clip
from ..utils.progress import TerminalProgress
from ..utils.quiet import no_download_bars, quiet_libraries
from . import ask_report
from .ask_flags import add_arguments
from .ask_many import answer_many, details, identity
from .ask_requests import Loaded, Request, ask_model, requests_of
from .model_flags import attention_of, model_settings, parse_layers
from .ranks import printing

__all__ = ["add_arguments", "run"]

MEMORY_ADVICE = (
    "look at less with --max-pixels (for a video --max-frames or --fps too), try --prefill-chunk 2048, or take a "
    "smaller --model."
)


def text_streamer(model: QwenVLInference):
    """Prints tokens as they are made."""
    if model.library == "paddlemix":
        from paddlenlp.generation import TextStreamer
    else:
        from paddleformers.generation.streamers import TextStreamer
    return TextStreamer(model.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)


def check_places(args: argparse.Namespace, many: bool) -> None:
    """Settle where answers and statistics go.

    Raises:
        ValueError: flags that contradict each other, or places that cannot be written.
    """
    if args.stream and (many or args.json):
        raise ValueError("--stream prints text as it is made, and answers go out as lines of JSON here; drop it.")
    if many:
        for name in ("stats_json", "log_dir", "report"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is for one question; the lines have the statistics.")
        if args.stats == "stderr":
            raise ValueError("--stats stderr is for one question; the lines have the statistics.")
    args.stats = args.stats or ("off" if args.quiet else "after")
    if args.stats_json is not None:
        args.stats_json = check_file(args.stats_json, "--stats-json")
    if args.log_dir is not None:
        args.log_dir = check_folder(args.log_dir, "--log-dir")


def answer(
    model: QwenVLInference, request: Request, loaded: Loaded, args: argparse.Namespace
) -> tuple[dict, Callable[[], str]]:
    """Ask, and print the answer, at the end or as it is made; returns the statistics, and what makes the report."""
    streamer = text_streamer(model) if args.stream else None

    def ask(streamer=None) -> tuple[str, dict]:
        return ask_model(model, loaded, request.question, request.max_tokens, args.max_pixels, streamer)

    with ask_report.watching(model, args, streamer) as record:
        text, stats = ask(record or streamer)
    if args.json:
        print(json.dumps({**identity(request), "answer": text, **details(stats, args)}, ensure_ascii=False))
    elif not args.stream:
        print(text)
    sys.stdout.flush()
    if model.team.leads and (args.stats == "stderr" or (args.stats == "after" and not args.json)):
        where = sys.stderr if args.stats == "stderr" else sys.stdout
        print(f"\n{say_lines(format_stats(stats))}", file=where, flush=True)
    shown = loaded.shown[0] if isinstance(loaded.shown[0], Clip) else loaded.shown
    asked = ask_report.Asked(request.question, text, shown, stats, record)
    again = (lambda: ask()[0]) if args.compare_dense else None
    return stats, lambda: ask_report.page(model, asked, again)


def write_extras(model: QwenVLInference, stats: dict, args, page: Callable[[], str]) -> None:
    """Write every file that was asked for beside the answer; page: makes the report's text, on every rank.

    Raises:
        NotWritten: at the end, when some of them could not be written.
    """
    failures = []
    if args.stats_json is not None and model.team.leads:
        try:
            write_text(args.stats_json, json.dumps(stats, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            failures.append(f"--stats-json could not be written: {error}.")
    if args.log_dir is not None:
        try:
            model.write_log(args.log_dir)
        except OSError as error:
            failures.append(f"--log-dir could not be written: {error}.")
    if args.report is not None:
        text = page()
        try:
            if model.team.leads:
                write_text(args.report, text)
        except OSError as error:
            failures.append(f"--report could not be written: {error}.")
    if failures:
        raise NotWritten(*failures)


def ask(args: argparse.Namespace) -> None:
    """Check everything, load the model, answer, and then write what was asked for beside the answer."""
    requests = requests_of(args)
    many = args.requests is not None or args.output is not None or len(requests) > 1
    check_places(args, many)
    ask_report.check(args, attention_of(args), parse_layers)
    settings = model_settings(args)
    progress = TerminalProgress(*STAGES if args.quiet else ["decode"] if args.stream else [])

    def make() -> QwenVLInference:
        with keeping_sigterm():
            return QwenVLInference(args.model, args.dtype, progress=progress, **settings)

    try:
        if many:
            with quiet_libraries(settings["library"]):
                answer_many(args, requests, make, progress)
            return
        with keeping_sigterm():
            family = checkpoint_family(args.model, settings["library"], args.cache_dir)
        loaded = requests[0].load(args, progress, family)
        ask_report.check_shown(args, loaded.shown)
        with quiet_libraries(settings["library"]):
            model = make()
            stats, page = answer(model, requests[0], loaded, args)
            write_extras(model, stats, args, page)
    finally:
        progress.close()


class _Spoken(logging.Formatter):
    """A line of the log in the language of the process."""

    def format(self, record: logging.LogRecord) -> str:
        return say(super().format(record))


@contextmanager
def logged(quiet: bool):
    """While the package's warnings go to stderr; quiet: its errors alone, and no bars of the hub's client."""
    log, handler = logging.getLogger("psa_paddle"), logging.StreamHandler()
    handler.setFormatter(_Spoken())
    handler.setLevel(logging.ERROR if quiet else logging.NOTSET)
    propagate, log.propagate = log.propagate, False  # PaddleFormers formats the root logger's lines its own way
    log.addHandler(handler)
    try:
        with no_download_bars() if quiet else nullcontext():
            yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


def run(args: argparse.Namespace) -> int:
    """Answer what the flags ask; returns the exit status."""
    with logged(args.quiet), printing():
        return run_command(lambda: ask(args), MEMORY_ADVICE)
