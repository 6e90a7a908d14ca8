"""Orders of the cells of a grid in which neighbours in the sequence are neighbours in space. NumPy only.

Sources: generalised Hilbert curve (J. Cerveny, github.com/jakubcerveny/gilbert); tiles as in Sliding Tile Attention
(arXiv:2502.04507); both as token orders in PSA (arXiv:2512.04025).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

# An edge of a box: the axis it runs along and its signed number of cells.
Edge = tuple[int, int]


def check_triple(name: str, value) -> tuple[int, int, int]:
    """Three positive ints (depth, height, width).

    Raises:
        TypeError: not three integers. ValueError: one below 1.
    """
    try:
        numbers = tuple(value)
    except TypeError:
        numbers = ()
    if len(numbers) != 3 or any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) for n in numbers):
        raise TypeError(f"{name} must be three integers (depth, height, width), got {value!r}.")
    if min(numbers) < 1:
        raise ValueError(f"{name} must be positive, got {numbers}.")
    depth, height, width = (int(n) for n in numbers)
    return depth, height, width


def _half(edge: Edge) -> Edge:
    """Half an edge, an even number of cells where there is more than one to split: odd halves break the chain."""
    axis, n = edge
    size = abs(n) // 2
    size += size % 2 and abs(n) > 2
    return axis, size if n > 0 else -size


def _rest(edge: Edge, part: Edge) -> Edge:
    return edge[0], edge[1] - part[1]


def _back(edge: Edge) -> Edge:
    return edge[0], -edge[1]


def _move(cell: tuple, *edges: Edge, last: tuple[Edge, ...] = ()) -> tuple:
    """The cell past the end of ``edges``, and at the last cell of each edge of ``last``."""
    moved = list(cell)
    for axis, n in edges:
        moved[axis] += n
    for axis, n in last:
        moved[axis] += n - (1 if n > 0 else -1)
    return tuple(moved)


def _split(cell: tuple, a: Edge, b: Edge, c: Edge) -> list[tuple]:
    """Parts, in order, of a box whose curve enters at ``cell`` and leaves at the far end of ``a``."""
    w, h, d = abs(a[1]), abs(b[1]), abs(c[1])
    a2, b2, c2 = _half(a), _half(b), _half(c)
    a_rest, b_rest, c_rest = _rest(a, a2), _rest(b, b2), _rest(c, c2)
    if 2 * w > 3 * h and 2 * w > 3 * d:  # long: two boxes in a row
        return [(cell, a2, b, c), (_move(cell, a2), a_rest, b, c)]
    if 3 * h > 4 * d:  # flat in c: up, along, down
        return [
            (cell, b2, c, a2),
            (_move(cell, b2), a, b_rest, c),
            (_move(cell, last=(a, b2)), _back(b2), c, _back(a_rest)),
        ]
    if 3 * d > 4 * h:  # flat in b: the same with c
        return [
            (cell, c2, a2, b),
            (_move(cell, c2), a, b, c_rest),
            (_move(cell, last=(a, c2)), _back(c2), _back(a_rest), b),
        ]
    return [
        (cell, b2, c2, a2),
        (_move(cell, b2), c, a2, b_rest),
        (_move(cell, last=(b2, c)), a, _back(b2), _back(c_rest)),
        (_move(cell, b2, last=(a, c)), _back(c), _back(a_rest), b_rest),
        (_move(cell, last=(a, b2)), _back(b2), c2, _back(a_rest)),
    ]


def _lines(grid: tuple[int, int, int]) -> Iterator[tuple[tuple, Edge]]:
    """Straight runs of the curve, in order: first cell and edge."""
    edges: list[Edge] = [(axis, n) for axis, n in enumerate(grid)]
    edges.sort(key=lambda edge: -edge[1])  # enter along the longest side
    stack: list[tuple] = [((0, 0, 0), *edges)]
    while stack:
        cell, *box = stack.pop()
        long = [edge for edge in box if abs(edge[1]) > 1]
        if any(edge[1] == 0 for edge in box):
            continue
        if len(long) <= 1:
            yield cell, (long or box)[0]
        else:
            stack.extend(reversed(_split(cell, *box)))


@lru_cache(maxsize=32)
def gilbert_order(grid: tuple[int, int, int]) -> np.ndarray:
    """Raster index of each cell along a generalised Hilbert curve, int64 [depth * height * width], read-only.

    Every cell comes once. Steps go to a neighbouring cell, but for the few diagonal ones that odd sizes force.

    Args:
        grid: (depth, height, width) in tokens; the raster index is (z * height + y) * width + x.
    """
    strides = (grid[1] * grid[2], grid[2], 1)
    runs = []
    for cell, (axis, n) in _lines(grid):
        first = sum(x * s for x, s in zip(cell, strides, strict=True))
        runs.append(first + np.arange(abs(n), dtype=np.int64) * (strides[axis] if n > 0 else -strides[axis]))
    order = np.concatenate(runs)
    order.setflags(write=False)
    return order


@lru_cache(maxsize=32)
def tile_order(grid: tuple[int, int, int], tile: tuple[int, int, int]) -> np.ndarray:
    """Raster index of each cell, tile after tile, int64 [depth * height * width], read-only.

    Inside a tile the cells follow its Hilbert curve: a run of 2, 4 or 8 tokens, which the operator may pool, is then
    a small cube and not a piece of a row.

    Args:
        grid: (depth, height, width) in tokens.
        tile: (depth, height, width) of a tile; tiles at the border hold what is left.
    """
    index = np.arange(int(np.prod(grid)), dtype=np.int64).reshape(grid)
    starts = [range(0, n, t) for n, t in zip(grid, tile, strict=True)]
    parts = []
    for first in itertools.product(*starts):
        cells = index[tuple(slice(x, x + t) for x, t in zip(first, tile, strict=True))]
        parts.append(cells.flatten()[gilbert_order(cells.shape)])
    order = np.concatenate(parts)
    order.setflags(write=False)
    return order
