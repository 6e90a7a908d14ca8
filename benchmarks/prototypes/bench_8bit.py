"""The 8-bit attention of attend_8bit.py beside the product's bfloat16 kernel, on the same lists: times and errors.

    python benchmarks/prototypes/bench_8bit.py --parts bound fp8-16 int8 --errors fp8-16 int8

bound: the whole operator and its stages in bfloat16, with pooled levels and without, and what quantising would add.
A variant's name: its times beside bfloat16's at Wan2.1-14B's shape and at 65,536 tokens (levels 1 and 0). Errors are
against float64. Needs torch and Triton, no Paddle.
"""

import argparse
import itertools
import statistics
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (1, 2)]

import attend_8bit as proto  # noqa: E402
import quantise_8bit  # noqa: E402
from attention_cases import CASES, by_density  # noqa: E402
from common import facts, gpu_name, header, line, machine_line, write_csv  # noqa: E402
from gpu_inputs import structured, uniform  # noqa: E402
from gpu_rows import dense_rows  # noqa: E402

from psa_paddle import kernels  # noqa: E402
from psa_paddle.config import AttentionConfig  # noqa: E402
from psa_paddle.kernels.common import LOG2E  # noqa: E402
from psa_paddle.plan import Plan  # noqa: E402

SHAPES = {"wan": (75600, 40, 40, False, 0.15), "64k": (65536, 28, 4, True, 0.25)}  # L, heads, kv heads, causal, density
NARROW = dict(CONSUMER_REGISTERS=208, PRODUCER_REGISTERS=72)
WIDE = dict(CONSUMER_REGISTERS=224, PRODUCER_REGISTERS=40)
ONE = dict(HALVES=False, LATE=False, WINDOW=0, PING_PONG=False, STAGES_K=4, STAGES_V=4, **NARROW)
TWO = {**ONE, "WINDOW": 1, **WIDE}
MIXED = {**ONE, "STAGES_V": 2}
SHARED = {**ONE, "WINDOW": 16, "STAGES_K": 3, "STAGES_V": 3}
VARIANTS = {
    "fp8-one": ("e4m3", "e4m3", ONE),
    "fp8-one-late": ("e4m3", "e4m3", {**ONE, "LATE": True}),
    "fp8-one-turns": ("e4m3", "e4m3", {**ONE, "PING_PONG": True}),
    "fp8-16": ("e4m3", "e4m3", SHARED),
    "fp8-16-late": ("e4m3", "e4m3", {**SHARED, "LATE": True}),
    "fp8-halves": ("e4m3", "e4m3", {**ONE, "HALVES": True}),
    "fp8-halves-16": ("e4m3", "e4m3", {**SHARED, "HALVES": True}),
    "fp8-two": ("e4m3", "e4m3", TWO),
    "fp8-two-turns": ("e4m3", "e4m3", {**TWO, "PING_PONG": True}),
    "int8": ("int8", "bf16", MIXED),
    "int8-fp8": ("int8", "e4m3", ONE),
    "int8-fp8-16": ("int8", "e4m3", SHARED),
    "fp8-bf16": ("e4m3", "bf16", MIXED),
}


TIMES = (
    "variant", "shape", "L", "density", "levels", "attend_bf16_ms", "attend_8bit_ms", "attend_gain", "whole_bf16_ms",
    "whole_8bit_ms", "whole_gain", "select_ms", "quantise_ms", "needed_gain", "differs", "whole_differs", "repeats",
)  # fmt: skip
ERRORS = ("variant", "inputs", "L", "density", "error_bf16", "error_8bit", "error_centred")


def plan_of(shape: str, flat: bool) -> Plan:
    _, _, _, causal, density = SHAPES[shape]
    config = AttentionConfig(
        key_block=64, text_length=0, causal=causal, block_means=False, importance_method="xattn",
        xattn_query_stride=16, xattn_stride=4, **by_density(density, flat),
    )  # fmt: skip
    return Plan.of(config, 128**-0.5)


def launch(kernel, grid, arguments):
    return kernel[grid](**arguments)


def even(length, heads, kv_heads, dim, dtype, seed=0):
    """``uniform`` with short queries and values around 1."""
    q, k, v = uniform(length, heads, kv_heads, dim, dtype, seed)
    return q * 0.2, k, v + 1


