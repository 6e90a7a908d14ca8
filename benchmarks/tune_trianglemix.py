"""Settings of TriangleMix's Triton kernels, timed on a GPU with torch tensors.

``bench_trianglemix.py`` is the command line.
"""

import itertools
from unittest import mock

import torch
import triton
from common import header, time_ms
from gpu_inputs import structured

from psa_paddle.kernels import tuning
from psa_paddle.kernels.triangle import triangle_fwd
from psa_paddle.triangle_pattern import Pattern

TILES = ((128, 64, 8), (128, 32, 8), (128, 128, 8), (64, 64, 4), (64, 32, 4), (64, 128, 4))  # --tune: M, TILE, warps


def tune(args) -> None:
    """Time other settings than those of ``tuning.py``; one that does not fit says so."""
    length = (args.lengths or [131072])[0]
    q, k, v = structured(length, args.heads, args.kv_heads, args.dim, torch.bfloat16)
    scale, whole = args.dim**-0.5, Pattern(args.sink, args.window, args.last)
    banded = Pattern(args.sink, args.window, 0)
    tail = q[:, :, max(0, length - args.last + 1) :]
    print(
        f"L={length}", header(("M", "TILE", "warps", "stages", "registers", "both ms", "band ms", "last ms")), sep="\n"
    )
    for (m, tile, warps), stages, registers in itertools.product(TILES, (2, 3, 4), (None, 168, 128)):
        settings = dict(M=m, TILE=tile, num_warps=warps, num_stages=stages)
        settings.update({} if registers is None else {"maxnreg": registers})
        with mock.patch.object(tuning, "pick", lambda *_, settings=settings: settings):
            try:
                both = time_ms(lambda: triangle_fwd(q, k, v, whole, scale))
                band = time_ms(lambda: triangle_fwd(q, k, v, banded, scale))
                last = time_ms(lambda: triangle_fwd(tail, k, v, whole, scale))
                times = f"{both:.3f} | {band:.3f} | {last:.3f}"
            except triton.runtime.errors.OutOfResources as error:
                times = f"{error.name} | - | -"
        print(f"| {m} | {tile} | {warps} | {stages} | {registers or 'free'} | {times} |", flush=True)
