"""The host's time a launch of the operator, on Paddle GPU tensors and on torch's, each in a process of its own.

    python benchmarks/bench_launch.py

A short prompt (256 tokens), so that the device never keeps the host waiting long; microseconds are the host's over 200
calls, divided by the launches of a call. Of Paddle only ``to_tensor`` and allocation are used. A framework that is not
installed, or sees no GPU, is left out.
"""

import argparse
import subprocess
import sys
import time

import numpy as np
from common import facts, header, line, machine_line

from psa_paddle import bridge, kernels
from psa_paddle.plan import Plan

CALLS, LENGTH, HEADS, DIM = 200, 256, 4, 128
LEVELS = ((1, 0.0, 0.3), (2, 0.3, 0.5), (4, 0.5, 0.7), (8, 0.7, 0.9), (0, 0.9, 1.0))
PLAN = Plan(
    DIM**-0.5, True, 128, 64, LEVELS, "energybound", key_stride=4, thresholds=(0.75, 0.7, 0.7)
)  # fmt: skip


def tensors(framework: str) -> list:
    """q [1, H, L, D], k and v [1, 1, L, D] in float16."""
    rng = np.random.default_rng(0)
    host = [rng.standard_normal((1, heads, LENGTH, DIM)).astype(np.float16) for heads in (HEADS, 1, 1)]
    if framework == "torch":
        import torch

        return [torch.from_numpy(x).cuda() for x in host]
    import paddle

    return [paddle.to_tensor(x, place=paddle.CUDAPlace(0)) for x in host]


def measure(framework: str) -> None:
    """Print microseconds a launch and launches a call."""
    q, k, v = tensors(framework)
    count, launch = [], bridge.launch
    bridge.launch = lambda *args, **kwargs: (count.append(1), launch(*args, **kwargs))
    kernels.psa_fwd(q, k, v, PLAN)
    bridge.launch = launch
    start = time.perf_counter()
    for _ in range(CALLS):
        kernels.psa_fwd(q, k, v, PLAN)
    print((time.perf_counter() - start) * 1e6 / (CALLS * len(count)), len(count))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=("torch", "paddle"), help="print one framework's figures: what a process does"
    )
    args = parser.parse_args()
    if args.only:
        return measure(args.only)
    gpus = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    print(machine_line(facts(gpus.stdout.splitlines()[0], "torch", "paddlepaddle-gpu", "triton")))
    print(header(("tensors", "us a launch", "launches a call")))
    for framework in ("torch", "paddle"):
        done = subprocess.run([sys.executable, __file__, "--only", framework], capture_output=True, text=True)
        if done.returncode:
            print(f"{framework}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        us, launches = done.stdout.split()[-2:]
        print(line((framework, float(us), int(launches))))


if __name__ == "__main__":
    main()
