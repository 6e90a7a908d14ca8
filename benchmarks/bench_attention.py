"""The Triton operator and each of its stages against dense attention, on one GPU, with torch tensors.

    python benchmarks/bench_attention.py --lengths 32768 65536 131072 --density 0.15 0.25 0.4
    python benchmarks/bench_attention.py --heads 40 --kv-heads 40 --lengths 75600 --bidirectional --density 0.15
    python benchmarks/bench_attention.py --ratios seed --lengths 65536 --flex

One run times everything on the same tensors: dense peers (torch SDPA with cuDNN and with FlashAttention-2; with --flex
FlexAttention over the same kept blocks), the whole operator and its stages. Efficiency is density x cuDNN's time /
ours: 1 would mean that each kept block costs what it costs in cuDNN's dense kernel. TFLOP/s counts the dense work that
the kept blocks stand for. --density D mixes levels 1, 2, 4, 8 in topk mode so that about D of the dense work remains;
--flat uses levels 1 and 0 only. Presets come with their own estimate of importance. Needs torch and Triton, no Paddle.
"""

import argparse

import torch
from attention_cases import CASES, by_density
from common import dense, facts, gpu_name, gpu_peak_mib, header, line, machine_line, time_ms, write_csv
from gpu_inputs import INPUTS
from torch.nn.attention import SDPBackend

from psa_paddle import kernels
from psa_paddle.config import IMPORTANCE_METHODS, AttentionConfig
from psa_paddle.plan import Plan

FIELDS = (
    "inputs", "L", "heads", "kv", "D", "causal", "case", "N", "density", "dense_cudnn_ms", "dense_flash_ms", "flex_ms",
    "psa_ms", "pyramid_ms", "importance_ms", "select_ms", "attend_ms", "efficiency", "attend_efficiency", "vs_cudnn",
    "tflops", "rel_error", "extra_mib",
)  # fmt: skip


