"""The audit's time on one GPU beside the operator's, with torch tensors.

    python benchmarks/bench_audit.py
    python benchmarks/bench_audit.py --tune

The table has the whole operator with a preset, and the
audit of 16, 32 and 64 rows alone and behind it; the last columns are what the audit says of the inputs and the error
over all rows, from cuDNN's dense attention. Needs torch and Triton, no Paddle.
"""

import argparse
import itertools
from functools import partial
from unittest import mock

import torch
import triton
from common import dense, facts, gpu_name, header, line, machine_line, time_ms
from gpu_inputs import INPUTS
from gpu_rows import sums_of
from torch.nn.attention import SDPBackend

from psa_paddle.config import AttentionConfig
from psa_paddle.kernels import audit, audit_fwd, psa_fwd, tuning
from psa_paddle.plan import Plan
from psa_paddle.stats import AuditedRows, attention_errors

TUNED = (
    dict(M=128, TILE=32, num_warps=8, num_stages=2, maxnreg=128), dict(M=128, TILE=32, num_warps=8, num_stages=3),
    dict(M=128, TILE=64, num_warps=8, num_stages=2, maxnreg=128), dict(M=128, TILE=64, num_warps=8, num_stages=2),
    dict(M=128, TILE=64, num_warps=8, num_stages=3), dict(M=128, TILE=128, num_warps=8, num_stages=2),
    dict(M=64, TILE=64, num_warps=4, num_stages=2), dict(M=64, TILE=64, num_warps=4, num_stages=3),
    dict(M=64, TILE=128, num_warps=4, num_stages=2),
)  # fmt: skip
PROGRAMS = (128, 256, 512, 1024)


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
    print(header(("settings", "programs", "L", "rows", "audit ms")))
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
            print(line((text, programs, length, rows, ms)), flush=True)


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
    print(machine_line(facts(gpu_name(), "torch", "triton")))
    if args.tune:
        tune(args)
        return
    columns = ("inputs", "L", "rows", "operator ms", "audit ms", "both ms", "audit / operator", "both / operator - 1",
               "audited error", "all rows", "worst head", "all rows", "heads within 2 sampling errors")  # fmt: skip
    print(header(columns))
    for name, length in itertools.product(args.inputs, args.lengths):
        bench(name, length, args)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
