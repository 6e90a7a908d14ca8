"""Many questions: one load of the model, one line of JSON an answer, an error in a line of its own."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import contextmanager

from ..integrations.language.answering.reports import Report
from ..integrations.language.families import Family
from ..integrations.language.inference import QwenVLInference
from ..integrations.language.team import RankFailed
from ..utils.command import SomeFailed, out_of_memory
from ..utils.files import check_file, replacing
from .ask_requests import Loaded, Request, ask_model


def identity(request: Request) -> dict:
    """What tells a request apart, as its line has it."""
    return {"id": request.id, "input": list(request.sources), "prompt": request.question}


def details(stats: dict, args: argparse.Namespace) -> dict:
    """What a line says beside the answer."""
    return {"finish_reason": stats["finish_reason"], **({} if args.stats == "off" else {"stats": stats})}


def read_answered(path, requests: list[Request]) -> tuple[list[str], set]:
    """The whole lines of a file of answers that hold an answer, and the ids of those; what failed is asked again.

    Raises:
        ValueError: lines that are no answers, or that answer something else under one of the ids.
    """
    if path is None or not path.is_file():
        return [], set()
    asked = {request.id: identity(request) for request in requests}
    kept, done = [], set()
    whole = path.read_text(encoding="utf-8").split("\n")[:-1]  # behind the last end: what a killed process was writing
    for number, line in enumerate(whole, 1):
        try:
            said = json.loads(line)
            mine = {name: said[name] for name in ("id", "input", "prompt")}
            expected = asked.get(mine["id"])
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"--output '{path}', line {number} is no answer; name another file.") from None
        if mine != expected:
            raise ValueError(f"--output '{path}', line {number} answers another request; name another file.")
        if "answer" in said:
            kept.append(f"{line}\n")
            done.add(mine["id"])
    return kept, done


@contextmanager
def opened(path, kept: list[str]):
    """Yields what writes a line: to stdout, or behind the lines that a file keeps."""
    if path is None:
        yield lambda line: print(line, flush=True)
        return
    if path.is_file() or not path.exists():
        with replacing(path) as part:
            part.write_text("".join(kept), encoding="utf-8")
    with open(path, "a", encoding="utf-8") as file:
        yield lambda line: print(line, file=file, flush=True)


class _Reader:
    """Reads what requests show, and keeps it for as long as they show the same."""

    def __init__(self, args: argparse.Namespace, report: Report, family: Family):
        self._args, self._report, self._family = args, report, family
        self._name: tuple | None = None
        self._loaded = Loaded([], 0.0)

    def read(self, request: Request) -> Loaded:
        """What the request shows; no seconds where the one before showed the same."""
        name = request.sources, request.kind
        if name == self._name:
            return Loaded(self._loaded.shown, 0.0)
        self._name, self._loaded = None, Loaded([], 0.0)  # so that the media of two are never in memory
        self._loaded = request.load(self._args, self._report, self._family)
        self._name = name
        return self._loaded


def answer_many(
    args: argparse.Namespace, requests: list[Request], make_model: Callable[[], QwenVLInference], report: Report
) -> None:
    """Answer the requests that have no answer yet, and write a line for each.

    Raises:
        SomeFailed: at the end, where requests have an error in place of an answer. ValueError: an --output that holds
            something else.
    """
    path = None if args.output is None else check_file(args.output, "--output")
    kept, done = read_answered(path, requests)
    left = [request for request in requests if request.id not in done]
    if not left:
        return
    model, failed = make_model(), 0
    reader = _Reader(args, report, model.family)
    with opened(path if model.team.leads else None, kept) as write:
        for request in left:
            line = identity(request)
            try:
                with model.team.agreeing():
                    loaded = reader.read(request)
                text, stats = ask_model(model, loaded, request.question, request.max_tokens, args.max_pixels)
                line |= {"answer": text, **details(stats, args)}
            except (MemoryError, OSError, RuntimeError, SystemError, TypeError, ValueError) as error:
                defect = isinstance(error, (RuntimeError, SystemError)) and not out_of_memory(error)
                if defect or isinstance(error, RankFailed):
                    raise
                failed += 1
                line |= {"error": "not enough memory" if out_of_memory(error) else str(error)}
            write(json.dumps(line, ensure_ascii=False))
    if failed:
        raise SomeFailed(f"{failed} of {len(left)} requests failed; their lines say why.")
