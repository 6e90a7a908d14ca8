"""The 8-bit attention of attend_8bit.py beside the product's bfloat16 kernel, on the same lists: times and errors.

    python benchmarks/prototypes/bench_8bit.py --parts bound fp8 fp8-one int8

bound: the whole operator and its stages in bfloat16, with pooled levels and without, and what quantising would add.
A variant's name: its times beside bfloat16's at Wan2.1-14B's shape and at 65,536 tokens (levels 1 and 0), and its
error against float64 at 8,192 tokens with every block kept. Needs torch and Triton, no Paddle.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (1, 2)]

import attend_8bit as proto  # noqa: E402
import quantise_8bit  # noqa: E402
from attention_cases import CASES, by_density  # noqa: E402
from common import facts, gpu_name, machine_line, time_ms  # noqa: E402
from gpu_inputs import structured, uniform  # noqa: E402
from gpu_rows import dense_rows  # noqa: E402

from psa_paddle import kernels  # noqa: E402
from psa_paddle.config import AttentionConfig  # noqa: E402
from psa_paddle.plan import Plan  # noqa: E402

SHAPES = {"wan": (75600, 40, 40, False, 0.15), "64k": (65536, 28, 4, True, 0.25)}  # L, heads, kv heads, causal, density
WIDE = dict(CONSUMER_REGISTERS=224, PRODUCER_REGISTERS=40)
NARROW = dict(CONSUMER_REGISTERS=208, PRODUCER_REGISTERS=72)
ONE = dict(TWO_LEVEL=False, PING_PONG=False, STAGES_K=4, STAGES_V=4, **NARROW)
TWO = dict(TWO_LEVEL=True, PING_PONG=False, STAGES_K=4, STAGES_V=4, **WIDE)
MIXED = dict(TWO_LEVEL=False, PING_PONG=False, STAGES_K=4, STAGES_V=2, **NARROW)
VARIANTS = {
    "fp8-one": ("e4m3", "e4m3", ONE),
    "fp8-one-turns": ("e4m3", "e4m3", {**ONE, "PING_PONG": True}),
    "fp8": ("e4m3", "e4m3", TWO),
    "fp8-turns": ("e4m3", "e4m3", {**TWO, "PING_PONG": True}),
    "int8": ("int8", "bf16", MIXED),
    "int8-turns": ("int8", "bf16", {**MIXED, "PING_PONG": True}),
    "int8-fp8": ("int8", "e4m3", ONE),
    "fp8-bf16": ("e4m3", "bf16", MIXED),
}


def plan_of(shape: str, flat: bool) -> Plan:
    _, _, _, causal, density = SHAPES[shape]
    config = AttentionConfig(
        key_block=64, text_length=0, causal=causal, block_means=False, importance_method="xattn",
        xattn_query_stride=16, xattn_stride=4, **by_density(density, flat),
    )  # fmt: skip
    return Plan.of(config, 128**-0.5)


def launch(kernel, grid, arguments):
    return kernel[grid](**arguments)


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


def bound(shape: str) -> None:
    for flat in (False, True):
        bound_of(shape, flat)


def bound_of(shape: str, flat: bool) -> None:
    length, heads, kv_heads, causal, _ = SHAPES[shape]
    q, k, v = structured(length, heads, kv_heads, 128, torch.bfloat16)
    plan = plan_of(shape, flat)
    whole = time_ms(lambda: kernels.psa_fwd(q, k, v, plan))
    pooled = kernels.pyramid_fwd(k, v, plan)[:2] if plan.pools else (None, None)
    pyramid = time_ms(lambda: kernels.pyramid_fwd(k, v, plan)) if plan.pools else 0.0
    choose = time_ms(lambda: kernels.select_blocks(q, k, plan))
    found = kernels.select_blocks(q, k, plan)
    attend = time_ms(lambda: kernels.attend_fwd(q, k, v, found, plan, kernels.Pooled(*pooled)))
    q_ms = time_ms(lambda: quantise_8bit.queries(q))
    kv_ms = time_ms(lambda: quantise_8bit.keys_and_values(k, v))
    rest = whole - attend + q_ms + kv_ms
    print(
        f"{shape} {'flat' if flat else 'mix'}: whole {whole:.2f} pyramid {pyramid:.2f} estimate, select {choose:.2f} "
        f"attend {attend:.2f}, quantise q {q_ms:.2f} k, v {kv_ms:.2f}; "
        f"attend must gain {attend / (whole / 1.25 - rest):.2f}x",
        flush=True,
    )


def timed(name: str, shape: str) -> None:
    qk, pv, options = VARIANTS[name]
    length, heads, kv_heads, causal, _ = SHAPES[shape]
    q, k, v = structured(length, heads, kv_heads, 128, torch.bfloat16)
    plan = plan_of(shape, True)
    found = kernels.select_blocks(q, k, plan)
    operands = proto.quantise(q, k, v, 128**-0.5, qk, pv)
    sizes = (1, heads, kv_heads, length, length)

    def run():
        return proto.attend_8bit(operands, found, sizes, causal, 0, 132, launch, **options)[1]

    out, want = run(), kernels.attend_fwd(q, k, v, found, plan)
    torch.cuda.synchronize()
    same = bool((run() == out).all())
    off = float((out.float() - want.float()).norm() / want.float().norm())
    bf16, ours = time_ms(lambda: kernels.attend_fwd(q, k, v, found, plan)), time_ms(run)
    again = time_ms(lambda: kernels.attend_fwd(q, k, v, found, plan))
    print(
        f"{name} {shape}: bf16 {bf16:.2f} and {again:.2f}, 8 bits {ours:.2f}, {bf16 / ours:.2f}x; "
        f"differs by {off:.4f}, repeats {same}", flush=True,
    )  # fmt: skip


def errors(name: str) -> None:
    qk, pv, options = VARIANTS[name]
    length, heads, kv_heads = 8192, 28, 4
    plan = Plan.of(AttentionConfig(key_block=64, **CASES["level1"]), 128**-0.5)
    rows = torch.arange(5, length, 61, device="cuda")
    for inputs in (structured, outlier, uniform):
        q, k, v = inputs(length, heads, kv_heads, 128, torch.bfloat16)
        found = kernels.select_blocks(q, k, plan)
        exact = dense_rows(q[0], k[0], v[0], rows, 128**-0.5, True)
        outs = {"bf16": kernels.attend_fwd(q, k, v, found, plan)}
        for smooth in (True, False):
            operands = proto.quantise(q, k, v, 128**-0.5, qk, pv, smooth=smooth)
            sizes = (1, heads, kv_heads, length, length)
            out = proto.attend_8bit(operands, found, sizes, True, 0, 132, launch, **options)[1]
            outs["8 bits" if smooth else "keys not centred"] = out
        off = {key: float((x[0, :, rows].double() - exact).norm() / exact.norm()) for key, x in outs.items()}
        print(f"{name} error {inputs.__name__}: " + ", ".join(f"{key} {x:.4f}" for key, x in off.items()), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("bound", *VARIANTS), default=["bound", *VARIANTS])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--compile", action="store_true", help="only fill Triton's cache")
    args = parser.parse_args()
    if args.compile:
        for part in args.parts:
            for shape in args.shapes:
                compiled(part, shape)
        return
    print(machine_line(facts(gpu_name(), "torch", "triton")), flush=True)
    for part in args.parts:
        for shape in args.shapes:
            bound(shape) if part == "bound" else timed(part, shape)
            torch.cuda.empty_cache()
        if part != "bound":
            errors(part)


if __name__ == "__main__":
    main()
