"""Orders of the cells of a grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psa_paddle.rearrange.curves import check_triple, gilbert_order, tile_order

GRIDS = [(1, 1, 1), (1, 1, 9), (5, 1, 1), (1, 30, 45), (2, 3, 5), (7, 9, 11), (13, 30, 45), (21, 16, 20)]
IDS = ["x".join(map(str, grid)) for grid in GRIDS]
SIZES = st.tuples(*[st.integers(1, 12)] * 3)


def steps(order, grid):
    """L1 length of each step of a curve."""
    return np.abs(np.diff(np.array(np.unravel_index(order, grid)), axis=1)).sum(0)


@pytest.mark.parametrize("grid", GRIDS, ids=IDS)
def test_gilbert_visits_every_cell_once(grid):
    order = gilbert_order(grid)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(np.prod(grid)))


@settings(max_examples=150, deadline=None)
@given(SIZES)
def test_gilbert_steps_to_neighbours(grid):
    """Even sizes: no jump at all. Odd ones: a few diagonal steps, and never a longer one."""
    order = gilbert_order(grid)
    assert np.array_equal(np.sort(order), np.arange(np.prod(grid)))
    jumps = steps(order, grid)
    assert (jumps <= 2).all()
    assert (jumps > 1).mean() <= 0.25 if len(jumps) > 4 else (jumps > 1).sum() <= 1
    if all(n % 2 == 0 for n in grid):
        assert (jumps == 1).all()


def test_gilbert_keeps_blocks_compact():
    """A block of 64 cells of a 16 x 16 x 16 cube is a 4 x 4 x 4 cube; in raster order it is a slab of 4 rows."""
    blocks = np.array(np.unravel_index(gilbert_order((16, 16, 16)), (16, 16, 16))).reshape(3, 64, 64)
    assert (np.ptp(blocks, axis=2) + 1 == 4).all()


def test_tiles_follow_one_another():
    """Tile after tile in raster order, partial ones at the border; inside each, neighbour after neighbour."""
    grid, tile = (3, 5, 7), (2, 2, 3)
    order = tile_order(grid, tile).tolist()
    for z0 in range(0, 3, 2):
        for y0 in range(0, 5, 2):
            for x0 in range(0, 7, 3):
                shape = (min(2, 3 - z0), min(2, 5 - y0), min(3, 7 - x0))
                cells = [((z0 + z) * 5 + y0 + y) * 7 + x0 + x for z, y, x in np.ndindex(shape)]
                got, order = order[: len(cells)], order[len(cells) :]
                assert got == [cells[i] for i in gilbert_order(shape)]
    assert not order


def test_runs_of_a_tile_are_cubes():
    """What is pooled 8 times is a 2 x 2 x 2 cube and not a row."""
    runs = np.array(np.unravel_index(tile_order((4, 16, 16), (2, 8, 8)), (4, 16, 16))).reshape(3, -1, 8)
    assert (np.ptp(runs, axis=2) == 1).all()


def test_rows_as_tiles_change_nothing():
    assert tile_order((2, 3, 4), (1, 1, 9)).tolist() == list(range(24))


@pytest.mark.parametrize(
    "value, error",
    [((2, 3), TypeError), (5, TypeError), ((2, 3, 4.0), TypeError), ((2, True, 4), TypeError), ((2, 0, 4), ValueError)],
    ids=["two", "number", "float", "bool", "zero"],
)
def test_refuses_what_is_no_grid(value, error):
    with pytest.raises(error, match="grid must be"):
        check_triple("grid", value)
