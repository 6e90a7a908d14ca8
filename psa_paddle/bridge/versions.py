"""Which releases of Triton are good for what."""

import re

import triton

MIN_TRITON = (3, 5)
GLUON_TRITON = (3, 6)  # Gluon changes with every release; the Hopper kernel was run on this one
LAUNCHER_TRITONS = ((3, 5), (3, 6), (3, 7), (3, 8), (3, 9))  # a compiled kernel of these is launched by one signature


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


def has_known_launcher() -> bool:
    """Whether it is known how this Triton launches a compiled kernel."""
    return version_of(triton.__version__) in LAUNCHER_TRITONS
