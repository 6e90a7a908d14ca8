"""Triton's CUDA driver with Paddle's device and stream; torch is not imported, nothing installed is changed."""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils
from triton.runtime import driver as config

MULTIPROCESSORS, CAPABILITY_MAJOR, CAPABILITY_MINOR = 16, 75, 76  # CUdevice_attribute
_LOCK = threading.Lock()  # the active driver is global to the process


class PaddleDriver(CudaDriver):
    """The driver of one CUDA device whose stream is Paddle's current one at each launch."""

    def __init__(self, device: int):
        # Not CudaDriver.__init__: it imports torch (Triton < 3.8), or takes the default stream without it (>= 3.8).
        self.utils = CudaUtils()
        self.launcher_cls = CudaLauncher
        current_stream = sys.modules["paddle"].base.core._get_current_stream
        self.get_current_device = lambda: device
        self.set_current_device = lambda _: None
        self.get_current_stream = lambda index: current_stream(index).cuda_stream
        self.get_device_capability = capability


@functools.cache
def driver_of(device: int) -> PaddleDriver:
    """The driver of a CUDA device, made once."""
    return PaddleDriver(device)


@functools.cache
def libcuda():
    """CUDA's driver library, loaded once."""
    return ctypes.CDLL("libcuda.so.1")


def _call(name: str, *args) -> None:
    status = getattr(libcuda(), name)(*args)
    if status:
        raise RuntimeError(f"{name} failed with CUDA error {status}.")


@functools.cache
def _attribute(device: int, number: int) -> int:
    handle, value = ctypes.c_int(), ctypes.c_int()
    _call("cuDeviceGet", ctypes.byref(handle), device)
    _call("cuDeviceGetAttribute", ctypes.byref(value), number, handle)
    return value.value


def capability(device: int) -> tuple[int, int]:
    """Compute capability of a CUDA device, (major, minor)."""
    return _attribute(device, CAPABILITY_MAJOR), _attribute(device, CAPABILITY_MINOR)


def multiprocessors(device: int) -> int:
    """Number of multiprocessors of a CUDA device."""
    return _attribute(device, MULTIPROCESSORS)


@functools.cache
def primary_context(device: int) -> ctypes.c_void_p:
    """The context that Paddle uses on a device; retained once for the life of the process."""
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    _call("cuDeviceGet", ctypes.byref(handle), device)
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    return context


@contextmanager
def active_on(device: int) -> Iterator[int]:
    """Triton's active driver is Paddle's of ``device``, in its context; then driver and context are as before."""
    with _LOCK:
        driver, context = driver_of(device), primary_context(device)
        previous = config._active  # not ``active``: that would create the default driver, which may need torch
        _call("cuCtxPushCurrent_v2", context)
        config.set_active(driver)
        try:
            yield device
        finally:
            config.set_active(previous)
            _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
