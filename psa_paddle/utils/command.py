"""What the command lines share: exit codes, one sentence on stderr, Ctrl-C, terminals without Chinese."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager

from .language import say
from .network import chain, network_error
from .terminal import printable

BAD_INPUT, NO_MEMORY, NO_NETWORK, NOT_WRITTEN = 2, 3, 4, 5
INTERRUPTED, READER_LEFT, TERMINATED = 130, 141, 143  # 128 and the signal's number, as shells have it
EXIT_CODES = f"""exit codes:
  0    done
  {BAD_INPUT}    bad input or settings; of many requests some failed
  {NO_MEMORY}    not enough memory
  {NO_NETWORK}    the network or a hub failed
  {NOT_WRITTEN}    answered, but a file beside the answer was not written
  {INTERRUPTED}  Ctrl-C"""


class NotWritten(Exception):
    """Files beside the answer could not be written, a sentence each; the answer is out."""


class SomeFailed(Exception):
    """Some of many requests failed, each with a line that says why."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that memory ran out, on the host or on a GPU."""
    return any(isinstance(one, MemoryError) or "out of memory" in str(one).lower() for one in chain(error))


@contextmanager
def keeping_sigterm():
    """Around the first use of PaddleFormers, whose import makes Paddle give SIGTERM back to the system."""
    try:
        yield
    finally:
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def run_command(run: Callable[[], None], memory_advice: str) -> int:
    """Call ``run`` and return the exit status; what went wrong is one line on stderr.

    memory_advice: what to do when memory runs out. Errors that are neither of the input, nor of the memory or the
    network, are defects and keep their traceback.
    """
    printable()
    try:
        run()
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except NotWritten as error:
        first, *more = error.args
        return _say(" ".join([say(f"error: {first}"), *map(say, more)]), NOT_WRITTEN)
    except SomeFailed as error:
        return _say(f"error: {error}", BAD_INPUT)
    except BrokenPipeError:  # the reader of stdout has left, as in "... | head"
        return _say("", READER_LEFT)
    except (MemoryError, OSError, RuntimeError, SystemError, TypeError, ValueError) as error:
        if out_of_memory(error):
            return _say(f"error: not enough memory; {memory_advice}", NO_MEMORY)
        if isinstance(error, (RuntimeError, SystemError)):
            raise
        return _say(f"error: {error}", NO_NETWORK if network_error(error) else BAD_INPUT)


def _say(words: str, status: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
    if words:
        print(say(words), file=sys.stderr)
    return status
