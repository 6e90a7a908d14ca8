"""The eager operator against dense attention on this machine's CPU.

    python benchmarks/bench_eager_cpu.py [--lengths 2048 4096 8192 16384] [--preset fast] [--heads 8] [--kv-heads 2]

Every row times three ways to the same tensors in one process: Paddle's ``scaled_dot_product_attention``, dense
attention as chunked matmuls, and the operator with everything that it does (importance, selection, pooling,
attention). Times are medians in milliseconds, the ratios are what counts; the tensors are video-like (``video_qkv``).
"""

import argparse

import paddle
import paddle.nn.functional as F
from common import cpu_name, facts, header, line, machine_line, measure, peak_in_fresh_process, peak_mib, write_csv
from cpu_inputs import video_qkv

from psa_paddle import AttentionConfig, pyramid_attention
from psa_paddle.config import DEFAULT_PRESET, PRESETS
from psa_paddle.eager import dense_attention

FIELDS = (
    "L", "heads", "kv", "D", "preset", "density", "rel_error", "sdpa_ms", "dense_ms", "psa_ms", "vs_sdpa", "vs_dense",
    "peak_mib",
)  # fmt: skip


def bench(length: int, args, config: AttentionConfig) -> dict:
    """Time the three ways at one length."""
    q, k, v = video_qkv(length, args.heads, args.kv_heads, args.dim)
    row = dict(L=length, heads=args.heads, kv=args.kv_heads, D=args.dim, preset=args.preset)
    row["dense_ms"], dense = measure(lambda: dense_attention(q, k, v, True, args.dim**-0.5), args.repeats)
    row["psa_ms"], (out, stats) = measure(lambda: pyramid_attention(q, k, v, config, return_stats=True), args.repeats)
    row["peak_mib"] = peak_in_fresh_process(length, args, ("preset", "heads", "kv_heads", "dim"))
    row["rel_error"], row["density"] = float(paddle.norm(out - dense) / paddle.norm(dense)), 1 - stats.sparsity()
    row["vs_dense"] = row["dense_ms"] / row["psa_ms"]
    if length <= args.sdpa_up_to:
        qt, kt, vt = (x.transpose([0, 2, 1, 3]) for x in (q, k, v))
        kt, vt = (x.repeat_interleave(args.heads // args.kv_heads, axis=2) for x in (kt, vt))
        row["sdpa_ms"], _ = measure(lambda: F.scaled_dot_product_attention(qt, kt, vt, is_causal=True), 1)
        row["vs_sdpa"] = row["sdpa_ms"] / row["psa_ms"]
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--preset", choices=PRESETS, default=DEFAULT_PRESET)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sdpa-up-to", type=int, default=8192, help="longest length at which Paddle's SDPA runs")
    parser.add_argument("--memory-of", type=int, help="only print the operator's peak memory at this length, in MiB")
    parser.add_argument("--csv", help="also write the rows there")
    args = parser.parse_args()
    paddle.set_device("cpu")
    config = AttentionConfig.preset(args.preset, text_length=128, dense_below=0)
    if args.memory_of:
        q, k, v = video_qkv(args.memory_of, args.heads, args.kv_heads, args.dim)
        return print(peak_mib(lambda: pyramid_attention(q, k, v, config)))
    found, rows = facts(cpu_name(), "paddlepaddle"), []
    print(machine_line(found), "float32, causal", header(FIELDS), sep="\n")
    for length in args.lengths:
        rows.append(bench(length, args, config))
        print(line(rows[-1].get(field) for field in FIELDS), flush=True)
    write_csv(args.csv, found, FIELDS, rows)


if __name__ == "__main__":
    main()
