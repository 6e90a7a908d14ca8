"""Allocation and launch by looking at a tensor's own type; only frameworks that are already loaded are used."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from triton.runtime.jit import JITFunction

from .host_view import HostView
from .recording import ALIGNMENT, now
from .run import run

TORCH, PADDLE, NUMPY = "torch", "paddle", "numpy"
_FRAMEWORKS: dict = {}  # type -> framework
_NAMES: dict = {}  # (framework, dtype) -> its name
_CONSTANTS: dict = {}  # (values, dtype, framework, device) -> the tensor that holds them
MOST_CONSTANTS = 1024


class Tensor(Protocol):
    """What paddle.Tensor, torch.Tensor and np.ndarray have in common; a dtype is its framework's own."""

    dtype: Any

    @property
    def shape(self) -> Sequence[int]:
        """Sizes of the dimensions."""


def framework_of(x) -> str:
    """``"torch"``, ``"paddle"`` or ``"numpy"``.

    Raises:
        TypeError: another kind of object.
    """
    kind = type(x)
    if kind not in _FRAMEWORKS:
        roots = [base.__module__.partition(".")[0] for base in kind.__mro__]
        found = next((name for name in (PADDLE, TORCH, NUMPY) if name in roots), None)
        if found is None:
            raise TypeError(f"expected a paddle.Tensor or a torch.Tensor, got {kind.__name__}.")
        _FRAMEWORKS[kind] = found
    return _FRAMEWORKS[kind]


def dtype_name(x) -> str:
    """``"float16"``, ``"bfloat16"``, ... of a tensor of any framework."""
    key = (framework_of(x), x.dtype)
    if key not in _NAMES:
        _NAMES[key] = str(x.dtype).rpartition(".")[2]
    return _NAMES[key]


def strides(x) -> tuple[int, ...]:
    """Strides in elements."""
    framework = framework_of(x)
    if framework == TORCH:
        return tuple(x.stride())
    if framework == PADDLE:
        return tuple(x.strides)
    return tuple(s // x.itemsize for s in x.strides)


def device(x) -> str:
    """``"cpu"``, ``"gpu:0"``, ... of a tensor of any framework."""
    framework = framework_of(x)
    if framework == NUMPY:
        return "cpu"
    if framework == TORCH:
        return f"gpu:{x.device.index}" if x.is_cuda else x.device.type
    return f"gpu:{x.place.gpu_device_id()}" if x.place.is_gpu_place() else "cpu"


def layout(x) -> tuple | None:
    """What of a GPU tensor a launch may depend on, which is all but its address; None for a tensor in host memory."""
    framework = framework_of(x)
    if framework == TORCH and x.is_cuda:
        return framework, x.shape, x.stride(), x.dtype, x.device.index, x.data_ptr() % ALIGNMENT
    if framework == PADDLE and x.place.is_gpu_place():
        device_id = x.place.gpu_device_id()
        return framework, tuple(x.shape), tuple(x.strides), x.dtype, device_id, x.data_ptr() % ALIGNMENT
    return None


def empty(shape, dtype: str, like):
    """An uninitialised contiguous tensor of ``like``'s framework on ``like``'s device; ``dtype`` by name."""
    x = _empty(shape, dtype, like)
    if now.recording is not None:
        now.recording.make(x, shape, dtype)
    return x


def _empty(shape, dtype: str, like):
    framework = framework_of(like)
    if framework == NUMPY:
        return np.empty(shape, dtype)
    module = sys.modules[framework]
    if framework == TORCH:
        return module.empty(shape, dtype=getattr(module, dtype), device=like.device)
    return module._C_ops.empty(list(shape), getattr(module, dtype), like.place)


def from_host(array: np.ndarray, like):
    """A copy of a NumPy array as a tensor of ``like``'s framework on ``like``'s device; the host waits for it."""
    framework = framework_of(like)
    if framework == NUMPY:
        return array.copy()
    module = sys.modules[framework]
    if framework == TORCH:
        return module.tensor(array, device=like.device)
    return module.to_tensor(array, place=like.place)


def constant(values: tuple[float, ...], dtype: str, like):
    """The values as a tensor of ``like``'s framework on ``like``'s device, copied there once; not to be written to."""
    key = (values, dtype, framework_of(like), device(like))
    if key not in _CONSTANTS:
        if len(_CONSTANTS) >= MOST_CONSTANTS:
            _CONSTANTS.clear()
        _CONSTANTS[key] = from_host(np.array(values, dtype), like)
    if now.recording is not None:
        now.recording.keep(_CONSTANTS[key])
    return _CONSTANTS[key]


def interpreting(kernel) -> bool:
    """Whether ``kernel`` was decorated under ``TRITON_INTERPRET=1``."""
    return not isinstance(kernel, JITFunction)


def arch(like, kernel) -> int:
    """Compute capability of ``like``'s device, 90 for Hopper; 0 in the interpreter."""
    if interpreting(kernel):
        return 0
    if framework_of(like) == PADDLE:
        from .driver import capability

        major, minor = capability(like.place.gpu_device_id())
    else:
        major, minor = sys.modules[TORCH].cuda.get_device_capability(like.device)
    return 10 * major + minor


def multiprocessors(like, kernel) -> int:
    """How many multiprocessors ``like``'s device has; 2 in the interpreter."""
    if interpreting(kernel):
        return 2
    if framework_of(like) == PADDLE:
        from .driver import multiprocessors

        return multiprocessors(like.place.gpu_device_id())
    return sys.modules[TORCH].cuda.get_device_properties(like.device).multi_processor_count


@contextmanager
def on_device_of(like) -> Iterator[int]:
    """Triton's active driver is that of ``like``'s framework and device, whose number is given.

    Raises:
        ValueError: a tensor in host memory.
    """
    framework = framework_of(like)
    if framework == PADDLE and like.place.is_gpu_place():
        from .driver import active_on

        with active_on(like.place.gpu_device_id()) as device:
            yield device
    elif framework == TORCH and like.is_cuda:
        with sys.modules[TORCH].cuda.device_of(like):
            yield like.device.index
    else:
        raise ValueError("Triton kernels need CUDA tensors (or TRITON_INTERPRET=1 set before they are imported).")


def launch(kernel, grid: tuple[int, ...], *, like, **kwargs) -> None:
    """Run ``kernel[grid](**kwargs)`` on ``like``'s device and its framework's current stream.

    Raises:
        ValueError: a tensor in host memory outside Triton's interpreter.
    """
    if interpreting(kernel):
        if framework_of(like) != TORCH:
            kwargs = {name: _host_view(x) for name, x in kwargs.items()}
        kernel[grid](**kwargs)
    else:
        with on_device_of(like) as device:
            run(kernel, grid, device, kwargs)


def _host_view(x):
    if isinstance(x, np.ndarray):
        return HostView(x.ctypes.data, x.dtype.name, x.shape, strides(x))
    if hasattr(x, "data_ptr"):
        return HostView(x.data_ptr(), dtype_name(x), x.shape, strides(x))
    return x
