"""Compile every kernel for GPUs that need not be there, through the launchers that production uses.

Prints registers, spilled bytes, static and dynamic shared memory of each kernel, target and variant; ``--json`` for
machines. The tests read the JSON.

    python benchmarks/compile_report.py [--arch 90] [--dim 64 128] [--preset balanced | --tokens | --triangle | ...]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter's kernels cannot be compiled
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402

from psa_paddle import bridge  # noqa: E402
from psa_paddle.bridge import alloc  # noqa: E402
from psa_paddle.config import AttentionConfig  # noqa: E402
from psa_paddle.kernels import (  # noqa: E402
    Pooled,
    attend_fwd,
    audit_fwd,
    cluster_tokens,
    lists_from_levels,
    permute_tokens,
    psa_fwd,
    restore_tokens,
    tuning,
)
from psa_paddle.kernels.lists import empty_selection  # noqa: E402
from psa_paddle.kernels.triangle import triangle_fwd  # noqa: E402
from psa_paddle.plan import Plan  # noqa: E402
from psa_paddle.triangle_pattern import Pattern  # noqa: E402

INTERVALS = ((1, 0.0, 0.3), (2, 0.3, 0.5), (4, 0.5, 0.7), (8, 0.7, 0.97), (0, 0.97, 1.0))
LENGTH, HEADS, KV_HEADS = 65536, 28, 4


class ShapeOnly:
    """A tensor without memory: what a launcher reads before a kernel runs."""

    is_cuda = False  # nothing is launched, so no call may be repeated

    def __init__(self, shape, dtype: str):
        self.shape, self.dtype = tuple(shape), dtype

    def stride(self):
        sizes = [1, *itertools.accumulate(reversed(self.shape[1:]), int.__mul__)]
        return tuple(reversed(sizes))

    @staticmethod
    def data_ptr() -> int:
        return 0  # counts as aligned


alloc._FRAMEWORKS[ShapeOnly] = alloc.TORCH  # its stride() is torch's


class NoDevice:
    """Triton's driver of a GPU that is not there; ``device`` tells the targets apart in the kernels' caches."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


