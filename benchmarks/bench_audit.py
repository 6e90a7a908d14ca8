"""The audit's kernels on one GPU, with torch tensors: against float64, then its time beside the operator's.

    python benchmarks/bench_audit.py
    python benchmarks/bench_audit.py --tune

The check compares every audited row's sums with a float64 softmax over all keys, on hostile shapes, three dtypes, left
padding, both layouts of the output, a CUDA graph and repeats. The table has the whole operator with a preset, and the
audit of 16, 32 and 64 rows alone and behind it; the last columns are what the audit says of the inputs and the error
over all rows, from cuDNN's dense attention. Needs torch and Triton, no Paddle.
"""

import argparse
import itertools
import platform
import subprocess
import sys
from functools import partial
from unittest import mock

import torch
import triton
from bench_attention import dense, time_ms
from gpu_inputs import INPUTS
from torch.nn.attention import SDPBackend

from psa_paddle.audit import AuditedRows, attention_errors, audited_rows
from psa_paddle.config import AttentionConfig
from psa_paddle.kernels import audit, audit_fwd, psa_fwd, tuning
from psa_paddle.plan import Plan

# (B, Lq, Lk, H, Hkv, D, rows, causal, first key of each sample or None)
SHAPES = [
    (1, 1, 1, 1, 1, 32, 64, True, None), (1, 1, 300, 4, 1, 64, 64, True, None), (1, 31, 31, 4, 1, 64, 64, True, None),
    (1, 129, 129, 7, 1, 80, 40, True, None), (1, 127, 300, 2, 2, 96, 64, True, None),
    (1, 1000, 1000, 7, 7, 32, 64, True, None), (1, 300, 300, 4, 2, 128, 300, False, None),
    (1, 8192, 8192, 28, 4, 128, 64, True, None), (1, 8192, 8192, 28, 4, 128, 16, True, None),
    (1, 5000, 20000, 28, 4, 128, 64, True, None), (1, 6001, 6001, 12, 12, 64, 64, False, None),
    (1, 4096, 9000, 16, 2, 128, 128, True, None), (3, 200, 230, 4, 2, 64, 64, True, (0, 77, 229)),
    (2, 3000, 3000, 14, 2, 128, 64, True, (1700, 0)), (2, 900, 2000, 7, 1, 128, 64, False, (1500, 3)),
]  # fmt: skip
TUNED = (
    dict(M=128, TILE=32, num_warps=8, num_stages=2, maxnreg=128), dict(M=128, TILE=32, num_warps=8, num_stages=3),
    dict(M=128, TILE=64, num_warps=8, num_stages=2, maxnreg=128), dict(M=128, TILE=64, num_warps=8, num_stages=2),
    dict(M=128, TILE=64, num_warps=8, num_stages=3), dict(M=128, TILE=128, num_warps=8, num_stages=2),
    dict(M=64, TILE=64, num_warps=4, num_stages=2), dict(M=64, TILE=64, num_warps=4, num_stages=3),
    dict(M=64, TILE=128, num_warps=4, num_stages=2),
)  # fmt: skip
PROGRAMS = (128, 256, 512, 1024)


def exact_rows(q, k, v, rows, scale, causal, rough=False):
    """Rows of softmax(scale q k^T) v, float64 [H, rows, D] of q [H, Lq, D], k and v [Hkv, Lk, D].

    rough: as a careful implementation does it in q's dtype, float32 logits and rounded weights."""
    lk, group, wide = k.shape[1], q.shape[0] // k.shape[0], torch.float32 if rough else torch.float64
    hidden = torch.arange(lk, device=q.device)[None] > (rows + lk - q.shape[1])[:, None] if causal else None
    out = []
    for h in range(k.shape[0]):
        s = q[h * group : (h + 1) * group, rows].to(wide) @ k[h].to(wide).T * scale
        p = torch.softmax(s if hidden is None else s.masked_fill(hidden, float("-inf")), -1)
        out.append((p.to(q.dtype) @ v[h]).double() if rough else p @ v[h].double())
    return torch.cat(out)


def sums_of(exact, out):
    return torch.stack([((out.double() - exact) ** 2).sum(-1), (exact**2).sum(-1)], -1)


