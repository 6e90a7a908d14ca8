"""The 8-bit attention of attend_8bit.py beside the product's bfloat16 kernel, on the same lists: times and errors.

    python benchmarks/prototypes/bench_8bit.py --bound --csv times.csv --errors-csv errors.csv

Times at Wan2.1-14B's shape and at 65,536 tokens, levels 1 and 0. --bound: the whole operator in bfloat16 by its stages,
with pooled levels, too, what quantising would add, and what the attention would have to gain. Errors are against
float64. Needs torch and Triton, no Paddle.
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
VARIANTS = {
    "fp8-one": ("e4m3", "e4m3", dict(WINDOW=0, STAGES_K=4, STAGES_V=4)),
    "fp8-16": ("e4m3", "e4m3", dict(WINDOW=16, STAGES_K=4, STAGES_V=4)),
    "fp8-32": ("e4m3", "e4m3", dict(WINDOW=32, STAGES_K=4, STAGES_V=4)),
    "fp8-64": ("e4m3", "e4m3", dict(WINDOW=64, STAGES_K=4, STAGES_V=4)),
    "int8-fp8": ("int8", "e4m3", dict(WINDOW=32, STAGES_K=3, STAGES_V=3)),
    "int8": ("int8", "bf16", dict(WINDOW=0, STAGES_K=4, STAGES_V=2)),
}


TIMES = (
    "variant", "shape", "L", "density", "levels", "attend_bf16_ms", "attend_8bit_ms", "attend_gain", "whole_bf16_ms",
    "whole_8bit_ms", "whole_gain", "select_ms", "quantise_ms", "needed_gain", "differs", "whole_differs",
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


def turns(*runs, rounds: int = 2, period_ms: float = 240.0) -> list[float]:
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
    length, heads, kv_heads, _, density = SHAPES[shape]
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


def timed(names, shape: str) -> list[dict]:
    """Variants beside bfloat16 on the same lists, all in turns; the whole operator where the passes of quantise_8bit.py
    can feed it."""
    length, heads, kv_heads, causal, density = SHAPES[shape]
    q, k, v = structured(length, heads, kv_heads, 128, torch.bfloat16)
    plan = plan_of(shape, True)
    found = kernels.select_blocks(q, k, plan)
    sizes = (1, heads, kv_heads, length, length)
    want = kernels.attend_fwd(q, k, v, found, plan)
    runs = {
        ("bf16", "attend"): lambda: kernels.attend_fwd(q, k, v, found, plan),
        ("bf16", "whole"): lambda: kernels.psa_fwd(q, k, v, plan),
    }
    off, operands = {}, {}
    for name in names:
        qk, pv, options = VARIANTS[name]
        if (qk, pv) not in operands:
            operands[qk, pv] = proto.quantise(q, k, v, 128**-0.5, qk, pv)

        def attend(x=operands[qk, pv], lists=found, options=options):
            return proto.attend_8bit(x, lists, sizes, causal, 0, 132, launch, **options)[1]

        def whole(attend=attend):
            return attend(quantise_8bit.e4m3(q, k, v, 128**-0.5 * LOG2E), kernels.select_blocks(q, k, plan))

        runs[name, "attend"] = attend
        if (qk, pv) == ("e4m3", "e4m3"):
            runs[name, "whole"] = whole
        for run in (attend, *([whole] if (name, "whole") in runs else ())):
            off[name, run.__name__] = float((run().float() - want.float()).norm() / want.float().norm())
    ms = dict(zip(runs, turns(*runs.values()), strict=True))
    rows = []
    for name in names:
        row = dict(variant=name, shape=shape, L=length, density=density, levels="1, 0", differs=off[name, "attend"])
        row["whole_differs"] = off.get((name, "whole"))
        for part in ("attend", "whole"):
            if (name, part) in ms:
                row[f"{part}_bf16_ms"], row[f"{part}_8bit_ms"] = ms["bf16", part], ms[name, part]
                row[f"{part}_gain"] = ms["bf16", part] / ms[name, part]
        rows.append(row)
    return rows


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
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--bound", action="store_true", help="also time the whole operator in bfloat16 by its stages")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--errors", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--csv", help="also write the times there")
    parser.add_argument("--errors-csv", help="also write the errors there")
    parser.add_argument("--compile", action="store_true", help="only fill Triton's cache")
    args = parser.parse_args()
    if args.compile:
        for name, shape in itertools.product(args.variants, args.shapes):
            compiled(name, shape)
        return
    found = facts(gpu_name(), "torch", "triton")
    print(machine_line(found), header(TIMES), sep="\n", flush=True)
    rows = []
    for shape in args.shapes:
        done = len(rows)
        rows += [bound(shape, flat) for flat in (False, True)] if args.bound else []
        rows += timed(args.variants, shape)
        torch.cuda.empty_cache()
        print("\n".join(line(row.get(f) for f in TIMES) for row in rows[done:]), flush=True)
    write_csv(args.csv, found, TIMES, rows)
    print(header(ERRORS))
    rows = []
    for name in args.errors:
        done = len(rows)
        rows += errors(name)
        print("\n".join(line(row.get(f) for f in ERRORS) for row in rows[done:]), flush=True)
    write_csv(args.errors_csv, found, ERRORS, rows)


if __name__ == "__main__":
    main()
