"""``doctor``: what this machine has, whether psa_paddle computes right on it, and a report to paste into an issue.

Each stage that imports Paddle runs in a process of its own (``isolated``); this one imports neither Paddle nor Triton.
Nothing is sent anywhere: the hub is asked once whether it answers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator

from ..utils.language import say
from ..utils.terminal import padded
from .findings import (
    ANSWER,
    BUILD,
    FAILED,
    KERNELS,
    NOT_POSSIBLE,
    OK,
    OPERATIONS,
    OPERATOR,
    TIMING,
    Check,
    Fact,
    plural,
)
from .isolated import isolated
from .machine import machine_facts, nvidia_gpus, version_checks

CHECK_FAILED = 6  # the exit status beside those of utils/command.py, whose imports may be what is missing here
CHECKS = "{} check", "{} checks"
NAMED = 4  # failed checks that the verdict names
WIDTH = 18  # of the first column
DESCRIPTION = f"""Examine this machine: what it has, whether attention computes right on it,
how fast, and one answer of the demo model, in about two minutes.
Exit status 0 when all is well, {CHECK_FAILED} when a check failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``run``."""
    parser.description = DESCRIPTION
    parser.add_argument("--quick", action="store_true", help="neither times nor an answer of the demo model")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the report")


def run(args: argparse.Namespace) -> int:
    """Examine and print the report as it grows; 0, ``CHECK_FAILED``, 130 at Ctrl-C or 141 when nobody reads on."""
    try:
        return _report(args)
    except KeyboardInterrupt:
        print(say("interrupted"), file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in "... | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


def _report(args: argparse.Namespace) -> int:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # the demo model answers in Chinese
    show, start, findings = (lambda line: None) if args.json else _show, time.monotonic(), []
    show("```text")
    for found in examine(args.quick):
        findings.append(found)
        show(line_of(found))
    checks = [found for found in findings if isinstance(found, Check)]
    seconds, words = time.monotonic() - start, verdict(checks)
    show(_row(say("Verdict"), say(words)))
    show(f"{_row(say('Time'), f'{seconds:.0f} s')}\n```")
    show(say("For a bug report copy what stands between the two lines of ```."))
    failed = any(check.status == FAILED for check in checks)
    if args.json:
        _show(json.dumps({
            "well": not failed,
            "verdict": words,
            "seconds": round(seconds, 1),
            "quick": args.quick,
            "machine": {found.name: found.value for found in findings if isinstance(found, Fact)},
            "checks": [vars(check) for check in checks],
        }, indent=2, ensure_ascii=False))  # fmt: skip
    return CHECK_FAILED if failed else 0


def _show(line: str) -> None:
    print(line, flush=True)


def line_of(found: Fact | Check) -> str:
    """A finding for a person; advice stands below it."""
    if isinstance(found, Fact):
        return _row(say(found.name), say(found.value))
    advice = "\n" + _row("", f"-> {say(found.advice)}") if found.advice else ""
    return _row(say(found.status), f"{found.name}: {say(found.detail)}{advice}")


def _row(first: str, rest: str) -> str:
    return padded(first, WIDTH) + rest


def verdict(checks: list[Check]) -> str:
    """The checks in one sentence, and what to do first."""
    failed = [check for check in checks if check.status == FAILED]
    skipped = sum(check.status == NOT_POSSIBLE for check in checks)
    rest = f", {skipped} not possible here" if skipped else ""
    if not failed:
        return f"all is well: {plural(len(checks) - skipped, *CHECKS)} ok{rest}."
    more = len(failed) - NAMED
    names = ", ".join(check.name for check in failed[:NAMED]) + (f" and {more} more" if more > 0 else "")
    return (
        f"{len(failed)} of {plural(len(checks), *CHECKS)} FAILED{rest}: {names}. What to do first: {failed[0].advice}"
    )


def examine(quick: bool) -> Iterator[Fact | Check]:
    """Everything, in the order in which one thing stands on another."""
    gpus = nvidia_gpus()
    yield from machine_facts(gpus)
    yield from version_checks()
    later = ["hub", KERNELS, OPERATIONS, OPERATOR, *([] if quick else [TIMING, ANSWER])]
    found = yield from _passed(isolated(BUILD, 60, f"{__name__}.paddle_build.paddle_build", gpus))
    devices = [one.value for one in found if isinstance(one, Fact) and one.name == "device"]
    if not devices:
        yield from (_impossible(name, "Paddle cannot be used") for name in later)
        return
    yield from isolated("hub", 20, f"{__name__}.machine.hub")
    on_gpu = devices[0].startswith("gpu")
    computes = _all_ok((yield from _passed(isolated(OPERATIONS, 60, f"{__name__}.paddle_build.paddle_operations"))))
    launches = _all_ok((yield from _passed(isolated(KERNELS, 90, f"{__name__}.operator.first_launch"))))
    backends = (*(["triton"] if launches else []), *(["eager"] if computes else []))
    if not backends:
        later = later[3:]
        yield from (_impossible(name, "neither Paddle's operations nor Triton's kernels work") for name in later)
        return
    yield from isolated(OPERATOR, 120, f"{__name__}.operator.operator_checks", backends)
    if quick:
        return
    if launches or not on_gpu:
        yield from isolated(TIMING, 120, f"{__name__}.timing.timing", computes)
    else:
        yield _impossible(TIMING, "without Triton's kernels the operator is slow on a GPU")
    if not computes:
        yield _impossible(ANSWER, "Paddle's own operations are broken")
        return
    for dtype in ("float32", "bfloat16") if on_gpu else ("float32",):
        yield from isolated(f"{ANSWER} ({dtype})", 120, f"{__name__}.answer.demo_answer", dtype)


def _passed(findings: Iterator[Fact | Check]):
    """Yield the findings and return them as a list."""
    found = []
    for one in findings:
        found.append(one)
        yield one
    return found


def _all_ok(findings: list[Fact | Check]) -> bool:
    checks = [found for found in findings if isinstance(found, Check)]
    return bool(checks) and all(check.status == OK for check in checks)


def _impossible(name: str, why: str) -> Check:
    return Check(name, NOT_POSSIBLE, why, "Repair what FAILED above, then run this again.")