def resources(compiled) -> dict:
    """Registers, stack and local bytes (where spills go) of a cubin, from Triton's own cuobjdump."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {key.lower(): int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["reg"], "spilled": found["stack"] + found["local"], "shared": compiled.metadata.shared}


def compile_calls(arch: int, calls) -> list[dict]:
    """Run ``calls()`` with every launch replaced by a compilation for ``arch``."""
    rows = []

    def launch(kernel, grid, *, like, **kwargs):
        compiled = kernel.warmup(grid=grid, **kwargs)
        meta = compiled.metadata
        name = kernel.fn.__name__.strip("_").removesuffix("_kernel")
        rows.append({"kernel": name, "arch": arch, "warps": meta.num_warps, "stages": meta.num_stages,
                     **resources(compiled)})  # fmt: skip

    fakes = dict(
        launch=launch,
        empty=lambda shape, dtype, like: ShapeOnly(shape, dtype),
        constant=lambda values, dtype, like: ShapeOnly((len(values),), dtype),
        arch=lambda x, kernel: arch,
        device=lambda x: "gpu:0",
        multiprocessors=lambda x, kernel: 132,
    )
    previous = driver._active
    driver.set_active(NoDevice(arch))
    try:
        with mock.patch.multiple(bridge, **fakes):
            calls()
    finally:
        driver.set_active(previous)
    return rows


def pipeline(
    arch: int, dim: int, dtype: str, causal: bool, key_block: int, padded: bool, method: str, preset: str | None = None,
    budgets: bool = False,
) -> list[dict]:  # fmt: skip
    """All kernels of one call: of a preset, with budgets or without, or of all levels, block means and the similarity
    cap."""
    strides = dict(query_stride=8, key_stride=2) if method == "peak" else dict(query_stride=16, key_stride=4)
    plan = Plan(
        dim**-0.5, causal, 128, key_block, INTERVALS, "energybound", importance_method=method, **strides,
        forced_text=512, thresholds=(0.75, 0.7, 0.7), block_means=True,
    )  # fmt: skip
    if preset:
        plan = Plan.of(AttentionConfig.preset(preset), dim**-0.5).replace(causal=causal, key_block=key_block)
        method = plan.importance_method
    if budgets:
        plan = plan.replace(budgets=tuple(1 + head / HEADS for head in range(HEADS)))
    q, kv = ShapeOnly((1, HEADS, LENGTH, dim), dtype), ShapeOnly((1, KV_HEADS, LENGTH, dim), dtype)
    start = ShapeOnly((1,), "int32") if padded else None
    n_i, n_j = LENGTH // 128, LENGTH // key_block

    def calls():
        psa_fwd(q, kv, kv, plan, kv_start=start)
        levels = ShapeOnly((1, HEADS, n_i, n_j), "int8")
        lists_from_levels(levels, plan.replace(block_means=False), LENGTH, LENGTH, kv_start=start)

    variant = f"D={dim} {dtype} N={key_block} {'causal' if causal else 'full'}{' padded' if padded else ''} {method}"
    return [{"variant": variant, **row} for row in compile_calls(arch, calls)]


def token_orders(arch: int, dim: int, dtype: str) -> list[dict]:
    """The kernels of a token order by clusters: k-means, sort, permutation and its inverse."""
    x, base = ShapeOnly((1, HEADS, LENGTH, dim), dtype), ShapeOnly((LENGTH,), "int32")

    def calls():
        order, _ = cluster_tokens(x, base, first=0, n=LENGTH - 226, n_clusters=256, iterations=1)
        permute_tokens(x, order)
        restore_tokens(x, base, heads_last=True)

    found = {(row["kernel"], *list(row.values())[2:]): row for row in compile_calls(arch, calls)}
    return [{"variant": f"D={dim} {dtype}", **row} for row in found.values()]


def attend_once(arch: int, dim: int, dtype: str, key_block: int, settings: dict) -> list[dict]:
    """The portable attention kernel alone, M=128, causal, with given settings."""
    q, kv = ShapeOnly((1, HEADS, LENGTH, dim), dtype), ShapeOnly((1, KV_HEADS, LENGTH, dim), dtype)
    pooled = ShapeOnly((1, KV_HEADS, LENGTH * 7 // 8, dim), dtype)
    plan = Plan(dim**-0.5, True, 128, key_block)

    def calls():
        found = empty_selection(q, (1, HEADS, LENGTH // 128, LENGTH // key_block), None, None)
        attend_fwd(q, kv, kv, found, plan, Pooled(pooled, pooled))

    portable = mock.patch.object(bridge, "has_gluon", lambda: False)
    with portable, mock.patch.object(tuning, "pick", lambda *_: settings):
        rows = compile_calls(arch, calls)
    return [{"variant": f"D={dim} {dtype} N={key_block} TILE={settings['TILE']}", **row} for row in rows]


def attend_grid(arch: int, dim: int, dtype: str) -> list[dict]:
    """The portable attention kernel over key blocks, tile sizes, warps and stages."""
    rows = []
    for key_block, tile, warps, stages in itertools.product((64, 128), (64, 128), (4, 8), (2, 3)):
        if tile <= key_block:
            settings = dict(TILE=tile, num_warps=warps, num_stages=stages)
            rows += attend_once(arch, dim, dtype, key_block, settings)
    return rows


def triangle(arch: int, dim: int, dtype: str, padded: bool) -> list[dict]:
    """TriangleMix's kernels: the band, the last rows over split keys, the merge, the last rows of a short call."""
    start = ShapeOnly((1,), "int32") if padded else None

    def calls():
        q, kv = ShapeOnly((1, HEADS, LENGTH, dim), dtype), ShapeOnly((1, KV_HEADS, LENGTH, dim), dtype)
        triangle_fwd(q, kv, kv, Pattern(8, 512, 128), dim**-0.5, kv_start=start)
        short, short_kv = ShapeOnly((1, HEADS, 128, dim), dtype), ShapeOnly((1, KV_HEADS, 128, dim), dtype)
        triangle_fwd(short, short_kv, short_kv, Pattern(8, 512, 256), dim**-0.5, kv_start=start)

    variant = f"D={dim} {dtype}{' padded' if padded else ''}"
    return [{"variant": variant, **row} for row in compile_calls(arch, calls)]