def compiled(name: str, shape: str) -> None:
    """Leave the kernels of a part in Triton's cache, so that several processes may compile at a time."""
    length, heads, kv_heads, causal, _ = SHAPES[shape]
    q, k, v = (torch.ones(1, h, length, 128, dtype=torch.bfloat16, device="cuda") for h in (heads, kv_heads, kv_heads))
    for flat in (False, True):
        plan = plan_of(shape, flat)
        found = kernels.select_blocks(q, k, plan)
    if name == "bound":
        for flat in (False, True):
            kernels.psa_fwd(q, k, v, plan_of(shape, flat))
        return
    qk, pv, options = VARIANTS[name]
    quantise_8bit.e4m3(q, k, v, 1.0)
    operands = proto.quantise(q, k, v, 128**-0.5, qk, pv)
    sizes = (1, heads, kv_heads, length, length)
    proto.attend_8bit(operands, found, sizes, causal, 0, 132, lambda f, grid, x: f.warmup(grid=grid, **x), **options)


def outlier(length, heads, kv_heads, dim, dtype, seed=0):
    """``structured`` with what language models show: key channels with a large mean, others with a large variance that
    queries hardly use, a few large value channels."""
    q, k, v = (x.float() for x in structured(length, heads, kv_heads, dim, dtype, seed))
    k[..., [3, 40]] += torch.tensor([12.0, -12.0], device="cuda")
    k[..., [77, 120]] *= 6
    q[..., [77, 120]] *= 0.4
    v[..., [5, 60]] *= 8
    return tuple(x.to(dtype).contiguous() for x in (q, k, v))


