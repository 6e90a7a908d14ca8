"""Numerics of token orders, k-means and the pooling importance on a GPU (torch tensors), against NumPy.

    python benchmarks/gpu_check_tokens.py [--repeats 20]

- permutations: the gather is NumPy's, the inverse bitwise the input, for every dtype, layout and order, heads last too;
- k-means: labels the nearest centres, means the clusters' means, the order a stable sort's; ``--repeats`` runs equal;
- importance: the reference's, ragged and causal shapes and padded batches too; repeats bitwise equal;
- PSAAttention's path: all levels 1 equals dense within gpu_check's budget for each order; from the second call on
  nothing waits for the device; a CUDA graph of the whole call gives the same bits.

Outputs are poisoned before each launch. One line a check, ``ok`` or ``FAIL``; exit status 1 when any failed.
"""

import argparse
import sys
from unittest import mock

import numpy as np
import torch
from gpu_check import DTYPES, budget, exact, inputs

from psa_paddle import bridge, kernels, reference
from psa_paddle.kernels.kmeans import assign_tokens, seed_centres, update_centres
from psa_paddle.kernels.sort import sort_tokens
from psa_paddle.plan import Plan
from psa_paddle.rearrange import METHODS

GRID, TEXT = (5, 11, 13), 29
LEVELS = ((1, 0.0, 0.1), (2, 0.1, 0.15), (8, 0.15, 0.35), (0, 0.35, 1.0))
FAILED: list[str] = []


def report(name: str, good: bool, note: str = "") -> None:
    print(f"{'ok  ' if good else 'FAIL'} {name} {note}".rstrip(), flush=True)
    if not good:
        FAILED.append(name)


def poisoned(shape, dtype, like):
    bad = float("nan") if "float" in dtype else 0x55
    return torch.full(shape, bad, dtype=getattr(torch, dtype), device=like.device)


def randn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


def check_permutations() -> None:
    for name, dtype in DTYPES.items():
        for b, h, length, d in ((1, 1, 1, 32), (2, 3, 1000, 80), (1, 4, 75601, 128)):
            for layout in ("bhld", "blhd"):
                x = randn(b, h, length, d, dtype=dtype)
                if layout == "blhd":
                    x = x.transpose(1, 2).contiguous().transpose(1, 2)
                one = torch.randperm(length, device="cuda").int()
                each = torch.stack([torch.randperm(length, device="cuda") for _ in range(b * h)]).int().view(b, h, -1)
                good = True
                for order in (one, each):
                    index = order.expand(b, h, length).long()[..., None].expand(-1, -1, -1, d)
                    moved = kernels.permute_tokens(x, order)
                    good &= torch.equal(moved, x.gather(2, index))
                    good &= torch.equal(kernels.restore_tokens(moved, order), x)
                    good &= torch.equal(kernels.restore_tokens(moved, order, heads_last=True), x.transpose(1, 2))
                report(f"permutation {name} {b}x{h}x{length}x{d} {layout}", good)


def check_kmeans(repeats: int) -> None:
    for name, dtype in DTYPES.items():
        b, h, length, d, clusters, first, n = 1, 3, 3000, 128, 40, 100, 2800
        x = randn(b, h, length, d, dtype=dtype)
        base = torch.randperm(length, device="cuda").int()
        centres, half = seed_centres(x, base, first=first, n=n, n_clusters=clusters)
        labels = assign_tokens(x, base, centres, half, first=first, n=n)
        tokens = x[:, :, base[first : first + n].long()].double()
        scores = tokens @ centres.double().transpose(2, 3) - 0.5 * centres.double().square().sum(-1)[:, :, None]
        short = scores.amax(-1) - scores.gather(-1, labels.long()[..., None])[..., 0]
        report(f"k-means labels {name}", float(short.max()) < 1e-3, f"short of the nearest by {float(short.max()):.1e}")
        order, starts, chunks = sort_tokens(labels, base, n_clusters=clusters, first=first)
        want = base.expand(b, h, length).clone()
        want[..., first : first + n] = base[first : first + n][labels.argsort(dim=-1, stable=True)]
        report(f"stable sort {name}", torch.equal(order, want))
        update_centres(x, order, starts, chunks, centres, half, first=first, n=n)
        onehot = torch.nn.functional.one_hot(labels.long(), clusters).double()
        means = (onehot.transpose(2, 3) @ tokens) / onehot.sum(2)[..., None].clamp(min=1)
        off = float(((centres.double() - means).abs() * (onehot.sum(2) > 0)[..., None]).max())
        report(f"k-means means {name}", off <= 2 * torch.finfo(dtype).eps * float(means.abs().max()), f"off {off:.1e}")
    x = randn(2, 8, 20000, 128, dtype=torch.bfloat16)
    base = torch.arange(20000, dtype=torch.int32, device="cuda")
    call = dict(first=0, n=20000, n_clusters=80, iterations=4)
    order, (centres, _) = kernels.cluster_tokens(x, base, **call)
    same = True
    for _ in range(repeats):
        again, (others, _) = kernels.cluster_tokens(x, base, **call)
        same &= torch.equal(again, order) and torch.equal(others, centres)
    report(f"k-means {repeats} repeats bitwise equal", same)


