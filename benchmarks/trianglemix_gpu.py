"""TriangleMix's Triton kernels on a GPU with torch tensors: rows with the exact mask, numerics, settings.

``bench_trianglemix.py`` is the command line.
"""

import itertools
import sys
from unittest import mock

import torch
import triton
from bench_attention import time_ms
from gpu_inputs import structured

from psa_paddle.kernels import tuning
from psa_paddle.kernels.triangle import triangle_fwd
from psa_paddle.triangle_pattern import Pattern

# (B, Lq, Lk, H, Hkv, D, (sink, window, last), first key of each sample or None)
SHAPES = [
    (1, 1, 1, 1, 1, 32, (4, 32, 64), None), (1, 1, 300, 4, 1, 64, (4, 32, 64), None),
    (1, 31, 31, 4, 1, 64, (0, 0, 0), None), (1, 63, 127, 3, 1, 32, (0, 16, 1), None),
    (1, 129, 129, 7, 1, 80, (4, 32, 64), None), (1, 127, 300, 2, 2, 96, (150, 20, 30), None),
    (1, 300, 300, 4, 2, 128, (0, 130, 77), None), (1, 1000, 1000, 7, 7, 32, (3, 5, 5000), None),
    (1, 1000, 1000, 4, 1, 128, (2, 5000, 3), None), (1, 777, 1500, 4, 2, 128, (5000, 1, 2), None),
    (1, 2048, 2048, 28, 4, 128, (8, 512, 128), None), (1, 4096, 4096, 28, 4, 128, (8, 512, 128), None),
    (1, 1111, 2222, 28, 1, 80, (8, 64, 128), None), (1, 40, 60, 130, 1, 32, (4, 32, 64), None),
    (1, 4096, 9000, 7, 1, 128, (8, 512, 600), None), (3, 200, 230, 4, 2, 64, (3, 20, 50), (0, 77, 229)),
    (2, 1500, 1500, 14, 2, 128, (8, 200, 3000), (700, 0)), (2, 900, 2000, 7, 1, 128, (8, 100, 128), (1500, 3)),
]  # fmt: skip

TILES = ((128, 64, 8), (128, 32, 8), (128, 128, 8), (64, 64, 4), (64, 32, 4), (64, 128, 4))  # --tune: M, TILE, warps


def masked_rows(q, k, v, rows, pattern, scale, start=0, rough=False):
    """Rows of softmax(scale q k^T) v with the exact mask: torch float64 [H, rows, D] of q [H, Lq, D], k [Hkv, Lk, D].

    rough: as a careful implementation does it in q's dtype, float32 logits and rounded weights."""
    (sink, window, last), lk, group = pattern, k.shape[1], q.shape[0] // k.shape[0]
    i = (rows + lk - q.shape[1] - start)[:, None]
    j = torch.arange(lk, device=q.device)[None] - start
    seen = (j >= 0) & (j <= i) & ((j <= sink) | (i - j <= window) | (lk - start - i < last))
    wide = torch.float32 if rough else torch.float64
    out = []
    for h in range(k.shape[0]):
        heads = q[h * group : (h + 1) * group, rows].to(wide)
        s = (heads @ k[h].nan_to_num(0, 0, 0).to(wide).T * scale).masked_fill(~seen, float("-inf"))
        p = torch.softmax(s, -1).nan_to_num(0.0)  # a row of padding sees nothing
        values = v[h].nan_to_num(0, 0, 0)
        out.append((p.to(q.dtype) @ values).double() if rough else p @ values.double())
    return torch.cat(out)


def check(args) -> None:
    """Every hostile shape in three dtypes within twice the error of the same softmax in that dtype, plus rounding;
    bitwise equal repeats; a CUDA graph's replay equal to the launch."""
    failures = 0

    def report(good: bool, text: str) -> None:
        nonlocal failures
        failures += not good
        print("ok  " if good else "FAIL", text, flush=True)

    for shape, dtype in itertools.product(SHAPES, (torch.bfloat16, torch.float16, torch.float32)):
        b, lq, lk, heads, kv_heads, dim, pattern, starts = shape
        g, scale = torch.Generator().manual_seed(0), 2 * dim**-0.5
        sizes = ((b, heads, lq, dim), (b, kv_heads, lk, dim), (b, kv_heads, lk, dim))
        q, k, v = (torch.randn(*size, generator=g).to("cuda", dtype) for size in sizes)
        for x, start in enumerate(starts or ()):
            k[x, :, :start], v[x, :, :start] = float("inf"), float("nan")
        out = torch.full((b, lq, heads, dim), float("nan"), dtype=dtype, device="cuda")
        kv_start = torch.tensor(starts, dtype=torch.int32, device="cuda") if starts else None
        call = dict(pattern=Pattern(*pattern), scale=scale, kv_start=kv_start, heads_last=True)
        triangle_fwd(q, k, v, out=out, **call)
        again = torch.equal(out, triangle_fwd(q, k, v, **call))
        rows, error, limit = torch.arange(lq, device="cuda"), 0.0, 0.0
        for x in range(b):
            own = (q[x], k[x], v[x], rows, pattern, scale, starts[x] if starts else 0)
            want = masked_rows(*own)
            error = max(error, float((out[x].transpose(0, 1).double() - want).abs().nan_to_num(torch.inf).max()))
            rounding = torch.finfo(dtype).eps * max(1.0, float(want.abs().max()))
            limit = max(limit, 2 * float((masked_rows(*own, rough=True) - want).abs().max()) + rounding)
        text = f"{str(dtype)[6:]:8s} {shape}  error {error:.1e} of {limit:.1e}"
        report(error <= limit and again, text + ("" if again else ", another result the second time"))

    q, k, v = (torch.randn(1, h, 8192, 128, device="cuda").bfloat16() for h in (28, 4, 4))
    call = dict(pattern=Pattern(8, 512, 128), scale=0.1)
    first = triangle_fwd(q, k, v, **call)
    equal = all(torch.equal(triangle_fwd(q, k, v, **call), first) for _ in range(args.repeats))
    report(equal, f"{args.repeats} repeats bitwise equal")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        triangle_fwd(q, k, v, **call)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = triangle_fwd(q, k, v, **call)
    out.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    report(torch.equal(out, first), "CUDA graph")
    print(f"{failures} failures" if failures else "all within bounds")
    sys.exit(bool(failures))


def tune(args) -> None:
    """Time other settings than those of ``tuning.py``; one that does not fit says so."""
    length = (args.lengths or [131072])[0]
    q, k, v = structured(length, args.heads, args.kv_heads, args.dim, torch.bfloat16)
    scale, whole, banded = (
        args.dim**-0.5,
        Pattern(args.sink, args.window, args.last),
        Pattern(args.sink, args.window, 0),
    )
    tail = q[:, :, max(0, length - args.last + 1) :]
    print(f"L={length}\n| M | TILE | warps | stages | registers | both ms | band ms | last ms |\n|" + "---|" * 8)
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
