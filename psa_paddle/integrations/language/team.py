"""Tensor parallel: the processes that answer together, each with its share of the heads, over Paddle's fleet.

Every rank runs the same program and makes the same calls; what may differ between them (files, chance, rounding) is
settled here. Paddle's launcher starts the processes, and ends all of them when one ends with an error.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import paddle

from ...stats import CallStats, merge_heads, on_host
from .request import whole_number

HOW_TO_START = (
    "'python -m paddle.distributed.launch --gpus 0,1 psa-paddle ask ... --tensor-parallel 2' starts two "
    "(docs/several-gpus.md)"
)
SHARED_OUT = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")


class RankFailed(RuntimeError):
    """A rank failed where the others wait for it: no rank can go on."""


@dataclass(frozen=True)
class Team:
    """rank: which of the processes this is; size: how many there are, 1 for a program of its own."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def gather(self, value) -> list:
        """What each rank says, by rank; all ranks have to ask."""
        if self.size == 1:
            return [value]
        said: list = []
        paddle.distributed.all_gather_object(said, value)
        return said

    def of_first(self, tensor: paddle.Tensor) -> paddle.Tensor:
        """The tensor of rank 0, in the place of each rank's own, which differs by rounding at most."""
        if self.size > 1:
            paddle.distributed.broadcast(tensor, src=0)
        return tensor

    def settle(self, *settings) -> int:
        """Make sure that all ranks are asked the same; returns a number for chance to start from, the same on all.

        Raises:
            ValueError: on all ranks, where the settings differ.
        """
        chance = int.from_bytes(os.urandom(8), "big")
        said = self.gather((hashlib.sha256(repr(settings).encode()).digest(), chance))
        if len({digest for digest, _ in said}) > 1:
            raise ValueError("the ranks were asked different things; every rank has to make the same calls.")
        return said[0][1]

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """What stands inside is done by each rank for itself; what fails on one of them fails on all."""
        if self.size == 1:
            yield
            return
        try:
            yield
        except Exception as error:
            self.gather(str(error))
            raise
        failures = {rank: said for rank, said in enumerate(self.gather(None)) if said is not None}
        for rank, said in failures.items():
            raise ValueError(f"rank {rank} failed: {said}")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What stands inside waits for the other ranks, and they for this one.

        Raises:
            RankFailed: anything failed there. The process then ends at once where it ends.
        """
        try:
            yield
        except BaseException as error:
            if self.size == 1:
                raise
            atexit.register(_leave)
            raise RankFailed(f"rank {self.rank} of {self.size} cannot go on, so no rank can: {error}") from error

    def share(self, values: tuple) -> tuple:
        """This rank's part of what is given for each head."""
        count = len(values) // self.size
        return values[self.rank * count : (self.rank + 1) * count]

    def gather_calls(self, calls: list[tuple[int, CallStats]]) -> list[tuple[int, CallStats]]:
        """The calls of layers with the heads of all ranks; reads the counts from the device."""
        if self.size == 1:
            return calls
        ranks = self.gather([(layer, on_host(call)) for layer, call in calls])
        return [(same[0][0], merge_heads([call for _, call in same])) for same in zip(*ranks, strict=True)]


ALONE = Team()


def _leave() -> None:
    """Collectives that nobody answers any more would keep the process from ending, and so its launcher from seeing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def check_ranks(tensor_parallel: int | None) -> int:
    """Over how many processes the heads are split; 1 for None.

    Raises:
        TypeError, ValueError: no such number, another one than the launcher started, or no GPUs.
    """
    if tensor_parallel is None:
        return 1
    wanted, there = whole_number(tensor_parallel, "tensor_parallel", 1), paddle.distributed.get_world_size()
    if wanted > 1 and there == 1:
        raise ValueError(f"tensor_parallel={wanted} needs {wanted} processes, and this is one alone; {HOW_TO_START}.")
    if wanted != there:
        raise ValueError(f"tensor_parallel={wanted}, but the launcher started {there} processes; make them the same.")
    if wanted > 1:
        check_device()
    return wanted


def check_device() -> None:
    """ValueError: Paddle runs on a CPU, where its engine cannot send weights and sum."""
    if paddle.get_device() == "cpu":
        raise ValueError("tensor_parallel needs a GPU for each process, and this is a CPU; leave it out.")


def join(size: int) -> Team:
    """The team of ``size`` processes, one a GPU, with fleet initialised; all of them have to call this.

    Raises:
        ValueError: fleet was initialised otherwise before.
    """
    if size == 1:
        return ALONE
    from paddle.distributed import fleet

    strategy = fleet.DistributedStrategy()
    strategy.hybrid_configs = {"mp_degree": size}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Current global rank")  # groups of one, for what is not split
        fleet.init(is_collective=True, strategy=strategy)  # keeps the groups of an earlier one
    there = fleet.get_hybrid_communicate_group().get_model_parallel_world_size()
    if there != size:
        raise ValueError(f"tensor_parallel={size}, but fleet was initialised with mp_degree {there} before.")
    return Team(paddle.distributed.get_rank(), size)


def split(config, team: Team) -> None:
    """Let a model's configuration, before the model is made, split the text model over the team.

    Raises:
        ValueError: heads, or what else is shared out, that the team cannot share evenly.
    """
    if team.size == 1:
        return
    text = getattr(config, "text_config", None) or config
    counts = {name: getattr(text, name) for name in SHARED_OUT}
    if any(count % team.size for count in counts.values()):
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(f"{team.size} processes cannot share it evenly ({listed}); take a divisor of all of these")
    for part in (config, text):
        part.tensor_model_parallel_size, part.tensor_parallel_rank = team.size, team.rank
        part.tensor_parallel_output = False  # each rank would have the logits of its own part of the vocabulary


def team_of(config: Any) -> Team:
    """The team that a model's text configuration was split over."""
    return Team(getattr(config, "tensor_parallel_rank", 0), max(1, getattr(config, "tensor_model_parallel_size", 1)))