def flex_ms(q, k, v, levels, config) -> float:
    """FlexAttention over the blocks that are kept at any level (it has no pooling: the same map at level 1)."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    kept = levels > 0
    order = torch.argsort(kept.int(), dim=-1, descending=True, stable=True).int()
    counts = kept.sum(-1, dtype=torch.int32)

    def visible(b, h, i, j):
        return i >= j if config.causal else i >= 0

    size = (config.query_block, config.key_block)
    mask = BlockMask.from_kv_blocks(counts, order, BLOCK_SIZE=size, mask_mod=visible)
    run = torch.compile(flex_attention)
    return time_ms(lambda: run(q, k, v, block_mask=mask, enable_gqa=True))


def bench(name, length, args, case, fields) -> dict:
    """One row: the peers, the operator, its stages."""
    q, k, v = INPUTS[name](length, args.heads, args.kv_heads, args.dim, torch.bfloat16)
    config = AttentionConfig(
        key_block=args.key_block, text_length=args.text_length, causal=not args.bidirectional, use_sim_mask=args.cap,
        **{"block_means": False, "importance_method": args.method, "xattn_query_stride": args.strides[0],
           "xattn_stride": args.strides[1], "xattn_terms": args.terms, **fields},
    )  # fmt: skip
    plan = Plan.of(config, args.dim**-0.5)

    def operator():
        return kernels.psa_fwd(q, k, v, plan)

    reference = dense(q, k, v, config.causal, SDPBackend.CUDNN_ATTENTION)
    row = dict(inputs=name, L=length, heads=args.heads, kv=args.kv_heads, D=args.dim, causal=config.causal, case=case)
    row["N"] = config.key_block
    row["extra_mib"], (out, work) = gpu_peak_mib(operator)
    row["rel_error"] = float((out.float() - reference.float()).norm() / reference.float().norm())
    del reference, out
    n_i, n_j = -(-length // config.query_block), -(-length // config.key_block)
    valid = [min(((i + 1) * config.query_block - 1) // config.key_block + 1, n_j) for i in range(n_i)]
    pairs = sum(valid) if config.causal else n_i * n_j
    density = row["density"] = float(work.sum(dtype=torch.float64)) / (pairs * args.heads)

    row["dense_cudnn_ms"] = time_ms(lambda: dense(q, k, v, config.causal, SDPBackend.CUDNN_ATTENTION))
    row["dense_flash_ms"] = time_ms(lambda: dense(q, k, v, config.causal, SDPBackend.FLASH_ATTENTION))
    row["psa_ms"] = time_ms(operator)

    def pool():
        pyramid = kernels.pyramid_fwd(k, v, plan) if plan.pools else (None, None, None)
        return pyramid, kernels.means_fwd(k, v, plan) if plan.reads_means else ()

    (pooled_k, pooled_v, cap), means = pool()
    row["pyramid_ms"] = time_ms(pool) if plan.pools or plan.reads_means else 0.0
    blocks = lambda **more: kernels.select_blocks(q, k, plan, cap, **more)  # noqa: E731
    estimate = kernels.pooling_fwd if plan.importance_method == "pooling" else kernels.xattn_fwd
    row["importance_ms"] = time_ms(lambda: estimate(q, k, plan)) if len(config.intervals) > 1 else 0.0
    row["select_ms"] = time_ms(blocks) - row["importance_ms"]
    found = blocks(return_levels=args.flex)
    pooled = kernels.Pooled(pooled_k, pooled_v, *means)
    row["attend_ms"] = time_ms(lambda: kernels.attend_fwd(q, k, v, found, plan, pooled))
    row["flex_ms"] = flex_ms(q, k, v, found.levels, config) if args.flex else None
    row["efficiency"] = density * row["dense_cudnn_ms"] / row["psa_ms"]
    row["attend_efficiency"] = density * row["dense_cudnn_ms"] / row["attend_ms"]
    row["vs_cudnn"] = row["dense_cudnn_ms"] / row["psa_ms"]
    flops = 4 * args.heads * args.dim * length * length * (0.5 if config.causal else 1.0)
    row["tflops"] = density * flops / row["psa_ms"] / 1e9
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32768, 65536, 131072])
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=["structured"])
    parser.add_argument("--density", type=float, nargs="*", default=[])
    parser.add_argument("--flat", action="store_true", help="with --density: levels 1 and 0 only")
    parser.add_argument("--ratios", nargs="*", choices=CASES, default=[])
    parser.add_argument("--heads", type=int, default=28)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--key-block", type=int, default=64)
    parser.add_argument("--strides", type=int, nargs=2, default=(16, 4), help="of queries and of keys, of mixes (16 4)")
    parser.add_argument("--terms", type=int, default=1)
    parser.add_argument("--method", choices=IMPORTANCE_METHODS, default="xattn", help="of mixes")
    parser.add_argument("--text-length", type=int, default=0)
    parser.add_argument("--bidirectional", action="store_true")
    parser.add_argument("--cap", action="store_true", help="with the similarity cap")
    parser.add_argument("--flex", action="store_true", help="also time FlexAttention (compiles for a while)")
    parser.add_argument("--csv", help="also write the rows there")
    args = parser.parse_args()
    found = facts(gpu_name(), "torch", "triton")
    print(machine_line(found))
    cases = [(name, CASES[name]) for name in args.ratios]
    cases += [(f"{d:g}{' flat' if args.flat else ''}", by_density(d, args.flat)) for d in args.density]
    rows = []
    print(header(FIELDS))
    for name in args.inputs:
        for length in args.lengths:
            for case, fields in cases:
                rows.append(bench(name, length, args, case, fields))
                print(line(rows[-1][f] for f in FIELDS), flush=True)
                torch.cuda.empty_cache()
    write_csv(args.csv, found, FIELDS, rows)


if __name__ == "__main__":
    main()
