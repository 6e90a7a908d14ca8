"""A stage of the examination in a process of its own, so that a crash or a hang in a library is one more finding."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .findings import FAILED, Check, Fact, place_of, words_of

REPORT = "Put this report into an issue."


def isolated(name: str, seconds: float, stage: str, *args) -> Iterator[Fact | Check]:
    """What the generator function ``stage`` yields for ``args``, in a new process.

    name: of the stage, for what goes wrong; seconds: after which it is ended; stage: its full name, as only the new
    process imports it. Nothing is raised for the stage: an error, a crash or a hang is a ``Check`` that failed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="psa_paddle_") as folder:
        said = Path(folder) / "said"
        process = context.Process(target=_run, args=(sender, said, name, stage, args), daemon=True)
        process.start()
        sender.close()
        try:
            yield from _received(receiver, time.monotonic() + seconds)
            process.join()
            if process.exitcode:
                yield Check(name, FAILED, f"the process {_end(process.exitcode)}{_last_words(said)}.", REPORT)
        except TimeoutError:
            yield Check(name, FAILED, f"no answer within {seconds:g} s{_last_words(said)}.", REPORT)
        finally:
            process.kill()
            process.join()


def _received(receiver, end: float) -> Iterator[Fact | Check]:
    while receiver.poll(max(0.0, end - time.monotonic())):
        try:
            found = receiver.recv()
        except EOFError:  # the process has ended
            return
        yield found
    raise TimeoutError


def _run(sender, said: Path, name: str, stage: str, args: tuple) -> None:
    """The new process: findings go to ``sender``, what libraries print to the file ``said``, temporary files beside it,
    so that they are removed also when the process is ended."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(said.parent)
    stream = os.open(said, os.O_WRONLY | os.O_CREAT, 0o600)
    for descriptor in (1, 2):
        os.dup2(stream, descriptor)
    try:
        module, _, function = stage.rpartition(".")
        for found in getattr(importlib.import_module(module), function)(*args):
            sender.send(found)
    except ModuleNotFoundError as error:
        sender.send(Check(name, FAILED, words_of(error), f"Install {error.name}, then run this again."))
    except Exception as error:  # whatever a library raises, the doctor goes on
        sender.send(Check(name, FAILED, f"{words_of(error)} ({place_of(error)})", REPORT))
    finally:
        sender.close()


def _end(exitcode: int) -> str:
    return f"was ended by {signal.Signals(-exitcode).name}" if exitcode < 0 else f"ended with status {exitcode}"


def _last_words(said: Path) -> str:
    """The last line that the process wrote, which often names the library that failed."""
    text = said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"; its last words: {lines[-1][:200]}" if lines else ""