def check() -> int:
    """Sums within four times what the rounding of a careful implementation changes; returns the number of failures."""
    failures = 0

    def report(good: bool, text: str) -> None:
        nonlocal failures
        failures += not good
        print("ok  " if good else "FAIL", text, flush=True)

    for shape, dtype in itertools.product(SHAPES, (torch.bfloat16, torch.float16, torch.float32)):
        b, lq, lk, heads, kv_heads, dim, rows, causal, starts = shape
        g, scale = torch.Generator().manual_seed(0), 2 * dim**-0.5
        sizes = ((b, heads, lq, dim), (b, kv_heads, lk, dim), (b, kv_heads, lk, dim), (b, heads, lq, dim))
        q, k, v, noise = (torch.randn(*size, generator=g).to("cuda", dtype) for size in sizes)
        out = 0.1 * noise
        for x, start in enumerate(starts or ()):
            k[x, :, :start], v[x, :, :start] = float("inf"), float("nan")
        padding = torch.tensor(starts, dtype=torch.int32, device="cuda") if starts else None
        plan = Plan(scale, causal, 128, 64, audit_rows=rows)
        got = audit_fwd(q, k, v, out, plan, kv_start=padding)
        swapped = out.transpose(1, 2).contiguous()
        again = torch.equal(audit_fwd(q, k, v, swapped, plan.replace(heads_last=True), kv_start=padding), got)
        worst = 0.0
        for x, start in enumerate(starts or (0,) * b):
            first = max(0, start - (lk - lq)) if causal else 0
            own = (q[x, :, first:], k[x, :, start:], v[x, :, start:])
            found = torch.tensor(audited_rows(lq - first, rows)[0], device="cuda")
            exact, rough = (exact_rows(*own, found, scale, causal, rough) for rough in (False, True))
            want, near = sums_of(exact, out[x, :, first:][:, found]), sums_of(rough, out[x, :, first:][:, found])
            limit = 4 * (near - want).abs().amax() + 1e-5 * want.abs().amax()
            error = (got[x, :, : len(found)].double() - want).abs().nan_to_num(torch.inf).amax()
            rest = got[x, :, len(found) :].abs().sum()
            worst = max(worst, float(error / limit + rest))
        text = f"{str(dtype)[6:]:8s} {shape}  error {worst:.2f} of what is allowed"
        report(worst <= 1 and again, text + ("" if again else ", another result in the other layout"))

    q, k, v = (torch.randn(1, h, 8192, 128, device="cuda").bfloat16() for h in (28, 4, 4))
    plan = Plan(0.1, True, 128, 64, audit_rows=64)
    first = audit_fwd(q, k, v, q, plan)
    report(all(torch.equal(audit_fwd(q, k, v, q, plan), first) for _ in range(20)), "20 repeats bitwise equal")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sums = audit_fwd(q, k, v, q, plan)
    sums.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    report(torch.equal(sums, first), "CUDA graph")
    print(f"{failures} failures" if failures else "all within bounds", flush=True)
    return failures


def operator(preset: str, dim: int):
    """``psa_fwd`` of a preset as a function of q, k, v."""
    plan = Plan.of(AttentionConfig.preset(preset, text_length=0, use_sim_mask=False), dim**-0.5)
    return lambda q, k, v: psa_fwd(q, k, v, plan)[0]


def bench(name: str, length: int, args) -> None:
    """The operator with and without the audit, by number of rows."""
    run = operator(args.preset, args.dim)
    q, k, v = INPUTS[name](length, args.heads, args.kv_heads, args.dim, torch.bfloat16)
    out, exact = run(q, k, v), dense(q, k, v, True, SDPBackend.CUDNN_ATTENTION)
    sizes = torch.stack([sums_of(exact[0, h].double(), out[0, h]).sqrt().sum(0) for h in range(args.heads)])
    del exact
    true, heads = float(sizes[:, 0].sum() / sizes[:, 1].sum()), (sizes[:, 0] / sizes[:, 1]).tolist()
    alone = time_ms(lambda: run(q, k, v))
    for rows in args.rows:
        compare = partial(audit_fwd, plan=Plan(args.dim**-0.5, True, 128, 64, audit_rows=rows))
        audit_ms = time_ms(partial(compare, q, k, v, out))
        both = time_ms(partial(audited, compare, run, q, k, v))
        found, each = attention_errors([AuditedRows(compare(q, k, v, out).cpu(), (length,))])
        far = [abs(one.error - head) / max(one.sampling_error, 1e-9) for one, head in zip(each, heads, strict=True)]
        worst = max(range(args.heads), key=lambda h: each[h].error)
        times = f"{alone:.3f} | {audit_ms:.3f} | {both:.3f} | {audit_ms / alone:.1%} | {both / alone - 1:.1%}"
        layer = f"{found.error:.3f} +- {found.sampling_error:.3f} | {true:.3f}"
        head = f"{each[worst].error:.3f} +- {each[worst].sampling_error:.3f} | {heads[worst]:.3f}"
        within = sum(x <= 2 for x in far) / len(far)
        print(f"| {name} | {length} | {rows} | {times} | {layer} | {head} | {within:.0%} |", flush=True)


def audited(compare, run, q, k, v):
    return compare(q, k, v, run(q, k, v))


def tune(args) -> None:
    """Time other settings than those of ``tuning.py`` and other numbers of programs."""
    print("| settings | programs | L | rows | audit ms |\n|---|---|---|---|---|")
    for length in args.lengths:
        q, k, v = INPUTS["structured"](length, args.heads, args.kv_heads, args.dim, torch.bfloat16)
        for settings, programs, rows in itertools.product(TUNED, PROGRAMS, (16, 64)):
            compare = partial(audit_fwd, q, k, v, q, Plan(args.dim**-0.5, True, 128, 64, audit_rows=rows))
            picked = mock.patch.object(tuning, "pick", lambda *_, settings=settings: settings)
            with picked, mock.patch.object(audit, "PROGRAMS", programs):
                try:
                    ms = f"{time_ms(compare):.4f}"
                except triton.runtime.errors.OutOfResources as error:
                    ms = error.name
            text = " ".join(f"{name}={value}" for name, value in settings.items())
            print(f"| {text} | {programs} | {length} | {rows} | {ms} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16384, 65536, 131072])
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=["structured", "frames"])
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--heads", type=int, default=28)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--tune", action="store_true", help="only time the kernels' settings")
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
          f"Python {platform.python_version()}, commit {commit or '?'}")  # fmt: skip
    if args.tune:
        tune(args)
        return
    failures = check()
    columns = ("inputs", "L", "rows", "operator ms", "audit ms", "both ms", "audit / operator", "both / operator - 1",
               "audited error", "all rows", "worst head", "all rows", "heads within 2 sampling errors")  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for name, length in itertools.product(args.inputs, args.lengths):
        bench(name, length, args)
        torch.cuda.empty_cache()
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
