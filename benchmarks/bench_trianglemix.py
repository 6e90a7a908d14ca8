"""TriangleMix's attention against the length, and against dense attention.

    python benchmarks/bench_trianglemix.py                  # one GPU, torch tensors, no Paddle: 32k to 256k tokens
    python benchmarks/bench_trianglemix.py --check          # numerics on that GPU; exit status 1 when out of bounds
    python benchmarks/bench_trianglemix.py --tune           # tiles, warps and stages at the first of --lengths
    python benchmarks/bench_trianglemix.py --cpu            # the eager path with Paddle, 8k to 64k tokens

Each row is one length: ours, torch SDPA with cuDNN and with FlashAttention-2 on the same tensors, the band and the last
rows alone, the error of 64 sampled rows (half of them among the last) against a float64 softmax with the exact mask,
peak memory over inputs and output. The fit exponent is the slope of log time over log length: 1 is linear.
"""

import argparse
import platform
import subprocess
import sys

import numpy as np

GPU_FIELDS = (
    "inputs", "L", "heads", "kv", "D", "sink", "window", "last", "density", "triangle_ms", "band_ms", "last_ms",
    "dense_cudnn_ms", "dense_flash_ms", "vs_cudnn", "vs_flash", "tflops", "rel_error", "max_error", "extra_mib",
)  # fmt: skip
CPU_FIELDS = ("L", "heads", "kv", "D", "sink", "window", "last", "density", "triangle_ms", "rel_error", "peak_mib")


def seen_pairs(length: int, sink: int, window: int, last: int) -> int:
    seen = np.arange(1, length + 1)
    return int(np.where(length - seen + 1 < last, seen, np.minimum(seen, sink + window + 2)).sum())


def exponent(lengths, values) -> float:
    """Slope of log value over log length."""
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])


def machine_line(name: str, *versions: str) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return ", ".join([name, *versions, f"Python {platform.python_version()}", f"commit {commit or '?'}"])


def print_row(row: dict, fields, show) -> None:
    print("| " + " | ".join(show(row[f]) for f in fields) + " |", flush=True)


def gpu_row(name: str, length: int, args) -> dict:
    import torch
    from bench_attention import dense, time_ms
    from gpu_inputs import INPUTS
    from torch.nn.attention import SDPBackend
    from trianglemix_gpu import Pattern, masked_rows, triangle_fwd

    q, k, v = INPUTS[name](length, args.heads, args.kv_heads, args.dim, torch.bfloat16)
    pattern, scale = (args.sink, args.window, args.last), args.dim**-0.5

    def ours(queries=q, last=args.last):
        return triangle_fwd(queries, k, v, Pattern(args.sink, args.window, last), scale)

    row = dict(inputs=name, L=length, heads=args.heads, kv=args.kv_heads, D=args.dim)
    row.update(sink=args.sink, window=args.window, last=args.last)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    out = ours()
    torch.cuda.synchronize()
    row["extra_mib"] = (torch.cuda.max_memory_allocated() - held - out.nbytes) / 2**20
    bound = min(max(1, length - args.last + 1), length - 1)
    rows = torch.cat([torch.linspace(0, bound - 1, 32), torch.linspace(bound, length - 1, 32)]).long().unique().cuda()
    want = masked_rows(q[0], k[0], v[0], rows, pattern, scale)
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
    import triton
    from bench_attention import show, write_csv

    print(machine_line(torch.cuda.get_device_name(), f"torch {torch.__version__}", f"triton {triton.__version__}"))
    print("| " + " | ".join(GPU_FIELDS) + " |\n|" + "---|" * len(GPU_FIELDS))
    rows = []
    for name in args.inputs:
        own = []
        for length in args.lengths or [32768, 65536, 131072, 262144]:
            own.append(gpu_row(name, length, args))
            print_row(own[-1], GPU_FIELDS, show)
            torch.cuda.empty_cache()
        rows += own
        if len(own) > 1:
            fits = {f: exponent([r["L"] for r in own], [r[f] for r in own]) for f in ("triangle_ms", "dense_cudnn_ms")}
            print(f"fit exponents, {name}: " + ", ".join(f"{f} {value:.3f}" for f, value in fits.items()))
    write_csv(args.csv, GPU_FIELDS, rows)


