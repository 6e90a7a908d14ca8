"""Tile sizes, warps and pipeline stages of every kernel: the one place to tune them.

Rows are tried from the top; the first whose conditions hold is taken. ``benchmarks/compile_report.py --attend-grid``
shows what each setting costs in registers, spills and shared memory.
"""

from __future__ import annotations

import functools

# kernel -> rows of ((largest D, largest dtype size in bytes, smallest arch), settings); arch 0 is the interpreter.
TABLES = {
    "attend": (
        ((64, 2, 90), dict(TILE=64, num_warps=4, num_stages=2)),
        ((128, 2, 90), dict(TILE=64, num_warps=8, num_stages=3)),  # 4 warps spill
        ((64, 2, 80), dict(TILE=64, num_warps=4, num_stages=3)),
        ((128, 2, 80), dict(TILE=64, num_warps=8, num_stages=2)),
        ((128, 4, 80), dict(TILE=32, num_warps=8, num_stages=2)),
        ((128, 4, 0), dict(TILE=64, num_warps=4, num_stages=1)),
    ),
    "attend_hopper": (
        ((64, 2, 90), dict(TILE=128, STAGES_K=4, STAGES_V=4, num_warps=4, maxnreg=128)),
        ((128, 2, 90), dict(TILE=128, STAGES_K=2, STAGES_V=3, num_warps=4, maxnreg=128)),
    ),
    # CHUNK: tiles of keys of a program, where one product makes a tile; with 1, queries are loaded for every tile.
    # Two programs of sm_90's fit.
    "xattn": (
        ((128, 2, 100), dict(BLOCK_A=128, BLOCK_B=128, CHUNK=8, num_warps=8, num_stages=3)),
        ((128, 2, 90), dict(BLOCK_A=128, BLOCK_B=128, CHUNK=16, num_warps=8, num_stages=2, maxnreg=128)),
        ((128, 2, 80), dict(BLOCK_A=128, BLOCK_B=128, CHUNK=8, num_warps=8, num_stages=2)),
        ((128, 4, 80), dict(BLOCK_A=64, BLOCK_B=64, CHUNK=1, num_warps=8, num_stages=2)),
        ((128, 4, 0), dict(BLOCK_A=32, BLOCK_B=32, CHUNK=2, num_warps=4, num_stages=1)),
    ),
    "peak": (
        ((128, 2, 100), dict(BLOCK_A=128, BLOCK_B=128, CHUNK=8, num_warps=8, num_stages=2)),
        ((128, 2, 90), dict(BLOCK_A=128, BLOCK_B=128, CHUNK=32, num_warps=8, num_stages=2, maxnreg=128)),
        ((128, 2, 80), dict(BLOCK_A=128, BLOCK_B=128, CHUNK=8, num_warps=8, num_stages=2)),
        ((128, 4, 80), dict(BLOCK_A=64, BLOCK_B=64, CHUNK=1, num_warps=8, num_stages=2)),
        ((128, 4, 0), dict(BLOCK_A=32, BLOCK_B=32, CHUNK=2, num_warps=4, num_stages=1)),
    ),
    "triangle": (
        ((128, 2, 100), dict(M=128, TILE=64, num_warps=8, num_stages=2)),
        ((128, 2, 90), dict(M=128, TILE=32, num_warps=8, num_stages=2, maxnreg=128)),  # two programs fit
        ((128, 2, 80), dict(M=128, TILE=32, num_warps=8, num_stages=3)),  # wider tiles spill
        ((64, 4, 80), dict(M=64, TILE=32, num_warps=8, num_stages=2)),
        ((128, 4, 80), dict(M=64, TILE=16, num_warps=16, num_stages=2)),
        ((128, 4, 0), dict(M=128, TILE=64, num_warps=4, num_stages=1)),
    ),
    "audit": (
        ((128, 2, 100), dict(M=128, TILE=64, num_warps=8, num_stages=2)),
        ((128, 2, 90), dict(M=64, TILE=64, num_warps=4, num_stages=3)),  # 64 rows of 7 heads fill tiles of 64
        ((128, 2, 80), dict(M=128, TILE=32, num_warps=8, num_stages=3)),
        ((64, 4, 80), dict(M=64, TILE=16, num_warps=8, num_stages=2)),
        ((128, 4, 80), dict(M=64, TILE=16, num_warps=16, num_stages=2)),
        ((128, 4, 0), dict(M=64, TILE=64, num_warps=4, num_stages=1)),
    ),
    # RESIDENT: programs that a multiprocessor holds at a time. Some bytes spill at D=64 and in causal calls, none in
    # the loops.
    "pooling": (
        ((128, 2, 90), dict(BLOCK_A=128, BLOCK_B=128, CHUNK=128, RESIDENT=2, num_warps=8, num_stages=2, maxnreg=128)),
        ((128, 2, 80), dict(BLOCK_A=64, BLOCK_B=64, CHUNK=16, RESIDENT=2, num_warps=4, num_stages=2)),
        ((128, 4, 80), dict(BLOCK_A=32, BLOCK_B=32, CHUNK=16, RESIDENT=2, num_warps=4, num_stages=2)),
        ((128, 4, 0), dict(BLOCK_A=32, BLOCK_B=32, CHUNK=4, RESIDENT=1, num_warps=4, num_stages=1)),
    ),
    # k-means: tokens and centres of a tile
    "assign": (
        ((128, 2, 80), dict(BLOCK_T=128, BLOCK_C=64, num_warps=4, num_stages=2)),
        ((128, 4, 80), dict(BLOCK_T=32, BLOCK_C=32, num_warps=4, num_stages=2)),
        ((128, 4, 0), dict(BLOCK_T=64, BLOCK_C=16, num_warps=4, num_stages=1)),
    ),
}
PYRAMID_ROWS_PER_WARP = 16
MEANS_ROWS_PER_WARP = 64
SELECT_BLOCKS_PER_WARP = 512
PERMUTE_ROWS = 64
MEAN_ROWS = 64
SORT_CHUNK, SORT_CHUNKS = 256, 512  # tokens of a chunk at least; chunks at most
SORT_CLUSTERS, SORT_TOKENS = 64, 16
SCAN_BLOCK, SCAN_WARPS = 4096, 8


@functools.cache
def pick(kernel: str, dim: int, itemsize: int, arch: int) -> dict:
    """Settings of a kernel for a head dimension, a dtype size in bytes and a compute capability (0: interpreter).

    Raises:
        ValueError: no row fits; GPUs older than Ampere have no bf16 tensor cores.
    """
    for (max_dim, max_size, min_arch), settings in TABLES[kernel]:
        if dim <= max_dim and itemsize <= max_size and (arch >= min_arch > 0 or arch == min_arch):
            return settings
    raise ValueError(f"No kernel settings for D={dim} on compute capability {arch / 10}; sm_80 or newer is needed.")


def warps(elements: int, per_warp: int) -> int:
    """A power of two between 1 and 16, so that each warp gets about ``per_warp`` elements."""
    return min(16, max(1, 1 << max(0, (elements // per_warp).bit_length() - 1)))
