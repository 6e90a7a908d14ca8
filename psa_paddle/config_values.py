"""Checks of single values of a configuration: each returns the plain Python value, or refuses with one sentence."""

from __future__ import annotations

import numbers

import numpy as np


def integer(name: str, value, allowed=None) -> int:
    """An int, from NumPy's integers too: one of ``allowed``, or not negative.

    Raises:
        TypeError: not an integer; True, 64.0 and "64" are none. ValueError: another one.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if allowed is not None and value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value}.")
    if allowed is None and value < 0:
        raise ValueError(f"{name} must not be negative, got {value}.")
    return int(value)


def word(name: str, value, allowed) -> str:
    """One of the words ``allowed``.

    Raises:
        TypeError: no text. ValueError: another one.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, one of {', '.join(allowed)}, got {value!r}.")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
    return str(value)


def flag(name: str, value) -> bool:
    """A bool, from NumPy's too.

    Raises:
        TypeError: anything else.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def cosine(name: str, value) -> float:
    """A number in [-1, 1].

    Raises:
        TypeError: no number. ValueError: outside, or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if not -1.0 <= float(value) <= 1.0:
        raise ValueError(f"{name} is a cosine and must lie in [-1, 1], got {value}.")
    return float(value)
