"""What a block costs at each level: the attention kernel with a fifth of all blocks at one level and the rest skipped.

    python benchmarks/bench_levels.py [--length 65536] [--key-block 64]

The blocks are drawn at random, bidirectional, 28 query / 4 kv heads, D=128, bf16. Prints the time at each level and
level 1's time over it, both over the time with every block skipped. Needs torch and Triton, no Paddle.
"""

import argparse

import torch
from common import facts, gpu_name, header, line, machine_line, time_ms
from gpu_inputs import INPUTS

from psa_paddle import kernels
from psa_paddle.plan import Plan


def level_ms(qkv, level: int, key_block: int) -> float:
    q, k, v = qkv
    heads, length = q.shape[1], q.shape[2]
    plan = Plan(q.shape[3] ** -0.5, False, 128, key_block, ((1, 0.0, 0.5), (8, 0.5, 1.0)))  # so that all are pooled
    n_i, n_j = length // 128, length // key_block
    levels = torch.zeros(1, heads, n_i, n_j, dtype=torch.int8, device="cuda")
    levels[..., : n_j // 5] = level
    levels = levels.gather(-1, torch.rand(levels.shape, device="cuda").argsort(-1))
    pooled = kernels.Pooled(*kernels.pyramid_fwd(k, v, plan)[:2])
    found = kernels.lists_from_levels(levels, plan, length, length)
    return time_ms(lambda: kernels.attend_fwd(q, k, v, found, plan, pooled))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=65536)
    parser.add_argument("--key-block", type=int, default=64)
    args = parser.parse_args()
    qkv = INPUTS["structured"](args.length, 28, 4, 128, torch.bfloat16)
    times = {level: level_ms(qkv, level, args.key_block) for level in (0, 1, 2, 4, 8)}
    print(machine_line(facts(gpu_name(), "torch", "triton")) + f", L={args.length}")
    print(header(("level", "ms", "level 1 costs")))
    for level in (1, 2, 4, 8):
        ratio = (times[1] - times[0]) / (times[level] - times[0])
        print(line((level, times[level], f"{ratio:.2f} times as much")))


if __name__ == "__main__":
    main()
