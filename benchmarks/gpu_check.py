"""Numerics of the Triton kernels on a GPU (torch tensors) against the float64 reference.

    python benchmarks/gpu_check.py                          # every shape, every dtype, both directions
    python benchmarks/gpu_check.py --repeats 1000           # and that many bitwise equal repeats
    compute-sanitizer --tool memcheck python benchmarks/gpu_check.py --max-keys 1000 --dtypes bfloat16 --repeats 1

Set PYTHONPATH=. where psa_paddle is not installed.

Given one level map, the kernel's error must stay within twice that of dense attention in the same dtype, plus rounding
(FlashAttention-3's rule). Importance and selection are compared with the reference's, places near a bound excepted.
Outputs are filled with NaN before each launch. Exit status 1 when anything is out of bounds.
"""

import argparse
import itertools
import sys

import numpy as np
import torch

from psa_paddle import kernels, reference
from psa_paddle.config import AttentionConfig
from psa_paddle.plan import Plan

# (Lq, Lk, H, Hkv, D, query block, key block)
SHAPES = [
    (1, 1, 1, 1, 32, 64, 32), (31, 31, 4, 1, 32, 64, 32), (63, 127, 2, 1, 64, 64, 32), (127, 127, 7, 1, 80, 64, 64),
    (129, 129, 2, 2, 96, 64, 32), (300, 300, 4, 1, 64, 64, 32), (300, 300, 2, 2, 128, 128, 128),
    (129, 1000, 4, 1, 64, 128, 64), (1000, 1000, 7, 7, 32, 64, 64), (1000, 1000, 4, 1, 128, 128, 32),
    (777, 1500, 4, 2, 128, 128, 64), (2048, 2048, 7, 1, 128, 128, 64), (1111, 2222, 2, 1, 80, 128, 128),
]  # fmt: skip
RATIOS = {1: (0.0, 0.3), 2: (0.3, 0.45), 4: (0.45, 0.6), 8: (0.6, 0.75), 0: (0.75, 1.0)}
FLAT = {1: (0.0, 0.4), 0: (0.4, 1.0)}
# name -> shares, block means, estimate; nothing is pooled in the last two
KINDS = {
    "skips": (RATIOS, False, "xattn"), "means": (RATIOS, True, "xattn"), "level 1, means": (FLAT, True, "xattn"),
    "level 1, peaks": (FLAT, False, "peak"),
}  # fmt: skip
STRIDES = {"xattn": (16, 4), "peak": (8, 2)}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def inputs(shape, dtype, seed=0):
    lq, lk, heads, kv_heads, dim, _, _ = shape
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(1, kv_heads, -(-lk // 16), dim, generator=g).repeat_interleave(16, 2)[:, :, :lk]
    k = 2 * base + torch.randn(1, kv_heads, lk, dim, generator=g)
    q, v = torch.randn(1, heads, lq, dim, generator=g), torch.randn(1, kv_heads, lk, dim, generator=g)
    return tuple(x.to("cuda", dtype) for x in (q, k, v))


def exact(x):
    return x[0].double().cpu().numpy()


def budget(q, k, v, scale, causal, dtype):
    """Twice the error of dense attention in the inputs' precision, plus rounding."""
    q64, k64, v64 = exact(q), exact(k), exact(v)
    want = reference.dense_attention(q64, k64, v64, scale, causal)
    group = q.shape[1] // k.shape[1]
    kr, vr = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    s = (q @ kr.transpose(2, 3)).float() * scale
    if causal:
        lq, lk = q.shape[2], k.shape[2]
        hidden = torch.ones(lq, lk, dtype=torch.bool, device="cuda").triu(lk - lq + 1)
        s = s.masked_fill(hidden, float("-inf"))
    rough = torch.softmax(s, -1).to(dtype) @ vr
    rounding = torch.finfo(dtype).eps * max(1.0, float(np.abs(want).max()))
    return 2 * float(np.abs(exact(rough) - want).max()) + rounding


def check(shape, name, causal, failures):
    lq, lk, heads, kv_heads, dim, m, n = shape
    dtype, scale = DTYPES[name], dim**-0.5
    q, k, v = inputs(shape, dtype)
    thresholds = (0.75, 0.7, 0.7)
    limit = budget(q, k, v, scale, causal, dtype)
    wanted = {
        "xattn": reference.xattn_importance(exact(q), exact(k), scale, causal, m, n, STRIDES["xattn"], 1),
        "peak": reference.peak_importance(exact(q), exact(k), scale, causal, m, n, STRIDES["peak"]),
    }
    cosines = reference.key_similarity_cap(exact(k), n, dict(zip((2, 4, 8), thresholds, strict=True)))
    valid, _ = reference.block_grid(lq, lk, m, n, causal)
    for kind, (ratios, means, method) in KINDS.items():
        plan = Plan(
            scale, causal, m, n, AttentionConfig(mask_ratios=ratios).intervals, "energybound", None, method,
            *STRIDES[method], thresholds=thresholds if ratios is RATIOS else None, block_means=means,
        )  # fmt: skip
        pooled_k, pooled_v, cap = kernels.pyramid_fwd(k, v, plan) if plan.pools else (None, None, None)
        found = kernels.select_blocks(q, k, plan, cap, return_levels=True, return_importance=True)
        levels = found.levels[0].cpu().numpy().astype(int)
        pooled = kernels.Pooled(pooled_k, pooled_v, *(kernels.means_fwd(k, v, plan) if means else ()))
        out, again = (torch.full_like(q, float("nan")) for _ in range(2))
        kernels.attend_fwd(q, k, v, found, plan, pooled, out=out)
        kernels.attend_fwd(q, k, v, found, plan.replace(forced_text=150), pooled, out=again)  # another order
        want = reference.attend(exact(q), exact(k), exact(v), levels, plan)
        error = float(np.abs(exact(out) - want).max())
        scores = found.importance[0].double().cpu().numpy()
        importance_error = float(np.abs(scores - wanted[method]).max() / wanted[method].max())
        limits = cosines if cap is not None else np.full_like(cosines, 8)
        chosen = reference.select_levels(scores, limits, plan, lq, lk)
        differ = (chosen != levels) & ~reference.near_a_bound(scores, plan, lq, lk, 1e-4)
        work = float(found.work.double().sum())
        counted = (1 - reference.sparsity(levels, lq, lk, m, n, causal, means)) * valid.sum() * heads
        good = error <= limit and importance_error < (2e-2 if name != "float32" else 1e-5) and not differ.any()
        good = good and abs(work - counted) < 1e-3 * counted and torch.equal(again, out) and not found.turns.any()
        relative = float(np.linalg.norm(exact(out) - want) / np.linalg.norm(want))
        print(f"{'ok  ' if good else 'FAIL'} {name:8s} {'causal' if causal else 'bidir '} {kind:14s} {shape}  "
              f"error {error:.1e} of {limit:.1e}, relative {relative:.1e}, importance {importance_error:.1e}, "
              f"levels {np.unique(levels)}, differ {int(differ.sum())}", flush=True)  # fmt: skip
        if not good:
            failures.append((shape, name, causal, kind))


def layouts(q, k, v):
    """The same numbers in other places: name -> (q, k, v), NaN all around them."""

    def inside(x, front, behind, order):
        """A view of a tensor whose axes lie in memory in ``order``, between rows of NaN."""
        shape = [x.shape[0], x.shape[1], front + x.shape[2] + behind, x.shape[3]]
        whole = torch.full([shape[i] for i in order], float("nan"), dtype=x.dtype, device="cuda")
        view = whole.permute(*np.argsort(order).tolist())[:, :, front : front + x.shape[2]]
        view.copy_(x)
        return view

    yield "tokens first", tuple(inside(x, 0, 0, (0, 2, 1, 3)) for x in (q, k, v))
    yield "between NaN", tuple(inside(x, 8, 200, (0, 1, 2, 3)) for x in (q, k, v))
    yield "tokens first, between NaN", tuple(inside(x, 16, 130, (2, 0, 1, 3)) for x in (q, k, v))


def check_layouts(max_keys: int, failures) -> None:
    """The whole operator's output does not depend on where its inputs lie; left padding neither."""
    places = (
        (777, 1500, 4, 2, 128, 64, True, 1), (1000, 1000, 4, 1, 128, 32, False, 1), (900, 1111, 2, 2, 64, 128, True, 1),
        (640, 640, 7, 1, 128, 64, False, -1), (500, 700, 4, 1, 80, 64, True, -1), (333, 333, 4, 4, 64, 64, True, 1),
    )  # fmt: skip
    for (lq, lk, heads, kv_heads, dim, n, causal, sign), ratios in itertools.product(places, (RATIOS, FLAT)):
        if lk > max_keys:
            continue
        shape = (lq, lk, heads, kv_heads, dim, 128, n)
        both = [torch.cat(pair) for pair in zip(*(inputs(shape, torch.bfloat16, seed) for seed in (1, 2)), strict=True)]
        plan = Plan(
            sign * dim**-0.5, causal, 128, n, AttentionConfig(mask_ratios=ratios).intervals, "energybound",
            key_stride=4, forced_text=40, block_means=sign > 0 or ratios is FLAT,
        )  # fmt: skip
        want, _ = kernels.psa_fwd(*both, plan)
        wrong = [] if want.isfinite().all() else ["contiguous"]
        for name, tensors in layouts(*both):
            if not torch.equal(kernels.psa_fwd(*tensors, plan)[0], want):
                wrong.append(name)
        padding = torch.tensor([0, lk // 3 + 5], dtype=torch.int32, device="cuda")
        start = int(padding[1])
        hidden = max(start - (lk - lq), 0) if causal else 0
        padded = [x.clone() for x in both]
        for x in padded[1:]:
            x[1, :, :start] = float("nan")
        padded[0][1, :, :hidden] = float("nan")
        found, _ = kernels.psa_fwd(*padded, plan, kv_start=padding)
        alone = [padded[0][1:, :, hidden:], *(x[1:, :, start:] for x in padded[1:])]
        same = torch.equal(found[1:, :, hidden:], kernels.psa_fwd(*alone, plan)[0])
        if not (same and torch.equal(found[0], want[0]) and not found[1, :, :hidden].any()):
            wrong.append("left padding")
        good = "FAIL" if wrong else "ok  "
        print(f"{good} layouts {shape} {'causal' if causal else 'bidir'} {len(ratios)} levels {' and '.join(wrong)}",
              flush=True)  # fmt: skip
        if wrong:
            failures.append((shape, "layouts"))


def check_repeats(repeats: int, failures) -> None:
    """Bitwise equal repeats, and a CUDA graph's replay equal to the eager launch."""
    shape = (2048, 2048, 7, 1, 128, 128, 64)
    q, k, v = inputs(shape, torch.bfloat16)
    config = AttentionConfig(mask_ratios=RATIOS)
    plan = Plan(
        128**-0.5, True, 128, 64, config.intervals, "energybound", key_stride=4, thresholds=(0.75, 0.7, 0.7),
        block_means=True,
    )  # fmt: skip
    first, work = kernels.psa_fwd(q, k, v, plan)
    equal = all(torch.equal(kernels.psa_fwd(q, k, v, plan)[0], first) for _ in range(repeats))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        kernels.psa_fwd(q, k, v, plan)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, _ = kernels.psa_fwd(q, k, v, plan)
    out.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    same = torch.equal(out, first)
    print(f"{'ok  ' if equal else 'FAIL'} {repeats} repeats bitwise equal\n{'ok  ' if same else 'FAIL'} CUDA graph")
    if not (equal and same):
        failures.append("repeats or graph")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--max-keys", type=int, default=1 << 20, help="leave out longer shapes")
    args = parser.parse_args()
    failures = []
    for shape in SHAPES:
        if shape[1] > args.max_keys:
            continue
        for name, causal in itertools.product(args.dtypes, (True, False)):
            check(shape, name, causal, failures)
    check_layouts(args.max_keys, failures)
    check_repeats(args.repeats, failures)
    print(f"{len(failures)} failures {failures}" if failures else "all within bounds")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
