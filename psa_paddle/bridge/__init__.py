"""Triton on Paddle tensors, torch tensors and, in the interpreter, host arrays; no framework is imported here."""

try:
    import triton
except ModuleNotFoundError as error:
    raise ImportError("The Triton backend needs Triton: install 'triton>=3.5' (Linux, NVIDIA GPU).") from error

from .versions import check_triton, has_gluon

check_triton(triton.__version__)

from .alloc import (  # noqa: E402
    Tensor,
    arch,
    constant,
    device,
    dtype_name,
    empty,
    from_host,
    interpreting,
    launch,
    multiprocessors,
    strides,
)
from .replay import repeat  # noqa: E402

__all__ = [
    "Tensor",
    "arch",
    "check_triton",
    "constant",
    "device",
    "dtype_name",
    "empty",
    "from_host",
    "has_gluon",
    "interpreting",
    "launch",
    "multiprocessors",
    "repeat",
    "strides",
]
