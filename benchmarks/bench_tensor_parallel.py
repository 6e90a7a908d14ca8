"""The operator with its heads split over the GPUs of one host, beside all heads on one GPU; torch tensors, bf16.

    python benchmarks/bench_tensor_parallel.py                    # on all GPUs of the host

torch.distributed with NCCL stands in for Paddle's process group: one process a GPU, rank r with heads r H / N up to
(r + 1) H / N and their kv heads, as PaddleFormers splits a layer. ``one_ms``: all heads on one GPU, of the fastest
rank, while the others do the same. ``own_ms``: each rank its heads; ``reduce_ms``: the sum of a layer's output
[L, 3584] over the ranks, which follows on the output projection; ``both_ms``: one after the other. These are of the
slowest rank, from a common start on; all are medians. ``bitwise``: every rank's output, and what it counts as work,
equal the heads of one call; ``budgets_bitwise``: also where each head has a budget of its own. Needs torch and Triton.
"""

import argparse

import torch
import torch.distributed as dist
from common import facts, gpu_name, header, line, machine_line, time_ms, write_csv
from common_distributed import over_ranks, slowest_ms, start
from gpu_inputs import structured

from psa_paddle import kernels
from psa_paddle.config import AttentionConfig
from psa_paddle.plan import Plan

HEADS, KV_HEADS, DIM = 28, 4, 128
REPEATS = 20
FIELDS = (
    "L", "preset", "heads", "kv", "D", "gpus", "one_ms", "own_ms", "speedup", "reduce_ms", "both_ms", "bitwise",
    "budgets_bitwise",
)  # fmt: skip


def own_heads(x, rank: int, ranks: int):
    """A rank's heads of a tensor [1, H, ...] as a tensor of its own."""
    return x.chunk(ranks, 1)[rank].contiguous()


def equal(qkv, config: AttentionConfig, rank: int, ranks: int) -> bool:
    """Whether what each rank computes is bitwise what one call computes for its heads."""
    whole, work = kernels.psa_fwd(*qkv, Plan.of(config, DIM**-0.5))
    if config.budgets is not None:
        count = HEADS // ranks
        config = config.replace(budgets=config.budgets[rank * count : (rank + 1) * count])
    own, own_work = kernels.psa_fwd(*(own_heads(x, rank, ranks) for x in qkv), Plan.of(config, DIM**-0.5))
    same = torch.equal(own, own_heads(whole, rank, ranks)) and torch.equal(own_work, own_heads(work, rank, ranks))
    return over_ranks(float(same), dist.ReduceOp.MIN) == 1.0


def bench(length: int, args, rank: int, ranks: int) -> dict:
    """One row."""
    qkv = structured(length, HEADS, KV_HEADS, DIM, torch.bfloat16)
    config = AttentionConfig.preset(args.preset, text_length=args.text_length)
    budgets = tuple(0.5 + 1.5 * h / (HEADS - 1) for h in range(HEADS))
    row = dict(L=length, preset=args.preset, heads=HEADS, kv=KV_HEADS, D=DIM, gpus=ranks)
    row["bitwise"] = equal(qkv, config, rank, ranks)
    row["budgets_bitwise"] = equal(qkv, config.replace(budgets=budgets), rank, ranks)
    plan = Plan.of(config, DIM**-0.5)
    row["one_ms"] = over_ranks(time_ms(lambda: kernels.psa_fwd(*qkv, plan)), dist.ReduceOp.MIN)
    own = [own_heads(x, rank, ranks) for x in qkv]
    hidden = torch.zeros(length, HEADS * DIM, dtype=torch.bfloat16, device="cuda")
    row["own_ms"] = slowest_ms(lambda: kernels.psa_fwd(*own, plan), REPEATS)
    row["reduce_ms"] = slowest_ms(lambda: dist.all_reduce(hidden), REPEATS)
    row["both_ms"] = slowest_ms(lambda: (kernels.psa_fwd(*own, plan), dist.all_reduce(hidden)), REPEATS)
    row["speedup"] = row["one_ms"] / row["own_ms"]
    return row


def work(rank: int, ranks: int, args) -> None:
    """One process."""
    found = facts(gpu_name(), "torch", "triton")
    if rank == 0:
        print(machine_line(found), f"{ranks} GPUs", sep=", ")
        print(header(FIELDS), flush=True)
    rows = []
    for length in args.lengths:
        rows.append(bench(length, args, rank, ranks))
        if rank == 0:
            print(line(rows[-1][f] for f in FIELDS), flush=True)
    if rank == 0:
        write_csv(args.csv, found, FIELDS, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[65536, 131072])
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--text-length", type=int, default=64)
    parser.add_argument("--ranks", type=int, help="processes, one a GPU (default: all GPUs of the host)")
    parser.add_argument("--port", type=int, default=29512)
    parser.add_argument("--csv", help="also write the rows there")
    args = parser.parse_args()
    start(work, args.ranks or torch.cuda.device_count(), args.port, args)


if __name__ == "__main__":
    main()
