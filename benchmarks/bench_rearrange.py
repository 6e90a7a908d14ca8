"""What a token order is worth: attention error at equal density, PSAAttention's default configuration, on a CPU.

    python benchmarks/bench_rearrange.py [--seeds 5] [--grid 8 30 45] [--heads 2] [--dim 64]

Fields on a 3-D grid in raster order. ``smooth n``: q, k and v are random waves, alike over about n tokens in every
direction, with noise on q and k. ``rows``: each row of the grid is a smooth line of its own and has nothing in common
with the rows beside it: here raster order is the coherent one. The error is relative to dense attention; mean over the
seeds, smallest and largest beside it. All orders run at nearly the same density (shares are fixed by rank): its range
over all orders and seeds is the last column.
"""

import argparse

import numpy as np
import paddle
from common import cpu_name, facts, header, line, machine_line

from psa_paddle import PSAAttention, PSAConfig
from psa_paddle.eager import dense_attention
from psa_paddle.rearrange import METHODS

NOISE = 0.3
SMOOTH = (2, 4, 8, 16)


def smooth_waves(cells, dim, rng):
    """Unit-variance random waves over coordinates [L, 3], [L, dim]."""
    return np.sqrt(2) * np.cos(cells @ rng.standard_normal((3, dim)) + rng.uniform(0, 2 * np.pi, dim))


def row_waves(grid, dim, rng, length=8.0):
    """Each row of the grid its own random waves along it, alike over about ``length`` tokens, [L, dim]."""
    rows, width = grid[0] * grid[1], grid[2]
    speed, phase = rng.standard_normal((rows, 1, dim)), rng.uniform(0, 2 * np.pi, (rows, 1, dim))
    return (np.sqrt(2) * np.cos(np.arange(width)[:, None] / length * speed + phase)).reshape(-1, dim)


def field(kind, grid, heads, dim, seed):
    """q, k, v [1, heads, L, dim], float32; ``kind``: a correlation length in tokens, or ``"rows"``."""
    rng = np.random.default_rng(seed)
    cells = np.indices(grid).reshape(3, -1).T

    def waves():
        return row_waves(grid, dim, rng) if kind == "rows" else smooth_waves(cells / kind, dim, rng)

    bases, values = [waves() for _ in range(heads)], [waves() for _ in range(heads)]
    q, k = (np.stack(bases) + NOISE * rng.standard_normal((heads, len(cells), dim)) for _ in "qk")
    return [paddle.to_tensor(x[None].astype(np.float32)) for x in (q, k, np.stack(values))]


def measure(kind, args):
    """Method -> errors of all seeds, and all densities."""
    grid = tuple(args.grid)
    errors, densities = {method: [] for method in (None, *METHODS)}, []
    for seed in range(args.seeds):
        q, k, v = field(kind, grid, args.heads, args.dim, seed)
        want = dense_attention(q, k, v, False, args.dim**-0.5)
        for method in errors:
            psa = PSAAttention(PSAConfig(rearrange_method=method, dense_below=0))
            out = psa(q, k, v, grid=grid)
            errors[method].append(float((out - want).norm() / want.norm()))
            densities.append(1 - psa.last_call.sparsity())
    return errors, densities


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--grid", type=int, nargs=3, default=[8, 30, 45], metavar=("DEPTH", "HEIGHT", "WIDTH"))
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--dim", type=int, default=64)
    args = parser.parse_args()
    paddle.set_device("cpu")
    shape = f"grid {'x'.join(map(str, args.grid))}, {args.heads} heads, D={args.dim}, float32, {args.seeds} seeds"
    print(machine_line(facts(cpu_name(), "paddlepaddle")), shape, sep="\n")
    names = ["raster", *METHODS]
    print(header(("field", *names, "density")))
    for kind in (*SMOOTH, "rows"):
        errors, densities = measure(kind, args)
        cells = [f"{np.mean(e):.3f} ({min(e):.3f}-{max(e):.3f})" for e in errors.values()]
        label = kind if kind == "rows" else f"smooth {kind}"
        print(line((label, *cells, f"{min(densities):.3f}-{max(densities):.3f}")), flush=True)


if __name__ == "__main__":
    main()
