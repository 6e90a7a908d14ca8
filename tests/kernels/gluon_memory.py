"""Numbers, tensors and shared memory of the stand-in for a Hopper multiprocessor (gluon_machine.py)."""

from __future__ import annotations

import ctypes
import types

import numpy as np

from psa_paddle import bridge


class Value(np.ndarray):
    """A scalar or tensor of the kernel, which never changes; its dtype follows NumPy's rules, which keep int32 and
    float32."""

    type = types.SimpleNamespace(layout=None)

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return np.asarray(array).view(Value)

    __iadd__, __isub__ = np.ndarray.__add__, np.ndarray.__sub__
    __imul__, __iand__, __ior__ = np.ndarray.__mul__, np.ndarray.__and__, np.ndarray.__or__

    def to(self, dtype):
        return value(np.asarray(self).astype(dtype))


def value(x, dtype=None) -> Value:
    return np.asarray(x, dtype).view(Value)


class Memory:
    """The tensors of a launch, by address."""

    def __init__(self):
        self.parts = []

    def add(self, x) -> Pointer | None:
        if x is None:
            return None
        itemsize = np.dtype(bridge.dtype_name(x)).itemsize
        start = x.ctypes.data if isinstance(x, np.ndarray) else x.data_ptr()
        size = 1 + sum((n - 1) * s for n, s in zip(x.shape, bridge.strides(x), strict=True))
        raw = np.ctypeslib.as_array((ctypes.c_char * (size * itemsize)).from_address(start))
        self.parts.append((start, start + size * itemsize, raw.view(bridge.dtype_name(x))))
        return Pointer(value(start, np.int64), np.dtype(bridge.dtype_name(x)))

    def move(self, pointer: Pointer, mask, new=None, other=0):
        """Read, or write ``new``, where the mask is true."""
        at, mask = np.broadcast_arrays(np.asarray(pointer.at), np.asarray(True if mask is None else mask))
        out, left = np.full(at.shape, other, pointer.element_ty), mask.copy()
        for start, end, flat in self.parts:
            here = left & (at >= start) & (at < end)
            if here.any():
                places = (at[here] - start) // flat.itemsize
                if new is None:
                    out[here] = flat[places]
                else:
                    flat[places] = np.broadcast_to(np.asarray(new), at.shape)[here]
                left &= ~here
        assert not left.any(), "an address outside of every tensor"
        return value(out)


class Pointer:
    """Addresses of elements of one dtype."""

    def __init__(self, at: Value, element_ty: np.dtype):
        self.at, self.element_ty = at, element_ty

    @property
    def dtype(self):
        return self

    def __add__(self, offset):
        return Pointer(self.at + value(offset, np.int64) * self.element_ty.itemsize, self.element_ty)

    def __getitem__(self, index):
        return Pointer(self.at[index], self.element_ty)


class Shared:
    """A piece of shared memory; matrices of 16-bit numbers are kept 64 columns at a time, [..., C / 64, R, 64]."""

    def __init__(self, kept: np.ndarray, shape, wrote, transposed=False):
        self.kept, self.shape, self.wrote, self.transposed = kept, list(shape), wrote, transposed
        self.dtype = kept.dtype

    @classmethod
    def allocate(cls, dtype, shape, wrote):
        dtype, tiled = np.dtype(dtype), len(shape) == 3
        kept = (shape[0], shape[2] // 64, shape[1], 64) if tiled else shape
        return cls(np.full(kept, np.nan if dtype.kind == "f" else 0x55555555, dtype), shape, wrote)

    def index(self, i):
        return Shared(self.kept[int(i)], self.shape[1:], self.wrote)

    def slice(self, start, count):
        rows = slice(int(start), int(start) + int(count))
        kept = self.kept[:, rows] if self.kept.ndim == 3 else self.kept[rows]
        return Shared(kept, [count, *self.shape[1:]], self.wrote)

    def load(self, layout=None):
        x = self.kept
        x = x.transpose(1, 0, 2).reshape(self.shape) if x.ndim == 3 else x
        return value(x.T.copy() if self.transposed else x.copy())

    def store(self, x):
        x = np.asarray(x)
        if self.kept.ndim == 3:
            x = x.reshape(self.shape[0], -1, 64).transpose(1, 0, 2)
        assert x.shape == self.kept.shape and x.dtype == self.kept.dtype
        self.kept[...] = x
        self.wrote(self)

    def permute(self, order):
        return Shared(self.kept, self.shape, self.wrote, True)

    def _reinterpret(self, dtype, shape, layout):
        return Shared(self.kept.reshape(shape[0], shape[2] // 64, shape[1], 64), shape, self.wrote)

    def reshape(self, shape):
        return Shared(self.kept.reshape(shape), shape, self.wrote)


def place_of(x: Shared) -> list[int]:
    """Addresses of the rows of 64 columns, or of the vector, that ``x`` is made of."""
    kept = x.kept.reshape(1, -1) if x.kept.ndim == 1 else x.kept
    first = np.int64(kept.ctypes.data)
    for size, stride in zip(kept.shape[:-1], kept.strides[:-1], strict=True):
        first = first[..., None] + np.arange(size) * stride
    return first.ravel().tolist()