def turns(*runs, rounds: int = 3, period_ms: float = 240.0) -> list[float]:
    """Median milliseconds of each. They take turns of a quarter of a second, of which the second half counts: a GPU at
    its limit of power takes that long to find the clock that a kernel can have, and shorter turns lend one's to
    the next."""
    times = [[] for _ in runs]
    for i_round in range(rounds + 1):
        for run, found in zip(runs, times, strict=True):
            n = max(2, int(period_ms / statistics.median(found))) if found else 2
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(n + 1)]
            marks[0].record()
            for mark in marks[1:]:
                run()
                mark.record()
            torch.cuda.synchronize()
            each = [a.elapsed_time(b) for a, b in zip(marks[n // 2 :], marks[n // 2 + 1 :], strict=False)]
            if i_round == 1:
                found.clear()  # what is before was warming up
            found += each
    return [statistics.median(found) for found in times]


def bound(shape: str, flat: bool) -> dict:
    """The whole operator in bfloat16, its stages, and what the attention would have to gain for 1.25x of the whole."""
    length, heads, kv_heads, causal, density = SHAPES[shape]
    q, k, v = structured(length, heads, kv_heads, 128, torch.bfloat16)
    plan = plan_of(shape, flat)
    pooled = kernels.pyramid_fwd(k, v, plan)[:2] if plan.pools else (None, None)
    found = kernels.select_blocks(q, k, plan)
    whole, choose, attend, quantised = turns(
        lambda: kernels.psa_fwd(q, k, v, plan),
        lambda: kernels.select_blocks(q, k, plan),
        lambda: kernels.attend_fwd(q, k, v, found, plan, kernels.Pooled(*pooled)),
        lambda: quantise_8bit.e4m3(q, k, v, 128**-0.5 * LOG2E),
    )
    return dict(
        variant="bf16", shape=shape, L=length, density=density, levels="1, 0" if flat else "1, 2, 4, 8, 0",
        attend_bf16_ms=attend, whole_bf16_ms=whole, select_ms=choose, quantise_ms=quantised,
        needed_gain=attend / (whole / 1.25 - (whole - attend + quantised)),
    )  # fmt: skip


def timed(name: str, shape: str) -> dict:
    """A variant beside bfloat16 on the same lists; the whole operator where the quantising passes can feed it."""
    qk, pv, options = VARIANTS[name]
    length, heads, kv_heads, causal, density = SHAPES[shape]
    q, k, v = structured(length, heads, kv_heads, 128, torch.bfloat16)
    plan = plan_of(shape, True)
    found = kernels.select_blocks(q, k, plan)
    operands = proto.quantise(q, k, v, 128**-0.5, qk, pv)
    sizes = (1, heads, kv_heads, length, length)

    def attend(x, found):
        return proto.attend_8bit(x, found, sizes, causal, 0, 132, launch, **options)[1]

    def whole():
        x = quantise_8bit.e4m3(q, k, v, 128**-0.5 * LOG2E)
        return attend(x, kernels.select_blocks(q, k, plan))

    out, want = attend(operands, found), kernels.attend_fwd(q, k, v, found, plan)
    row = dict(variant=name, shape=shape, L=length, density=density, levels="1, 0")
    row["repeats"] = bool((attend(operands, found) == out).all())
    row["differs"] = float((out.float() - want.float()).norm() / want.float().norm())
    runs = {
        "attend_bf16_ms": lambda: kernels.attend_fwd(q, k, v, found, plan),
        "attend_8bit_ms": lambda: attend(operands, found),
    }
    if (qk, pv) == ("e4m3", "e4m3"):
        runs |= {"whole_bf16_ms": lambda: kernels.psa_fwd(q, k, v, plan), "whole_8bit_ms": whole}
        row["whole_differs"] = float((whole().float() - want.float()).norm() / want.float().norm())
    row |= dict(zip(runs, turns(*runs.values()), strict=True))
    for part in ("attend", "whole"):
        if f"{part}_8bit_ms" in row:
            row[f"{part}_gain"] = row[f"{part}_bf16_ms"] / row[f"{part}_8bit_ms"]
    return row


def errors(name: str) -> list[dict]:
    """Against float64, all blocks kept and a quarter; then long rows of nearly equal weights over values that are not
    centred, which is where sums of few bits show."""
    qk, pv, options = VARIANTS[name]
    level1, quarter = CASES["level1"], by_density(0.25, True)
    found_rows = []
    cases = [(inputs, 8192, fields) for inputs in (structured, outlier, uniform) for fields in (level1, quarter)]
    for inputs, length, fields in (*cases, (even, 65536, level1)):
        heads, kv_heads = 28, 4
        q, k, v = inputs(length, heads, kv_heads, 128, torch.bfloat16)
        config = AttentionConfig(
            key_block=64, text_length=0, block_means=False, importance_method="xattn", xattn_query_stride=16,
            xattn_stride=4, **fields,
        )  # fmt: skip
        plan = Plan.of(config, 128**-0.5)
        rows = torch.arange(length - 4096, length, 61, device="cuda")
        found = kernels.select_blocks(q, k, plan)
        group = heads // kv_heads
        exact = torch.cat([
            dense_rows(q[0, h * group : (h + 1) * group], k[0, h : h + 1], v[0, h : h + 1], rows, 128**-0.5, True)
            for h in range(kv_heads)
        ])  # fmt: skip
        outs = {"error_bf16": kernels.attend_fwd(q, k, v, found, plan)}
        for smooth in (True, False):
            operands = proto.quantise(q, k, v, 128**-0.5, qk, pv, smooth=smooth)
            sizes = (1, heads, kv_heads, length, length)
            out = proto.attend_8bit(operands, found, sizes, True, 0, 132, launch, **options)[1]
            outs["error_centred" if smooth else "error_8bit"] = out
        row = dict(variant=name, inputs=inputs.__name__, L=length, density=1.0 if fields is level1 else 0.25)
        row |= {key: float((x[0, :, rows].double() - exact).norm() / exact.norm()) for key, x in outs.items()}
        found_rows.append(row)
    return found_rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("bound", *VARIANTS), default=["bound", *VARIANTS])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--errors", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--csv", help="also write the times there")
    parser.add_argument("--errors-csv", help="also write the errors there")
    parser.add_argument("--compile", action="store_true", help="only fill Triton's cache")
    args = parser.parse_args()
    if args.compile:
        for part in args.parts:
            for shape in args.shapes:
                compiled(part, shape)
        return
    found = facts(gpu_name(), "torch", "triton")
    print(machine_line(found), header(TIMES), sep="\n", flush=True)
    rows = []
    for part, shape in itertools.product(args.parts, args.shapes):
        rows += [bound(shape, flat) for flat in (False, True)] if part == "bound" else [timed(part, shape)]
        torch.cuda.empty_cache()
        for row in rows[-2:] if part == "bound" else rows[-1:]:
            print(line(row.get(f) for f in TIMES), flush=True)
    write_csv(args.csv, found, TIMES, rows)
    print(header(ERRORS))
    rows = []
    for part in args.errors:
        rows += errors(part)
        for row in rows[-7:]:
            print(line(row.get(f) for f in ERRORS), flush=True)
    write_csv(args.errors_csv, found, ERRORS, rows)


if __name__ == "__main__":
    main()
