"""What a call of a host function allocates and launches, noted while it runs."""

from __future__ import annotations

import copy
import threading
from typing import Any, NamedTuple

ALIGNMENT = 16  # bytes; what Triton tells addresses apart by


class Made(NamedTuple):
    """An allocation: its shape, its dtype by name, and how many launches came before it."""

    shape: tuple[int, ...]
    dtype: str
    launches: int


class Launch(NamedTuple):
    """compiled: the kernel, as Triton keeps it; grid: three numbers of programs; arguments: all, in the kernel's order;
    tensors: place among the arguments -> number of the tensor that stands there. In ``arguments`` it is None, or a
    descriptor whose base is None."""

    compiled: Any
    grid: tuple[int, int, int]
    arguments: list
    tensors: dict[int, int]


class Recording:
    """Tensors are numbered: first those that the call was given, None among them, then each allocation in turn. They
    are told by their addresses, so that none is kept alive: of those that had one address in turn the last is meant.

    made: the allocations; launches: the launches; kept: constants on the device; complete: whether nothing happened
    that this cannot tell: one tensor given twice, or a launch on a tensor that was neither given nor allocated.
    """

    def __init__(self, given: tuple):
        self.given = len(given)
        self.made: list[Made] = []
        self.launches: list[Launch] = []
        self.kept: list = []
        self._numbers = {x.data_ptr(): number for number, x in enumerate(given) if x is not None}
        self.complete = len(self._numbers) == sum(x is not None for x in given)

    def make(self, x, shape, dtype: str) -> None:
        """Note an allocation."""
        address = x.data_ptr()
        fresh = self._numbers.get(address, self.given) >= self.given
        self.complete &= fresh and address != 0 and address % ALIGNMENT == 0
        self._numbers[address] = self.given + len(self.made)
        self.made.append(Made(tuple(shape), dtype, len(self.launches)))

    def keep(self, x) -> None:
        """Note a constant, which stays where it is."""
        self.kept.append(x)

    def launch(self, compiled, grid: tuple[int, ...], arguments: list) -> None:
        """Note a launch."""
        tensors, plain = {}, list(arguments)
        constants = {x.data_ptr() for x in self.kept}
        for place, x in enumerate(arguments):
            base = x.base if hasattr(x, "block_shape") else x  # of a descriptor, or a tensor itself
            if not hasattr(base, "data_ptr"):
                continue
            if base.data_ptr() in constants:
                plain[place] = base.data_ptr()
                continue
            number = self.number(base)
            if number is None:
                self.complete = False
                return
            tensors[place] = number
            plain[place] = None if base is x else copy.copy(x)
            if base is not x:
                plain[place].base = None
        x, y, z = (*grid, 1, 1)[:3]
        self.launches.append(Launch(compiled, (x, y, z), plain, tensors))

    def number(self, x) -> int | None:
        """Which tensor this is; None for one that was neither given nor allocated."""
        return self._numbers.get(x.data_ptr())


class _Now(threading.local):
    recording: Recording | None = None


now = _Now()  # the recording that is under way in this thread
