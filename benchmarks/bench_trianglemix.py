"""TriangleMix's attention against the length, and against dense attention.

    python benchmarks/bench_trianglemix.py                  # one GPU, torch tensors, no Paddle: 32k to 256k tokens
    python benchmarks/bench_trianglemix.py --tune           # tiles, warps and stages at the first of --lengths
    python benchmarks/bench_trianglemix.py --cpu            # the eager path with Paddle, 8k to 64k tokens

Each row is one length: ours, torch SDPA with cuDNN and with FlashAttention-2 on the same tensors, the band and the last
rows alone, the error of 64 sampled rows (half of them among the last) against a float64 softmax with the exact mask,
peak memory over inputs and output. The fit exponent is the slope of log time over log length: 1 is linear.
"""

import argparse

import numpy as np
from common import (
    cpu_name,
    dense,
    exponent,
    facts,
    gpu_name,
    gpu_peak_mib,
    header,
    line,
    machine_line,
    measure,
    peak_in_fresh_process,
    peak_mib,
    seen_pairs,
    time_ms,
    write_csv,
)

GPU_FIELDS = (
    "inputs", "L", "heads", "kv", "D", "sink", "window", "last", "density", "triangle_ms", "band_ms", "last_ms",
    "dense_cudnn_ms", "dense_flash_ms", "vs_cudnn", "vs_flash", "tflops", "rel_error", "max_error", "extra_mib",
)  # fmt: skip
SHAPE_FLAGS = ("heads", "kv_heads", "dim", "sink", "window", "last")
CPU_FIELDS = ("L", "heads", "kv", "D", "sink", "window", "last", "density", "triangle_ms", "rel_error", "peak_mib")


def gpu_row(name: str, length: int, args) -> dict:
    import torch
    from gpu_inputs import INPUTS
    from gpu_rows import triangle_rows
    from torch.nn.attention import SDPBackend

    from psa_paddle.kernels.triangle import triangle_fwd
    from psa_paddle.triangle_pattern import Pattern

    q, k, v = INPUTS[name](length, args.heads, args.kv_heads, args.dim, torch.bfloat16)
    pattern, scale = (args.sink, args.window, args.last), args.dim**-0.5

    def ours(queries=q, last=args.last):
        return triangle_fwd(queries, k, v, Pattern(args.sink, args.window, last), scale)

    row = dict(inputs=name, L=length, heads=args.heads, kv=args.kv_heads, D=args.dim)
    row.update(sink=args.sink, window=args.window, last=args.last)
    row["extra_mib"], out = gpu_peak_mib(ours)
    bound = min(max(1, length - args.last + 1), length - 1)
    rows = torch.cat([torch.linspace(0, bound - 1, 32), torch.linspace(bound, length - 1, 32)]).long().unique().cuda()
    want = triangle_rows(q[0], k[0], v[0], rows, pattern, scale)
    error = out[0][:, rows].double() - want
    row["rel_error"], row["max_error"] = float(error.norm() / want.norm()), float(error.abs().max())
    del out, want, error
    row["triangle_ms"], row["band_ms"] = time_ms(ours), time_ms(lambda: ours(last=0))
    tail = q[:, :, max(0, length - args.last + 1) :]
    row["last_ms"] = time_ms(lambda: ours(tail)) if tail.shape[2] else 0.0
    row["dense_cudnn_ms"] = time_ms(lambda: dense(q, k, v, True, SDPBackend.CUDNN_ATTENTION))
    row["dense_flash_ms"] = time_ms(lambda: dense(q, k, v, True, SDPBackend.FLASH_ATTENTION))
    row["vs_cudnn"] = row["dense_cudnn_ms"] / row["triangle_ms"]
    row["vs_flash"] = row["dense_flash_ms"] / row["triangle_ms"]
    pairs = seen_pairs(length, *pattern)
    row["density"] = pairs / (length * (length + 1) / 2)
    row["tflops"] = 4 * args.heads * args.dim * pairs / row["triangle_ms"] / 1e9
    return row


def gpu(args) -> None:
    import torch

    found = facts(gpu_name(), "torch", "triton")
    print(machine_line(found), header(GPU_FIELDS), sep="\n")
    rows = []
    for name in args.inputs:
        own = []
        for length in args.lengths or [32768, 65536, 131072, 262144]:
            own.append(gpu_row(name, length, args))
            print(line(own[-1][f] for f in GPU_FIELDS), flush=True)
            torch.cuda.empty_cache()
        rows += own
        if len(own) > 1:
            fits = {f: exponent([r["L"] for r in own], [r[f] for r in own]) for f in ("triangle_ms", "dense_cudnn_ms")}
            print(f"fit exponents, {name}: " + ", ".join(f"{f} {value:.3f}" for f, value in fits.items()))
    write_csv(args.csv, found, GPU_FIELDS, rows)


