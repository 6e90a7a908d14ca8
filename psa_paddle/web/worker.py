"""One thread that does jobs one after another, a bounded line before it, and jobs that stop when nobody waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

TICK, BEAT = 0.1, 1.0  # seconds between two looks at a job, and the most between two signs of life


class Full(Exception):
    """As many jobs wait as may."""


class Left(BaseException):
    """Nobody waits for this job any more. Not an ``Exception``, so that no decoder takes it for damaged bytes."""


class Job:
    """One piece of work, as the one who waits for it sees it.

    stage: what it is at, "" while it waits; done, total: how far; text: what was made so far; ahead: jobs before it.
    """

    def __init__(self, line: list[Job]):
        self.stage, self.done, self.total, self.text = "", 0, 0, ""
        self.left = False
        self._line = line
        self.future: Future[Any] = Future()

    def report(self, stage: str, done: int, total: int) -> None:
        """Note how far the job is; a ``Report`` of the model's.

        Raises:
            Left: nobody waits any more, so that the work ends here: between files, portions of frames, layers, tokens.
        """
        if self.left:
            raise Left
        self.stage, self.done, self.total = stage, done, total

    def hear(self, text: str) -> None:
        """Add to what was made."""
        self.text += text

    def leave(self) -> None:
        """Nobody waits any more: it does not begin, or ends at its next report."""
        self.left = True
        self.future.cancel()

    @property
    def ahead(self) -> int:
        """Jobs before this one."""
        try:
            return self._line.index(self)
        except ValueError:
            return 0

    @property
    def seen(self) -> tuple:
        """What changes when there is something to show."""
        return self.stage, self.done, self.total, len(self.text), self.ahead

    async def follow(self) -> AsyncGenerator[None, None]:
        """Comes by whenever there is something new, and once in ``BEAT`` seconds, until the job is done. When the one
        who waits goes away, so does the job."""
        last, beat = None, 0.0
        try:
            while not self.future.done():
                if self.seen != last or time.monotonic() - beat >= BEAT:
                    last, beat = self.seen, time.monotonic()
                    yield
                await asyncio.sleep(TICK)
        finally:
            self.leave()

    def result(self) -> Any:
        """What the job gave.

        Raises:
            Left: it was stopped. Whatever the job raised.
        """
        try:
            return self.future.result()
        except CancelledError:
            raise Left from None


class Worker:
    """Does jobs in a thread of its own, in the order in which they came.

    waiting: how many may wait while one is worked on; begin: called in the thread before anything else.
    """

    def __init__(self, name: str, waiting: int, begin: Callable[[], Any] | None = None):
        self._waiting, self._line = waiting, list[Job]()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=begin)

    def submit(self, work: Callable[[Job], Any]) -> Job:
        """Line up work that is called with its job.

        Raises:
            Full: as many jobs wait as may.
        """
        with self._lock:
            if len(self._line) > self._waiting:
                raise Full
            job = Job(self._line)
            self._line.append(job)
            job.future = self._pool.submit(self._work, job, work)
        job.future.add_done_callback(lambda _: self._gone(job))
        return job

    @staticmethod
    def _work(job: Job, work: Callable[[Job], Any]) -> Any:
        job.report("", 0, 0)
        return work(job)

    def _gone(self, job: Job) -> None:
        with self._lock:
            self._line.remove(job)

    def close(self) -> None:
        """Stop what is worked on, forget what waits, and wait for the thread."""
        with self._lock:
            left = list(self._line)
        for job in left:
            job.leave()
        self._pool.shutdown()