def audit(arch: int, dim: int, dtype: str, causal: bool, padded: bool) -> list[dict]:
    """The audit's kernels: 64 rows over split keys, the comparison."""
    start = ShapeOnly((1,), "int32") if padded else None
    q, kv = ShapeOnly((1, HEADS, LENGTH, dim), dtype), ShapeOnly((1, KV_HEADS, LENGTH, dim), dtype)

    def calls():
        audit_fwd(q, kv, kv, q, Plan(dim**-0.5, causal, 128, 64, audit_rows=64), kv_start=start)

    variant = f"D={dim} {dtype} {'causal' if causal else 'full'}{' padded' if padded else ''}"
    return [{"variant": variant, **row} for row in compile_calls(arch, calls)]


def main(argv=None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100])
    parser.add_argument("--dim", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"])
    parser.add_argument("--key-block", type=int, nargs="+", default=[64])
    parser.add_argument("--method", nargs="+", default=["xattn"])
    parser.add_argument("--preset", choices=("quality", "balanced", "fast"), help="its levels and its estimate")
    parser.add_argument("--budgets", action="store_true", help="a preset with a factor for each head")
    parser.add_argument("--bidirectional", action="store_true")
    parser.add_argument("--padded", action="store_true")
    parser.add_argument(
        "--attend-grid", action="store_true", help="only the portable attention kernel, over its settings"
    )
    parser.add_argument("--triangle", action="store_true", help="only TriangleMix's kernels")
    parser.add_argument("--audit", action="store_true", help="only the audit's kernels")
    parser.add_argument("--tokens", action="store_true", help="only the kernels that reorder tokens")
    parser.add_argument("--portable", action="store_true", help="the portable attention kernel on Hopper, too")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if args.budgets and not args.preset:
        parser.error("--budgets needs --preset.")
    rows = []
    if args.portable:
        mock.patch.object(bridge, "has_gluon", lambda: False).start()
    for arch in args.arch:
        shapes = list(itertools.product(args.dim, args.dtype))
        for dim, dtype in shapes if args.attend_grid else ():
            rows += attend_grid(arch, dim, dtype)
        for dim, dtype in shapes if args.triangle else ():
            rows += triangle(arch, dim, dtype, args.padded)
        for dim, dtype in shapes if args.audit else ():
            rows += audit(arch, dim, dtype, not args.bidirectional, args.padded)
        for dim, dtype in shapes if args.tokens else ():
            rows += token_orders(arch, dim, dtype)
        every = itertools.product(args.dim, args.dtype, args.key_block, args.method)
        for dim, dtype, block, method in (
            () if args.attend_grid or args.triangle or args.audit or args.tokens else every
        ):
            choice = args.preset, args.budgets
            rows += pipeline(arch, dim, dtype, not args.bidirectional, block, args.padded, method, *choice)
    if args.json:
        print(json.dumps(rows))
        return rows
    columns = ("kernel", "arch", "variant", "warps", "stages", "registers", "spilled", "shared")
    print(f"Triton {triton.__version__}, L={LENGTH}, {HEADS} query heads, {KV_HEADS} kv heads")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row[c]) for c in columns) + " |")
    return rows


if __name__ == "__main__":
    main()
