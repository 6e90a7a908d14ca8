"""The operator over the GPUs of one host, each with its own rows, beside the whole of it on one GPU; torch, bf16.

    python benchmarks/bench_context_parallel.py --lengths 131072 524288
    python benchmarks/bench_context_parallel.py --lengths 131072 --shares 2 4 8   # on one GPU, rank after rank

torch.distributed with NCCL stands in for Paddle's process group: one process a GPU, the chunks and plans of
``psa_paddle.context_split``, K and V gathered from the ranks' own rows as ``psa_paddle.context_parallel`` gathers them.
``one_ms``: the whole operator on one GPU, of the fastest rank, while the others do the same. ``own_ms``: each rank its
rows, K and V standing on every rank; ``gathered_ms``: with the gather of K and V, of which the late chunks come while
the early one is computed; ``gather_ms``: it alone. These are of the slowest rank, from a barrier on; all are medians.
``bitwise``: every rank's rows equal those of one call. The parts are sums over a rank's two chunks, each of the rank
that is slowest in it. With --shares one GPU runs the share of each of N ranks, one after the other: what N GPUs would
take without any gather, had each the speed of this one. Needs torch and Triton.
"""

import argparse
import os
import statistics

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import facts, gpu_name, header, line, machine_line, time_ms, write_csv
from gpu_inputs import structured

from psa_paddle import kernels
from psa_paddle.config import AttentionConfig
from psa_paddle.context_split import chunk_plan, context_spans
from psa_paddle.plan import Plan

HEADS, KV_HEADS, DIM = 28, 4, 128
FIELDS = (
    "L", "preset", "heads", "kv", "D", "how", "gpus", "one_ms", "own_ms", "own_speedup", "gather_ms", "gathered_ms",
    "gathered_speedup", "one_importance_ms", "one_select_ms", "one_attend_ms", "importance_ms", "select_ms",
    "attend_ms", "bitwise",
)  # fmt: skip


class Share:
    """What one of ``ranks`` ranks computes of a prompt."""

    def __init__(self, q, plan: Plan, ranks: int, rank: int):
        self.length = q.shape[2]
        self.spans = context_spans(self.length, ranks, rank)
        self.plans = [chunk_plan(plan, self.length, stop, 2 * ranks) for _, stop in self.spans]
        self.q = torch.cat([q[:, :, start:stop] for start, stop in self.spans], 2)
        self.out = torch.empty_like(self.q)

    def chunk(self, half: int, k, v) -> tuple:
        """(q, k, v, plan, out) of the early chunk, 0, or the late one, 1."""
        (start, stop), first = self.spans[half], half * (self.spans[0][1] - self.spans[0][0])
        rows = slice(first, first + stop - start)
        return self.q[:, :, rows], k[:, :, :stop], v[:, :, :stop], self.plans[half], self.out[:, :, rows]

    def run(self, k, v):
        """Both chunks, keys and values standing here."""
        for half in (0, 1):
            q, keys, values, plan, out = self.chunk(half, k, v)
            kernels.psa_fwd(q, keys, values, plan, out=out)

    def run_gathering(self, gather):
        """Both chunks; the late chunks of the others come while the early one is computed."""
        gather.begin()
        for half in (0, 1):
            q, keys, values, plan, out = self.chunk(half, *gather.upto(half))
            kernels.psa_fwd(q, keys, values, plan, out=out)

    def equals(self, whole) -> bool:
        """Whether the rows are bitwise those of one call."""
        return torch.equal(self.out, torch.cat([whole[:, :, start:stop] for start, stop in self.spans], 2))


class Gather:
    """K and V of all ranks from each rank's own rows: an all-gather of the early chunks and one of the late ones."""

    def __init__(self, k, v, ranks: int, rank: int):
        spans = [context_spans(k.shape[2], ranks, r) for r in range(ranks)]
        self.own, self.found, self.sizes, self.tasks = [], [], [], [None, None]
        for half in (0, 1):
            start, stop = spans[rank][half]
            sizes = [own[half][1] - own[half][0] for own in spans]
            own = torch.zeros((2, *k.shape[:2], max(sizes), k.shape[3]), dtype=k.dtype, device=k.device)
            own[0, :, :, : stop - start], own[1, :, :, : stop - start] = k[:, :, start:stop], v[:, :, start:stop]
            self.own.append(own)
            self.found.append(torch.empty((ranks * 2, *own.shape[1:]), dtype=k.dtype, device=k.device))
            self.sizes.append(sizes)

    def begin(self):
        """Send both halves, one after the other."""
        for half in (0, 1):
            self.tasks[half] = dist.all_gather_into_tensor(self.found[half], self.own[half], async_op=True)

    def upto(self, half: int):
        """Wait for the early chunks, 0, or for all, 1; K and V in the prompt's order."""
        self.tasks[half].wait()
        parts = self.found[half].unflatten(0, (-1, 2))
        parts = [part[:, :, :, :size] for part, size in zip(parts, self.sizes[half], strict=True)]
        self.both = torch.cat([self.both, *parts[::-1]] if half else parts, 3)
        return self.both[0], self.both[1]

    def run(self):
        """All of it."""
        self.begin()
        self.upto(0)
        return self.upto(1)


