"""PSAAttention's path on one GPU, stage by stage, against dense attention; torch tensors, bf16.

    python benchmarks/bench_psa_attention.py                # Wan2.1 14B's and CogVideoX 5B's shapes, every token order
    python benchmarks/bench_psa_attention.py --shapes wan --methods none --block-n 128 --importance xattn
    python benchmarks/bench_psa_attention.py --shapes wan --pooling-settings   # only the importance, by tile sizes

Each row times what PSAAttention launches for one call with its default configuration: the plan (nothing for a fixed
order, k-means for clusters; cold: the first call), permutation of q, k and v, pyramid, importance, selection,
attention, and the inverse permutation; whole is all of it in one go. The error is that of 256 random rows a head
against dense attention in float32. GB/s counts the bytes that a permutation reads and writes, TFLOP/s the sampled
products of the importance. Tokens are ``gpu_inputs.field``: smooth in three dimensions, in raster order. Needs torch
and Triton, no Paddle.
"""

import argparse
import itertools
from unittest import mock

import torch
import triton
from common import dense, facts, gpu_name, gpu_peak_mib, header, line, machine_line, time_ms, write_csv
from gpu_inputs import field
from torch.nn.attention import SDPBackend

from psa_paddle import kernels
from psa_paddle.config import IMPORTANCE_METHODS
from psa_paddle.kernels import tuning
from psa_paddle.plan import Plan
from psa_paddle.psa_config import PSAConfig
from psa_paddle.rearrange import METHODS

# name -> (heads, grid, text tokens, D)
SHAPES = {"wan": (40, (21, 45, 80), 0, 128), "cogvideo": (48, (13, 30, 45), 226, 64)}
FIELDS = (
    "shape", "L", "heads", "D", "order", "importance", "N", "density", "rel_error", "cudnn_ms", "whole_ms", "vs_cudnn",
    "plan_cold_ms", "plan_ms", "permute_ms", "permute_gbs", "pyramid_ms", "importance_ms", "importance_tflops",
    "select_ms", "attend_ms", "restore_ms", "restore_gbs", "extra_mib",
)  # fmt: skip


def sampled_error(out, q, k, v, rows: int = 256) -> float:
    """Relative error of random rows of every head against dense attention in float32."""
    picked = torch.randperm(q.shape[2], device="cuda", generator=torch.Generator("cuda").manual_seed(1))[:rows]
    wrong = total = 0.0
    for h in range(q.shape[1]):
        logits = (q[0, h, picked].float() @ k[0, h].float().T) * q.shape[3] ** -0.5
        want = torch.softmax(logits, -1) @ v[0, h].float()
        wrong += float((out[0, h, picked].float() - want).square().sum())
        total += float(want.square().sum())
    return (wrong / total) ** 0.5


def make_order(method: str, grid, text: int, tile_size):
    if method == "none":
        return None
    return METHODS[method](
        grid, text, text_to_end=True, **({"tile_size": tile_size} if METHODS[method].settings else {})
    )