def cpu_sample(length: int, args):
    """64 rows, half of them among the last, and which keys they see: bool [rows, length]."""
    bound = min(max(1, length - args.last + 1), length - 1)
    rows = np.unique(np.r_[np.linspace(0, bound - 1, 32), np.linspace(bound, length - 1, 32)].astype(int))
    i, j = rows[:, None], np.arange(length)[None]
    return rows, (j <= i) & ((j <= args.sink) | (i - j <= args.window) | (length - i < args.last))


def cpu_row(length: int, args) -> dict:
    """The eager path with Paddle; the error is that of the first query head."""
    from bench_eager_cpu import measure, video_qkv

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
    row["peak_mib"] = peak_in_fresh_process(length, args)
    return row


def eager(q, k, v, args):
    from psa_paddle.trianglemix import triangle_attention

    counts = dict(num_sink_tokens=args.sink, sliding_window_size=args.window, num_last_tokens=args.last)
    return triangle_attention(q, k, v, **counts, backend="eager")


def peak_in_fresh_process(length: int, args) -> float:
    """The same call in a process that has allocated nothing but the inputs, since an allocator keeps what it got."""
    names = ("heads", "kv_heads", "dim", "sink", "window", "last")
    flags = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
    command = [sys.executable, __file__, "--cpu", *flags, f"--memory-of={length}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def cpu(args) -> None:
    import paddle
    from bench_eager_cpu import cpu_name, peak_mib, video_qkv

    paddle.set_device("cpu")
    if args.memory_of:
        q, k, v = video_qkv(args.memory_of, args.heads, args.kv_heads, args.dim)
        return print(peak_mib(lambda: eager(q, k, v, args)))
    print(machine_line(cpu_name(), f"paddle {paddle.__version__}"))
    print("| " + " | ".join(CPU_FIELDS) + " |\n|" + "---|" * len(CPU_FIELDS))
    rows = []
    for length in args.lengths or [8192, 16384, 32768, 65536]:
        rows.append(cpu_row(length, args))
        print_row(rows[-1], CPU_FIELDS, lambda x: f"{x:.3g}" if isinstance(x, float) and abs(x) < 100 else f"{x:.0f}")
    if len(rows) > 1:
        fits = {name: exponent([r["L"] for r in rows], [r[name] for r in rows]) for name in ("triangle_ms", "peak_mib")}
        print("fit exponents: " + ", ".join(f"{name} {value:.3f}" for name, value in fits.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--cpu", action="store_true", help="the eager path (default: the Triton kernels on a GPU)")
    mode.add_argument("--check", action="store_true", help="numerics on the GPU")
    mode.add_argument("--tune", action="store_true", help="time other settings of the kernels on the GPU")
    parser.add_argument("--lengths", type=int, nargs="+", help="32k to 256k on a GPU, 8k to 64k on a CPU")
    parser.add_argument("--inputs", nargs="+", default=["structured"], help="on the GPU: names of gpu_inputs.py")
    parser.add_argument("--heads", type=int, help="28 on a GPU, 8 on a CPU")
    parser.add_argument("--kv-heads", type=int, help="4 on a GPU, 2 on a CPU")
    parser.add_argument("--dim", type=int, help="128 on a GPU, 64 on a CPU")
    parser.add_argument("--sink", type=int, default=8)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--last", type=int, default=128)
    parser.add_argument("--repeats", type=int, help="runs on the CPU (3), or equal results in --check (100)")
    parser.add_argument("--csv", help="on the GPU: also write the rows there")
    parser.add_argument("--memory-of", type=int, help="with --cpu: only print the peak memory at this length, in MiB")
    args = parser.parse_args()
    defaults = (
        dict(heads=8, kv_heads=2, dim=64, repeats=3) if args.cpu else dict(heads=28, kv_heads=4, dim=128, repeats=100)
    )
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.cpu:
        return cpu(args)
    if args.check or args.tune:
        import trianglemix_gpu

        return trianglemix_gpu.check(args) if args.check else trianglemix_gpu.tune(args)
    return gpu(args)


if __name__ == "__main__":
    main()