def cpu_sample(length: int, args):
    """64 rows, half of them among the last, and which keys they see: bool [rows, length]."""
    bound = min(max(1, length - args.last + 1), length - 1)
    rows = np.unique(np.r_[np.linspace(0, bound - 1, 32), np.linspace(bound, length - 1, 32)].astype(int))
    i, j = rows[:, None], np.arange(length)[None]
    return rows, (j <= i) & ((j <= args.sink) | (i - j <= args.window) | (length - i < args.last))


def cpu_row(length: int, args) -> dict:
    """The eager path with Paddle; the error is that of the first query head."""
    from cpu_inputs import video_qkv

    q, k, v = video_qkv(length, args.heads, args.kv_heads, args.dim)
    row = dict(L=length, heads=args.heads, kv=args.kv_heads, D=args.dim)
    row.update(sink=args.sink, window=args.window, last=args.last)
    row["triangle_ms"], out = measure(lambda: eager(q, k, v, args), args.repeats)
    rows, seen = cpu_sample(length, args)
    head, keys, values = (x.numpy()[0, 0].astype(float) for x in (q, k, v))
    logits = np.where(seen, head[rows] @ keys.T * args.dim**-0.5, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    want = weights / weights.sum(-1, keepdims=True) @ values
    row["rel_error"] = float(np.linalg.norm(out.numpy()[0, 0, rows] - want) / np.linalg.norm(want))
    row["density"] = seen_pairs(length, args.sink, args.window, args.last) / (length * (length + 1) / 2)
    row["peak_mib"] = peak_in_fresh_process(length, args, SHAPE_FLAGS, "--cpu")
    return row


def eager(q, k, v, args):
    from psa_paddle.trianglemix import triangle_attention

    counts = dict(num_sink_tokens=args.sink, sliding_window_size=args.window, num_last_tokens=args.last)
    return triangle_attention(q, k, v, **counts, backend="eager")


def cpu(args) -> None:
    import paddle
    from cpu_inputs import video_qkv

    paddle.set_device("cpu")
    if args.memory_of:
        q, k, v = video_qkv(args.memory_of, args.heads, args.kv_heads, args.dim)
        return print(peak_mib(lambda: eager(q, k, v, args)))
    found = facts(cpu_name(), "paddlepaddle")
    print(machine_line(found), header(CPU_FIELDS), sep="\n")
    rows = []
    for length in args.lengths or [8192, 16384, 32768, 65536]:
        rows.append(cpu_row(length, args))
        print(line(rows[-1][f] for f in CPU_FIELDS), flush=True)
    if len(rows) > 1:
        fits = {name: exponent([r["L"] for r in rows], [r[name] for r in rows]) for name in ("triangle_ms", "peak_mib")}
        print("fit exponents: " + ", ".join(f"{name} {value:.3f}" for name, value in fits.items()))
    write_csv(args.csv, found, CPU_FIELDS, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--cpu", action="store_true", help="the eager path (default: the Triton kernels on a GPU)")
    mode.add_argument("--tune", action="store_true", help="time other settings of the kernels on the GPU")
    parser.add_argument("--lengths", type=int, nargs="+", help="32k to 256k on a GPU, 8k to 64k on a CPU")
    parser.add_argument("--inputs", nargs="+", default=["structured"], help="on the GPU: names of gpu_inputs.py")
    parser.add_argument("--heads", type=int, help="28 on a GPU, 8 on a CPU")
    parser.add_argument("--kv-heads", type=int, help="4 on a GPU, 2 on a CPU")
    parser.add_argument("--dim", type=int, help="128 on a GPU, 64 on a CPU")
    parser.add_argument("--sink", type=int, default=8)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--last", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3, help="runs on the CPU")
    parser.add_argument("--csv", help="also write the rows there")
    parser.add_argument("--memory-of", type=int, help="with --cpu: only print the peak memory at this length, in MiB")
    args = parser.parse_args()
    defaults = dict(heads=8, kv_heads=2, dim=64) if args.cpu else dict(heads=28, kv_heads=4, dim=128)
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.cpu:
        return cpu(args)
    if args.tune:
        from tune_trianglemix import tune

        return tune(args)
    return gpu(args)


if __name__ == "__main__":
    main()