def bench(shape: str, method: str, args) -> dict:
    """One row."""
    heads, grid, text, dim = SHAPES[shape]
    text = 0 if method == "none" else text  # a plain call knows of no text
    q, k, v = field(grid, heads, dim, torch.bfloat16, args.correlation, text=SHAPES[shape][2])
    length = q.shape[2]
    psa = PSAConfig(block_n=args.block_n)
    config = psa.to_attention_config(text_length=text).replace(importance_method=args.importance)
    plan = Plan.of(config, dim**-0.5).replace(causal=False, thresholds=None, block_means=False)
    order = make_order(method, grid, text, psa.tile_size)

    def whole():
        if order is None:
            return kernels.psa_fwd(q, k, v, plan)
        found = order.plan(q, k)
        out, work = kernels.psa_fwd(found.permute(q), found.permute_kv(k), found.permute_kv(v), plan)
        return found.restore(out), work

    row = dict(shape=shape, L=length, heads=heads, D=dim, order=method, importance=args.importance, N=args.block_n)
    row["extra_mib"], (out, work) = gpu_peak_mib(whole)
    row["rel_error"] = sampled_error(out, q, k, v)
    n_i, n_j = -(-length // config.query_block), -(-length // config.key_block)
    row["density"] = float(work.sum(dtype=torch.float64)) / (n_i * n_j * heads)
    row["cudnn_ms"] = time_ms(lambda: dense(q, k, v, False, SDPBackend.CUDNN_ATTENTION))
    row["whole_ms"] = time_ms(whole)
    row["vs_cudnn"] = row["cudnn_ms"] / row["whole_ms"]
    moved = (q, k, v)
    if order is not None:
        found = order.plan(q, k)
        row["plan_ms"] = time_ms(lambda: order.plan(q, k))
        row["plan_cold_ms"] = time_ms(lambda: (order.reset(), order.plan(q, k)))
        permute = lambda: (found.permute(q), found.permute_kv(k), found.permute_kv(v))  # noqa: E731
        row["permute_ms"] = time_ms(permute)
        row["permute_gbs"] = 6 * q.nbytes / row["permute_ms"] / 1e6
        row["restore_ms"] = time_ms(lambda: found.restore(out))
        row["restore_gbs"] = 2 * q.nbytes / row["restore_ms"] / 1e6
        moved = permute()
    stages(row, moved, plan)
    return row


def stages(row: dict, qkv, plan: Plan) -> None:
    """Times of the operator's own launches."""
    q, k, v = qkv
    pyramid = lambda: kernels.pyramid_fwd(k, v, plan)  # noqa: E731
    row["pyramid_ms"] = time_ms(pyramid)
    pooled_k, pooled_v, _ = pyramid()
    if plan.importance_method == "pooling":
        row["importance_ms"] = time_ms(lambda: kernels.pooling_fwd(q, k, plan))
        sampled = -(-q.shape[2] // 4)
        row["importance_tflops"] = 2 * q.shape[1] * q.shape[3] * sampled**2 / row["importance_ms"] / 1e9
    else:
        row["importance_ms"] = time_ms(lambda: kernels.xattn_fwd(q, k, plan))
    choose = lambda: kernels.select_blocks(q, k, plan)  # noqa: E731
    row["select_ms"] = time_ms(choose) - row["importance_ms"]
    found = choose()
    row["attend_ms"] = time_ms(lambda: kernels.attend_fwd(q, k, v, found, plan, kernels.Pooled(pooled_k, pooled_v)))


# (rows, keys, warps, stages, programs at a time, registers) of the pooling importance
POOLING = (
    (128, 128, 8, 2, 2, 128), (128, 128, 8, 2, 2, None), (128, 128, 8, 3, 1, None), (128, 64, 8, 2, 3, 80),
    (128, 64, 8, 3, 2, 128), (256, 128, 16, 3, 1, 128), (128, 256, 8, 2, 1, None), (64, 128, 4, 2, 2, None),
)  # fmt: skip


def pooling_settings(shape: str, args) -> None:
    """Time the importance with each of ``POOLING`` in place of tuning.py's."""
    heads, grid, text, dim = SHAPES[shape]
    q, k, _ = field(grid, heads, dim, torch.bfloat16, args.correlation, text=text)
    sampled = -(-q.shape[2] // 4)
    print("| shape | N | rows | keys | warps | stages | resident | registers | ms | TFLOP/s |\n|" + "---|" * 10)
    for key_block, values in itertools.product((64, 128), POOLING):
        rows, keys, warps, stages, resident, registers = values
        settings = dict(BLOCK_A=rows, BLOCK_B=keys, CHUNK=64, RESIDENT=resident, num_warps=warps, num_stages=stages)
        settings |= {} if registers is None else {"maxnreg": registers}
        with mock.patch.object(tuning, "pick", lambda *_, settings=settings: settings):
            plan = Plan(dim**-0.5, False, 128, key_block)
            try:
                ms = time_ms(lambda plan=plan: kernels.pooling_fwd(q, k, plan))
            except triton.runtime.errors.OutOfResources as error:
                print(f"| {shape} | {key_block} | " + " | ".join(map(str, values)) + f" | {error} | |", flush=True)
                continue
        tflops = 2 * heads * dim * sampled**2 / ms / 1e9
        print(
            f"| {shape} | {key_block} | " + " | ".join(map(str, values)) + f" | {ms:.2f} | {tflops:.0f} |", flush=True
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--methods", nargs="+", choices=("none", *METHODS), default=["none", *METHODS])
    parser.add_argument("--importance", choices=IMPORTANCE_METHODS, default="pooling")
    parser.add_argument("--block-n", type=int, choices=(32, 64, 128), default=64)
    parser.add_argument("--correlation", type=float, default=8.0, help="tokens over which the field is alike")
    parser.add_argument("--pooling-settings", action="store_true", help="only time the importance by tile sizes")
    parser.add_argument("--csv", help="also write the rows there")
    args = parser.parse_args()
    found = facts(gpu_name(), "torch", "triton")
    print(machine_line(found))
    if args.pooling_settings:
        for shape in args.shapes:
            pooling_settings(shape, args)
        return
    rows = []
    print(header(FIELDS))
    for shape in args.shapes:
        for method in args.methods:
            rows.append(bench(shape, method, args))
            print(line(rows[-1].get(f) for f in FIELDS), flush=True)
            torch.cuda.empty_cache()
    write_csv(args.csv, found, FIELDS, rows)


if __name__ == "__main__":
    main()