def parts_ms(calls) -> dict:
    """Milliseconds of the three steps, each summed over ``calls`` of (q, k, v, plan, out)."""
    parts = [part_ms(*call) for call in calls]
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def part_ms(q, k, v, plan: Plan, out) -> dict:
    """Milliseconds of the three steps of one call."""
    score = time_ms(lambda: kernels.xattn_fwd(q, k, plan))
    chosen = time_ms(lambda: kernels.select_blocks(q, k, plan))
    found = kernels.select_blocks(q, k, plan)
    attend = time_ms(lambda: kernels.attend_fwd(q, k, v, found, plan, out=out))
    return dict(importance_ms=score, select_ms=chosen - score, attend_ms=attend)


def slowest_ms(run, repeats: int) -> float:
    """Median over runs of the slowest rank's milliseconds from a barrier on."""
    times = []
    token = torch.zeros(1, device="cuda")
    for _ in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in "se")
        dist.all_reduce(token)
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        took = torch.tensor([start.elapsed_time(end)], device="cuda")
        dist.all_reduce(took, dist.ReduceOp.MAX)
        times.append(float(took))
    return statistics.median(times[2:])


def over_ranks(values, kind) -> list[float]:
    """Each value's minimum or maximum over the ranks."""
    found = torch.tensor(values, dtype=torch.float64, device="cuda")
    dist.all_reduce(found, kind)
    return found.tolist()


def together(length: int, args, rank: int, ranks: int) -> dict:
    """One row: all ranks on one prompt."""
    q, k, v = structured(length, HEADS, KV_HEADS, DIM, torch.bfloat16)
    plan = Plan.of(AttentionConfig.preset(args.preset, text_length=args.text_length), DIM**-0.5)
    whole, _ = kernels.psa_fwd(q, k, v, plan)
    share, gather = Share(q, plan, ranks, rank), Gather(k, v, ranks, rank)
    share.run_gathering(gather)
    equal = over_ranks([float(share.equals(whole))], dist.ReduceOp.MIN)[0] == 1.0
    one = over_ranks([time_ms(lambda: kernels.psa_fwd(q, k, v, plan, out=whole))], dist.ReduceOp.MIN)[0]
    repeats = 20 if length <= 1 << 17 else 8
    row = dict(
        how="ranks together", gpus=ranks, one_ms=one, bitwise=equal,
        own_ms=slowest_ms(lambda: share.run(k, v), repeats),
        gather_ms=slowest_ms(gather.run, repeats),
        gathered_ms=slowest_ms(lambda: share.run_gathering(gather), repeats),
    )  # fmt: skip
    alone = parts_ms([(q, k, v, plan, whole)])
    row |= {f"one_{name}": ms for name, ms in alone.items()}
    own = parts_ms([share.chunk(half, k, v) for half in (0, 1)])
    row |= dict(zip(own, over_ranks(list(own.values()), dist.ReduceOp.MAX), strict=True))
    return row


def one_after_another(length: int, args, ranks: int) -> dict:
    """One row: the share of each rank on this GPU alone; the slowest one's figures."""
    q, k, v = structured(length, HEADS, KV_HEADS, DIM, torch.bfloat16)
    plan = Plan.of(AttentionConfig.preset(args.preset, text_length=args.text_length), DIM**-0.5)
    whole, _ = kernels.psa_fwd(q, k, v, plan)
    row = dict(how="one GPU, rank after rank", gpus=ranks, own_ms=0.0, bitwise=True)
    row["one_ms"] = time_ms(lambda: kernels.psa_fwd(q, k, v, plan, out=whole))
    for rank in range(ranks):
        share = Share(q, plan, ranks, rank)
        share.run(k, v)
        row["bitwise"] &= share.equals(whole)
        took = time_ms(lambda share=share: share.run(k, v))
        if took > row["own_ms"]:
            row["own_ms"], slowest = took, share
    row |= parts_ms([slowest.chunk(half, k, v) for half in (0, 1)])
    row |= {f"one_{name}": ms for name, ms in parts_ms([(q, k, v, plan, whole)]).items()}
    return row


def work(rank: int, ranks: int, args) -> None:
    """One process."""
    torch.cuda.set_device(rank)
    if ranks > 1:
        dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{args.port}", rank=rank, world_size=ranks)
    found = facts(gpu_name(), "torch", "triton")
    rows = []
    if rank == 0:
        print(machine_line(found), f"{torch.cuda.device_count()} GPUs, {ranks} processes", sep=", ")
        print(header(FIELDS), flush=True)
    cases = [(length, 0) for length in args.lengths if ranks > 1]
    cases += [(length, n) for length in args.lengths for n in args.shares if rank == 0]
    for length, n in cases:
        row = one_after_another(length, args, n) if n else together(length, args, rank, ranks)
        torch.cuda.empty_cache()
        row |= dict(L=length, preset=args.preset, heads=HEADS, kv=KV_HEADS, D=DIM)
        row["own_speedup"] = row["one_ms"] / row["own_ms"]
        if "gathered_ms" in row:
            row["gathered_speedup"] = row["one_ms"] / row["gathered_ms"]
        rows.append(row)
        if rank == 0:
            print(line(row.get(f) for f in FIELDS), flush=True)
    if rank == 0:
        write_csv(args.csv, found, FIELDS, rows)
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[131072, 524288])
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--text-length", type=int, default=64)
    parser.add_argument("--ranks", type=int, help="processes, one a GPU; all GPUs of the host unless given")
    parser.add_argument("--shares", type=int, nargs="*", default=[], help="ranks whose shares one GPU runs in turn")
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("--csv", help="also write the rows there")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ranks = args.ranks or torch.cuda.device_count()
    if ranks == 1:
        work(0, 1, args)
    else:
        mp.spawn(work, (ranks, args), nprocs=ranks)


if __name__ == "__main__":
    main()
