"""A call of a host function again, without the host's work: what it allocates and launches is known from the first.

Where the tensors of two calls differ in nothing but their addresses, sizes, strides and compiled kernels are the same,
and addresses are aligned alike, so that all holds that Triton specialised the kernels for.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from triton import knobs
from triton.runtime import driver

from .alloc import empty, layout, on_device_of
from .recording import ALIGNMENT, Recording, now
from .versions import has_known_launcher

MOST = 1024  # calls that are remembered
APART = 256  # bytes; what allocations that share a buffer are aligned to, as allocators do
_SIZES = {"int8": 1, "int16": 2, "float16": 2, "bfloat16": 2, "int32": 4, "float32": 4}
HOST, NEW = "host", object()  # the layout of a tensor in host memory; the recipe of a call that was never made
_RECIPES: dict = {}  # what a call was made with but for addresses -> its recipe, or None where there cannot be one


class _Buffer(NamedTuple):
    """An allocation of a repeated call.

    tensors: (number, bytes before it) of those that lie in it; before: the launch that it is made for; after: the
    launch from which on nobody needs it, None for what is returned.
    """

    shape: tuple[int, ...]
    dtype: str
    tensors: tuple[tuple[int, int], ...]
    before: int
    after: int | None


class _Step(NamedTuple):
    """A launch of a repeated call. makes, drops: the buffers, by number, that are made before it and dropped after it;
    places: (place among the arguments, number of the tensor there, the descriptor if it stands in one)."""

    makes: list[int]
    drops: list[int]
    compiled: Any
    grid: tuple[int, int, int]
    arguments: list
    places: list[tuple[int, int, Any]]


class _At:
    """Stands for a tensor where its address alone is asked for."""

    def __init__(self, address: int):
        self.address = address

    def data_ptr(self) -> int:
        """The address."""
        return self.address


def _descriptor_at(descriptor, address: int):
    """A copy of a descriptor for the tensor at another address; a constructor would check it again."""
    found = object.__new__(type(descriptor))
    found.__dict__.update(descriptor.__dict__, base=_At(address))
    return found


def _buffers(recording: Recording, returned: tuple[int, ...]) -> list[_Buffer]:
    """A recording's allocations: what is returned has a buffer of its own, the others share one with those whose last
    launch is the same, so that the host allocates little and nothing is held for longer than it is needed."""
    last = {number: i for i, launch in enumerate(recording.launches) for number in launch.tensors.values()}
    own: list[_Buffer] = []
    shared: dict[int, list] = {}
    for number, made in enumerate(recording.made, recording.given):
        if number in returned:
            own.append(_Buffer(made.shape, made.dtype, ((number, 0),), made.launches, None))
        elif number in last:
            shared.setdefault(last[number], []).append((number, made))
    for after, group in shared.items():
        size, places = 0, []
        for number, made in group:
            places.append((number, size))
            size += -(-prod(made.shape) * _SIZES[made.dtype] // APART) * APART
        own.append(_Buffer((size,), "uint8", tuple(places), min(made.launches for _, made in group), after))
    return own


class Recipe:
    """How to repeat a recorded call whose result was the tensors with these numbers, or the one with this number."""

    def __init__(self, recording: Recording, result: tuple[int, ...] | int):
        self.result, self.kept, self.made = result, recording.kept, len(recording.made)
        self.buffers = _buffers(recording, result if isinstance(result, tuple) else (result,))
        self.steps = [
            _Step(
                [n for n, buffer in enumerate(self.buffers) if buffer.before == i],
                [n for n, buffer in enumerate(self.buffers) if buffer.after == i],
                launch.compiled,
                launch.grid,
                launch.arguments,
                [(place, number, launch.arguments[place]) for place, number in launch.tensors.items()],
            )
            for i, launch in enumerate(recording.launches)
        ]

    def __call__(self, given: tuple):
        """The call's result for other tensors; None where an allocation is not aligned as the recorded one was."""
        tensors = [*given, *[None] * self.made]
        addresses = [0 if x is None else x.data_ptr() for x in tensors]
        buffers: dict = {}
        with on_device_of(given[0]) as device:
            stream = driver.active.get_current_stream(device)
            for makes, drops, compiled, grid, known, places in self.steps:
                for n in makes:
                    shape, dtype, held, _, after = self.buffers[n]
                    buffers[n] = empty(shape, dtype, given[0])
                    start = buffers[n].data_ptr()
                    if start % ALIGNMENT:
                        return None
                    for number, offset in held:
                        addresses[number] = start + offset
                    if after is None:
                        tensors[held[0][0]] = buffers[n]
                arguments = known.copy()
                for place, number, descriptor in places:
                    address = addresses[number]
                    arguments[place] = address if descriptor is None else _descriptor_at(descriptor, address)
                launched = stream, compiled.function, compiled.packed_metadata, None, None, None
                compiled.run(*grid, *launched, *arguments)
                for n in drops:
                    del buffers[n]
        return tuple(tensors[n] for n in self.result) if isinstance(self.result, tuple) else tensors[self.result]


def _watched() -> bool:
    """Whether somebody, such as a profiler, wants to be told of launches, which a repeated call does not do."""
    hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return any(getattr(hook, "calls", hook) for hook in hooks)


def _record(function, settings: tuple, given: tuple):
    """``(result, recipe)`` of a first call; no recipe where not all that it did is understood."""
    now.recording = recording = Recording(given)
    try:
        result = function(*given, *settings)
        returned = [recording.number(x) for x in (result if isinstance(result, tuple) else (result,))]
    finally:
        now.recording = None
    numbers = tuple(number for number in returned if number is not None)
    known = recording.complete and len(numbers) == len(returned) and has_known_launcher()
    if not known or not recording.launches:
        return result, None
    return result, Recipe(recording, numbers if isinstance(result, tuple) else numbers[0])


def repeat(function, settings: tuple, *given):
    """``function(*given, *settings)``, by repeating what an earlier call with such tensors did on the device.

    Args:
        function: allocates by ``bridge.empty``, launches by ``bridge.launch`` and returns tensors that it was given or
            allocated, one or a tuple; it goes by the settings and the tensors' dtypes, shapes, strides, devices and
            alignment alone, and does nothing else on the device.
        settings: hashable.
        given: tensors, the first of them on the device of all, or None.

    Raises:
        whatever ``function`` does.
    """
    layouts = tuple(None if x is None else layout(x) or HOST for x in given)
    if HOST in layouts or now.recording is not None or _watched():
        return function(*given, *settings)
    key = function, settings, layouts
    recipe = _RECIPES.get(key, NEW)
    if recipe is NEW:
        result, recipe = _record(function, settings, given)
        if len(_RECIPES) >= MOST:
            _RECIPES.clear()
        _RECIPES[key] = recipe
        return result
    result = None if recipe is None else recipe(given)
    return function(*given, *settings) if result is None else result
