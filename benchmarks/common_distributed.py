"""What the benchmarks over several GPUs share: torch.distributed with NCCL, one process a GPU of one host."""

import os
import statistics

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def start(work, ranks: int, port: int, *args) -> None:
    """Run ``work(rank, ranks, *args)`` in one process a GPU, within a process group."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mp.spawn(_work, (ranks, port, work, args), nprocs=ranks)


def _work(rank: int, ranks: int, port: int, work, args) -> None:
    torch.cuda.set_device(rank)
    where = dict(init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank), **where)
    work(rank, ranks, *args)
    dist.barrier()
    dist.destroy_process_group()


def over_ranks(value: float, kind) -> float:
    """A value's minimum, maximum or sum over the ranks; kind: of ``dist.ReduceOp``."""
    found = torch.tensor(value, dtype=torch.float64, device="cuda")
    dist.all_reduce(found, kind)
    return float(found)


def slowest_ms(run, repeats: int) -> float:
    """Median over runs of the slowest rank's milliseconds, all of which begin together."""
    times, token = [], torch.zeros(1, device="cuda")
    for _ in range(repeats + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        dist.all_reduce(token)
        torch.cuda.synchronize()
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(over_ranks(begin.elapsed_time(end), dist.ReduceOp.MAX))
    return statistics.median(times[2:])
