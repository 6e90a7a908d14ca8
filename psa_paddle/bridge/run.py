"""Launches without Triton's search for the compiled kernel, which takes the host longer than the launch itself."""

from __future__ import annotations

from .recording import ALIGNMENT, now

MOST = 4096  # calls that are remembered
_COMPILED: dict = {}  # what Triton may compile another kernel for -> the compiled kernel


def _kind(x):
    """What of an argument may decide which kernel is compiled for it."""
    kind = type(x)
    if kind is int or kind is str or x is None:
        return x
    if kind is tuple:
        return tuple(map(_kind, x))
    if kind is bool or kind is float:
        return kind, x  # not the integer that equals it
    if hasattr(x, "block_shape"):  # a tensor descriptor, aligned by its own rules
        return x.base.dtype, *x.block_shape
    return x.dtype, x.data_ptr() % ALIGNMENT == 0


def key_of(kernel, device: int, kwargs: dict) -> tuple:
    """What is equal only for calls that Triton has one compiled kernel for."""
    return (kernel, device, *kwargs, *map(_kind, kwargs.values()))


def run(kernel, grid: tuple[int, ...], device: int, kwargs: dict) -> None:
    """``kernel[grid](**kwargs)`` on the active driver's device, whose number is ``device``, and its stream."""
    key = key_of(kernel, device, kwargs)
    compiled = _COMPILED.get(key)
    if compiled is not None:
        compiled[(*grid, 1, 1)[:3]](*[kwargs[name] for name in kernel.arg_names])
    else:
        if len(_COMPILED) >= MOST:
            _COMPILED.clear()
        compiled = _COMPILED[key] = kernel[grid](**kwargs)
    if now.recording is not None:
        now.recording.launch(compiled, grid, [kwargs[name] for name in kernel.arg_names])
