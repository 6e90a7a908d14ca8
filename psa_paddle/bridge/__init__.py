"""Triton on Paddle tensors, torch tensors and, in the interpreter, host arrays; no framework is imported here."""

import re

try:
    import triton
except ModuleNotFoundError as error:
    raise ImportError("The Triton backend needs Triton: install 'triton>=3.5' (Linux, NVIDIA GPU).") from error

MIN_TRITON = (3, 5)
GLUON_TRITON = (3, 6)  # Gluon changes with every release; the Hopper kernel was run on this one


def version_of(version: str) -> tuple[int, ...]:
    """``"3.6.0"`` -> (3, 6)."""
    return tuple(int(x) for x in re.findall(r"\d+", version)[:2])


def check_triton(version: str) -> None:
    """Refuse a Triton that the kernels were never run on.

    Raises:
        ImportError: older than 3.5.
    """
    if version_of(version) < MIN_TRITON:
        raise ImportError(
            f"psa_paddle's Triton backend needs Triton 3.5 or newer, found {version}: install 'triton>=3.5'."
        )


def has_gluon() -> bool:
    """Whether this Triton's Gluon is the one that the Hopper kernel is written in."""
    return version_of(triton.__version__) == GLUON_TRITON


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
    "strides",
]