def check_pooling(repeats: int) -> None:
    shapes = [(1, 1, 1, 1, 32, 64, 32), (129, 1000, 4, 1, 64, 128, 64), (3000, 3000, 2, 2, 128, 128, 128),
              (1111, 2222, 2, 1, 80, 128, 64), (2500, 2500, 7, 1, 128, 64, 32)]  # fmt: skip
    for shape in shapes:
        lq, lk, *_, d, m, n = shape
        for name, dtype in DTYPES.items():
            for causal in (True, False):
                for scale in (d**-0.5, -0.3):
                    q, k, _ = inputs(shape, dtype)
                    plan = Plan(scale, causal, m, n, LEVELS, importance_method="pooling")
                    found = kernels.select_blocks(q, k, plan, return_importance=True)
                    got = found.importance[0].double().cpu().numpy()
                    want = reference.pooling_importance(exact(q), exact(k), scale, causal, m, n)
                    off = float(np.abs(got - want).max() / want.max())
                    report(
                        f"pooling {name} {'causal' if causal else 'full'} {shape} {scale:.2f}", off < 1e-4, f"{off:.1e}"
                    )
    q, k, _ = inputs((3000, 3300, 4, 2, 128, 128, 64), torch.bfloat16)
    q, k = q.expand(2, -1, -1, -1).contiguous(), k.expand(2, -1, -1, -1).contiguous()
    start = torch.tensor([0, 1234], dtype=torch.int32, device="cuda")
    plan = Plan(0.1, True, 128, 64)
    with mock.patch.object(bridge, "empty", lambda *a: poisoned(*a).nan_to_num(0.0)):
        both = kernels.pooling_fwd(q, k, plan, kv_start=start)
        alone = kernels.pooling_fwd(q[1:, :, 1234 - 300 :], k[1:, :, 1234:], plan)[0]
        same = all(torch.equal(kernels.pooling_fwd(q, k, plan, kv_start=start), both) for _ in range(repeats))
    n_i, n_j = alone.shape[1:]
    valid = torch.from_numpy(reference.block_grid(2066, 2066, 128, 64, True)[0]).cuda()
    report("pooling of a padded sample", torch.equal(both[1, :, :n_i, :n_j][:, valid], alone[:, valid]))
    report(f"pooling {repeats} repeats bitwise equal", same)


def check_path() -> None:
    length = int(np.prod(GRID)) + TEXT
    shape = (length, length, 4, 2, 128, 128, 64)
    keep = Plan(128**-0.5, False, 128, 64, importance_method="pooling", forced_text=TEXT)
    for name, dtype in DTYPES.items():
        q, k, v = inputs(shape, dtype)
        want = reference.dense_attention(exact(q), exact(k), exact(v), 128**-0.5, False)
        for method, kind in METHODS.items():
            order = kind(GRID, TEXT, text_to_end=True)

            def run(intervals, order=order, q=q, k=k, v=v):
                plan = order.plan(q, k)
                moved = (plan.permute(q), plan.permute_kv(k), plan.permute_kv(v))
                return plan.restore(kernels.psa_fwd(*moved, keep.replace(intervals=intervals))[0])

            off = float(np.abs(exact(run(((1, 0.0, 1.0),))) - want).max())
            limit = budget(q, k, v, 128**-0.5, False, dtype)
            report(f"all levels 1 equals dense, {method} {name}", off <= limit, f"{off:.1e} of {limit:.1e}")
            if name == "bfloat16":
                check_no_wait(method, lambda run=run: run(LEVELS))


def check_no_wait(method: str, run) -> None:
    """Nothing waits for the device, and a captured call replays to the same bits."""
    run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
        report(f"no host sync, {method}", True)
    except RuntimeError as error:
        report(f"no host sync, {method}", False, str(error))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    if not METHODS[method].follows_tokens:  # clusters go on from call to call, so two calls differ
        want, graph = run(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = run()
        out.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        report(f"CUDA graph, {method}", torch.equal(out, want))


def check_all(repeats: int = 20) -> int:
    """Run every check; the number that failed."""
    with mock.patch.object(bridge, "empty", poisoned):
        check_permutations()
        check_kmeans(repeats)
        check_pooling(repeats)
        check_path()
    print(f"{len(FAILED)} failures: {FAILED}" if FAILED else "all within bounds")
    return len(FAILED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    sys.exit(bool(check_all(parser.parse_args().repeats)))
