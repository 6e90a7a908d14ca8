"""What of several processes, started by Paddle's launcher, the first one does alone: read, print and write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

import paddle

from ..integrations.language.team import Team, check_ranks


def ranks_of(tensor_parallel: int | None) -> int | None:
    """What --tensor-parallel asks for.

    Raises:
        ValueError: another number than the launcher started, or nothing said where it started several.
    """
    there = paddle.distributed.get_world_size()
    if tensor_parallel is None and there > 1:
        raise ValueError(f"the launcher started {there} processes; add --tensor-parallel {there}.")
    check_ranks(tensor_parallel)
    return tensor_parallel


@contextmanager
def printing() -> Iterator[None]:
    """Let the first process print on stdout; what the others do goes nowhere."""
    if paddle.distributed.get_rank() == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def reading(team: Team, read: Callable[[], str]) -> Callable[[], str]:
    """``read``, which raises EOFError at the end, done by the first process and heard by all."""

    def heard() -> str:
        line = None
        if team.leads:
            try:
                line = read()
            except EOFError:
                pass
        line = team.gather(line)[0]
        if line is None:
            raise EOFError
        return line

    return heard
