"""How long the host takes for a call of the operator, and whether the device waits for it.

    python benchmarks/bench_launch.py --lengths 2048 4608 8192 16384

Paddle GPU tensors and torch's, each in a process of its own; a framework that is not installed, or sees no GPU, is left
out. ``device_ms``: of a call whose launches all wait in the stream before the first begins, so that the host cannot be
late; ``loop_ms``: of calls in a loop; ``host_ms``: of the host alone, until the call returns; ``kernels_ms``: the sum
of the kernels' own times (torch's profiler). ``cudnn_ms``: dense attention in the same loop. ``level1`` is what a call
below ``dense_below`` keys runs. Of Paddle only ``to_tensor`` and allocation are used.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time

import numpy as np
import triton
import triton.language as tl
from attention_cases import CASES
from common import facts, header, line, machine_line, write_csv

from psa_paddle import bridge, kernels
from psa_paddle.bridge import driver, replay
from psa_paddle.config import AttentionConfig
from psa_paddle.plan import Plan

CALLS, HOLD_NS, WARM_UP, ROUNDS, ATTEMPTS = 100, 100_000_000, 5, 7, 3
FRAMEWORKS = ("torch", "paddle")
FIELDS = (
    "tensors", "call", "L", "case", "launches", "kernels_ms", "device_ms", "loop_ms", "host_ms", "loop_vs_device",
    "cudnn_ms",
)  # fmt: skip


@triton.jit
def _hold_kernel(nanoseconds):
    """Keeps its stream busy."""
    start = tl.extra.cuda.globaltimer()
    while tl.extra.cuda.globaltimer() - start < nanoseconds:
        pass


def tensors(framework: str, length: int, heads: int, kv_heads: int, dim: int) -> list:
    """q [1, H, L, D], k and v [1, Hkv, L, D] in bfloat16."""
    rng = np.random.default_rng(0)
    shapes = [(1, n, length, dim) for n in (heads, kv_heads, kv_heads)]
    bits = [(rng.standard_normal(s, np.float32).view(np.uint32) >> 16).astype(np.uint16) for s in shapes]
    if framework == "torch":
        import torch

        return [torch.from_numpy(x.view(np.int16)).cuda().view(torch.bfloat16) for x in bits]
    import paddle

    return [paddle.to_tensor(x, place=paddle.CUDAPlace(0)) for x in bits]  # its uint16 is bfloat16


class Clock:
    """Times on the stream that the framework of ``like`` launches on."""

    def __init__(self, like):
        self.like, torch = like, sys.modules.get("torch")
        self.stream = torch.cuda.current_stream().cuda_stream if torch else driver.driver_of(0).get_current_stream(0)
        driver._call("cuCtxPushCurrent_v2", driver.primary_context(0))

    def event(self):
        """An event that is recorded now."""
        event = ctypes.c_void_p()
        driver._call("cuEventCreate", ctypes.byref(event), 0)
        driver._call("cuEventRecord", event, ctypes.c_void_p(self.stream))
        return event

    def between(self, first, last) -> float:
        """Milliseconds between two events."""
        ms = ctypes.c_float()
        driver._call("cuEventElapsedTime", ctypes.byref(ms), first, last)
        return ms.value

    def wait(self) -> None:
        """Until the stream is empty."""
        driver._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def held(self, run) -> tuple[float, float]:
        """(milliseconds on the device, of the host) of a call, with the stream held until all is launched."""
        for _ in range(ATTEMPTS):
            self.wait()
            bridge.launch(_hold_kernel, (1,), like=self.like, nanoseconds=HOLD_NS)
            first, start = self.event(), time.perf_counter()
            for _ in range(CALLS):
                run()
            host = (time.perf_counter() - start) * 1e3 / CALLS
            late = driver.libcuda().cuEventQuery(first) == 0
            last = self.event()
            self.wait()
            if not late:
                return self.between(first, last) / CALLS, host
        raise RuntimeError(f"the host took {host:.2f} ms a call: longer than the stream was held.")

    def loop(self, run) -> float:
        """Milliseconds of a call in a loop, until the device is done."""
        self.wait()
        start = time.perf_counter()
        for _ in range(CALLS):
            run()
        self.wait()
        return (time.perf_counter() - start) * 1e3 / CALLS


def kernels_ms(run) -> float:
    """Sum of the times of a call's kernels, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(CALLS):
            run()
    return sum(event.device_time_total for event in found.key_averages()) / 1e3 / CALLS


def cudnn(q, k, v):
    """Dense attention by cuDNN as a function of nothing."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def run():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    def within():
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return run()

    return within


def calls(framework: str, q, k, v, case: str) -> dict:
    """The calls that are timed, by name."""
    config = AttentionConfig(key_block=64, text_length=64, dense_below=0, **CASES[case])
    plan = Plan.of(config, q.shape[3] ** -0.5)
    found = {"psa_fwd": lambda: kernels.psa_fwd(q, k, v, plan)}
    if framework == "paddle":
        from psa_paddle.attention import pyramid_attention

        found["pyramid_attention"] = lambda: pyramid_attention(q, k, v, config, return_stats=True)
    return found


def count_launches(run) -> int:
    """Launches of a first call; later ones are repeated without ``bridge.launch``."""
    replay._RECIPES.clear()
    count, launch = [], bridge.launch
    bridge.launch = lambda *args, **kwargs: (count.append(1), launch(*args, **kwargs))
    run()
    bridge.launch = launch
    return len(count)


def measure(framework: str, args) -> None:
    """Print a JSON row a call, a length and a case."""
    for length in args.lengths:
        q, k, v = tensors(framework, length, args.heads, args.kv_heads, args.dim)
        clock = Clock(q)
        for case in args.cases:
            for name, run in calls(framework, q, k, v, case).items():
                row = dict(tensors=framework, call=name, L=length, case=case, launches=count_launches(run))
                for _ in range(WARM_UP):
                    clock.loop(run)
                pairs = [clock.held(run) for _ in range(ROUNDS)]
                row["device_ms"], row["host_ms"] = (statistics.median(x) for x in zip(*pairs, strict=True))
                row["loop_ms"] = statistics.median(clock.loop(run) for _ in range(ROUNDS))
                row["loop_vs_device"] = row["loop_ms"] / row["device_ms"]
                if framework == "torch":
                    row["kernels_ms"], dense = kernels_ms(run), cudnn(q, k, v)
                    clock.loop(dense)
                    row["cudnn_ms"] = statistics.median(clock.loop(dense) for _ in range(ROUNDS))
                print(json.dumps(row), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 4608, 8192, 16384])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["balanced", "level1"])
    parser.add_argument("--tensors", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS)
    parser.add_argument("--heads", type=int, default=28)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--csv", help="also write the rows there")
    parser.add_argument("--only", choices=FRAMEWORKS, help="print one framework's rows as JSON: what a process does")
    args = parser.parse_args()
    if args.only:
        return measure(args.only, args)
    gpus = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    found, rows = facts(gpus.stdout.splitlines()[0], "torch", "paddlepaddle-gpu", "triton"), []
    print(machine_line(found))
    print(header(FIELDS))
    for framework in args.tensors:
        command = [sys.executable, __file__, "--only", framework, *sys.argv[1:]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for text in process.stdout:
                if text.startswith("{"):
                    rows.append({field: json.loads(text).get(field) for field in FIELDS})
                    print(line(rows[-1].values()), flush=True)
        if process.returncode:
            print(f"{framework}: no more rows, see above", file=sys.stderr)
    write_csv(args.csv, found, FIELDS, rows)


if __name__ == "__main__":
    main()
