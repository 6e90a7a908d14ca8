"""What the benchmarks share: times, memory, the dense peer, tables, and where a row was measured. Frameworks are
imported where they are needed, so that this file needs none."""

from __future__ import annotations

import csv
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np


def commit() -> str:
    """The checkout's short commit, "?" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "?"


def cpu_name() -> str:
    with open("/proc/cpuinfo") as f:
        names = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} x {len(os.sched_getaffinity(0))}"


def gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def versions(*packages: str) -> str:
    """``"torch 2.11.0, ..., Python 3.12.3"`` of what is installed."""
    found = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} -")
    return ", ".join([*found, f"Python {platform.python_version()}"])


def facts(machine: str, *packages: str) -> dict:
    """Where and how a row was measured: what every CSV in results/ begins with."""
    command = " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]])
    return dict(machine=machine, versions=versions(*packages), commit=commit(), command=command)


def machine_line(found: dict) -> str:
    return f"{found['machine']}, {found['versions']}, commit {found['commit']}"


def show(value) -> str:
    """A table's cell."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def header(fields) -> str:
    """The first two lines of a Markdown table."""
    return "| " + " | ".join(fields) + " |\n|" + "---|" * len(fields)


def line(values, shown=show) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(map(shown, values)) + " |"


def write_csv(path: str | Path | None, found: dict, fields, rows: list[dict]) -> None:
    """Write rows behind their ``facts``; nothing where no path is given."""
    if path:
        with open(path, "w", newline="") as f:
            writer = csv.DictWriter(f, [*found, *fields])
            writer.writeheader()
            writer.writerows({**found, **row} for row in rows)


def time_ms(run) -> float:
    """Median milliseconds of a call on the GPU."""
    import triton

    return triton.testing.do_bench(run, warmup=100, rep=400, return_mode="median")


def dense(q, k, v, causal: bool, backend):
    """torch's SDPA by one backend: the dense peer on a GPU."""
    import torch
    from torch.nn.attention import sdpa_kernel

    with sdpa_kernel(backend):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def gpu_peak_mib(run):
    """(MiB, result): peak memory of ``run()`` over what was held before and the tensor that it gives first."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    out = result[0] if isinstance(result, tuple) else result
    return (torch.cuda.max_memory_allocated() - held - out.nbytes) / 2**20, result


def measure(run, repeats: int):
    """(median ms, result) of a call on the CPU after one warm-up."""
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


def peak_in_fresh_process(length: int, args, names, *flags: str) -> float:
    """The running script's ``--memory-of`` in a process that has allocated nothing but the inputs, since an allocator
    keeps what it got; names: of the arguments that are handed on."""
    handed = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
    command = [sys.executable, sys.argv[0], *flags, *handed, f"--memory-of={length}"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def seen_pairs(length: int, sink: int, window: int, last: int) -> int:
    """Visible (query, key) pairs of TriangleMix's pattern."""
    seen = np.arange(1, length + 1)
    return int(np.where(length - seen + 1 < last, seen, np.minimum(seen, sink + window + 2)).sum())


def exponent(lengths, values) -> float:
    """Slope of log value over log length."""
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])
