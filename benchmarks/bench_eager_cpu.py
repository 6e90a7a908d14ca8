"""The eager operator against dense attention on this machine's CPU.

    python benchmarks/bench_eager_cpu.py [--lengths 2048 4096 8192 16384] [--preset fast] [--heads 8] [--kv-heads 2]

Every row times three ways to the same tensors in one process: Paddle's ``scaled_dot_product_attention``, dense
attention as chunked matmuls, and the operator with everything that it does (importance, selection, pooling,
attention). Times are medians in milliseconds, the ratios are what counts; the tensors are video-like (``video_qkv``).
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

import numpy as np
import paddle
import paddle.nn.functional as F

from psa_paddle import AttentionConfig, pyramid_attention
from psa_paddle.config import DEFAULT_PRESET, PRESETS
from psa_paddle.eager import dense_attention


def video_qkv(length: int, heads: int, kv_heads: int, dim: int, seed: int = 0):
    """q [1, heads, length, dim], k and v [1, kv_heads, length, dim], float32: keys drift along the sequence with
    noise on top, queries look for keys near their own position, the first four keys are stronger (a sink)."""
    rng = np.random.default_rng(seed)
    knots = rng.standard_normal((kv_heads, max(2, length // 64), dim))
    at = np.linspace(0, knots.shape[1] - 1, length)
    low = np.minimum(at.astype(int), knots.shape[1] - 2)
    part = (at - low)[None, :, None]
    k = knots[:, low] * (1 - part) + knots[:, low + 1] * part + 0.5 * rng.standard_normal((kv_heads, length, dim))
    q = np.repeat(k, heads // kv_heads, 0) + 0.7 * rng.standard_normal((heads, length, dim))
    k[:, :4] *= 2
    v = rng.standard_normal((kv_heads, length, dim))
    return tuple(paddle.to_tensor(x[None].astype(np.float32)) for x in (q, k, v))


def measure(run, repeats: int):
    """Return (median ms, result) after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), result


def peak_mib(run) -> float:
    """Peak resident memory of ``run()`` over what is held before it (Linux: the kernel's own high-water mark)."""
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # resets VmHWM
    before = status_mib("VmRSS")
    run()
    return status_mib("VmHWM") - before


def status_mib(field: str) -> float:
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(field)) / 1024


def peak_in_fresh_process(length: int, args) -> float:
    """The same call in a process that has allocated nothing but the inputs, since an allocator keeps what it got."""
    names = ("preset", "heads", "kv_heads", "dim")
    shape = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
    command = [sys.executable, __file__, "--memory-of", str(length), *shape]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "?"


def cpu_name() -> str:
    with open("/proc/cpuinfo") as f:
        names = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} x {len(os.sched_getaffinity(0))}"


def table_row(length: int, args, config: AttentionConfig) -> str:
    """Time the three ways at one length."""
    q, k, v = video_qkv(length, args.heads, args.kv_heads, args.dim)
    dense_ms, dense = measure(lambda: dense_attention(q, k, v, True, args.dim**-0.5), args.repeats)
    psa_ms, (out, stats) = measure(lambda: pyramid_attention(q, k, v, config, return_stats=True), args.repeats)
    memory = peak_in_fresh_process(length, args)
    error = float(paddle.norm(out - dense) / paddle.norm(dense))
    sdpa = versus = "-"
    if length <= args.sdpa_up_to:
        qt, kt, vt = (x.transpose([0, 2, 1, 3]) for x in (q, k, v))
        kt, vt = (x.repeat_interleave(args.heads // args.kv_heads, axis=2) for x in (kt, vt))
        sdpa_ms, _ = measure(lambda: F.scaled_dot_product_attention(qt, kt, vt, is_causal=True), 1)
        sdpa, versus = f"{sdpa_ms:.0f}", f"{sdpa_ms / psa_ms:.1f}x"
    return (
        f"| {length} | {1 - stats.sparsity():.3f} | {error:.3f} | {sdpa} | {dense_ms:.0f} | {psa_ms:.0f} "
        f"| {versus} | {dense_ms / psa_ms:.2f}x | {memory:.0f} |"
    )


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
    args = parser.parse_args()
    paddle.set_device("cpu")
    config = AttentionConfig.preset(args.preset, text_length=128, dense_below=0)
    if args.memory_of:
        q, k, v = video_qkv(args.memory_of, args.heads, args.kv_heads, args.dim)
        return print(peak_mib(lambda: pyramid_attention(q, k, v, config)))
    print(f"{cpu_name()}, paddle {paddle.__version__}, Python {platform.python_version()}, commit {commit()}")
    print(f"{args.heads} query / {args.kv_heads} kv heads, D={args.dim}, float32, causal, preset {args.preset}")
    print("| L | density | rel. error | SDPA ms | dense chunked ms | PSA ms | vs SDPA | vs chunked | PSA peak MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for length in args.lengths:
        print(table_row(length, args, config), flush=True)


if __name__ == "__main__":
    main()
