"""What several processes do in tests/test_context_parallel.py: python shared_context.py FOLDER 2 4."""

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

from psa_paddle import AttentionConfig, ContextParallel, context_parallel_attention, pyramid_attention
from psa_paddle.trianglemix import TriangleMixConfig, triangle_attention

LENGTH, HEADS, KV_HEADS, DIM = 1300, 4, 2, 32  # 11 blocks of 128 that no number of chunks divides, the last one ragged


def psa(preset: str = "balanced", **changes) -> AttentionConfig:
    return AttentionConfig.preset(preset, **{"dense_below": 0, "text_length": 100, **changes})


# name -> configuration, other arguments
CASES = {
    "balanced": (psa(audit_rows=64), {"heads_last": True}),
    "the text begins before the last chunk": (psa(text_length=700), {"scale": -0.1}),
    "pooled levels with a cap": (
        psa("seed", key_block=32, query_block=64, sim_2x_threshold=-1.0, sim_4x_threshold=0.0, sim_8x_threshold=0.05),
        {},
    ),
    "block means": (psa("fast", block_means=True, key_block=128), {}),
    "budgets": (psa(budgets=(0.5, 2.0, 1.0, 1.5)), {}),
    "sampled importance": (psa(importance_method="pooling"), {}),
    "dense by the whole": (psa(dense_below=LENGTH + 1), {}),
    "sparse by the whole": (psa(dense_below=LENGTH), {}),
    "triangle": (TriangleMixConfig(8, 100, 64), {"heads_last": True}),
}
LATE = TriangleMixConfig(8, 100, 500)  # its last rows begin before the last chunk


def tensors(heads: int = HEADS, kv_heads: int = KV_HEADS, batch: int = 2):
    rng = np.random.default_rng(0)
    shapes = ([batch, n, LENGTH, DIM] for n in (heads, kv_heads, kv_heads))
    return [paddle.to_tensor(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


def in_one_call(config, q, k, v, **call):
    """(out, CallStats)"""
    if isinstance(config, AttentionConfig):
        return pyramid_attention(q, k, v, config, return_stats=True, **call)
    shape = dict(num_sink_tokens=config.num_sink_tokens, sliding_window_size=config.sliding_window_size)
    return triangle_attention(q, k, v, **shape, num_last_tokens=config.num_last_tokens, return_stats=True, **call)


def figures(stats) -> dict:
    """What statistics say, in plain types; of the audit how many rows it saw."""
    found = {name: getattr(stats, name) for name in ("backend", "mode", "reason", "lengths")}
    found |= {"densities": stats.per_head_density(), "audited": sum(audit.sums.shape[2] for audit in stats.audits)}
    return found | ({"error": stats.attention_errors()[0].error} if stats.audits else {})


def same(a, b) -> bool:
    return bool((a.numpy() == b.numpy()).all())


def compare(context: ContextParallel) -> dict:
    """Of each case whether these rows, and all of them gathered, are bitwise those of one call, and both statistics."""
    found = {}
    q, k, v = tensors()
    own = [context.split(x) for x in (q, k, v)]
    for name, (config, call) in CASES.items():
        axis = 1 if call.get("heads_last") else 2
        want, stats = in_one_call(config, q, k, v, **call)
        out, part = context_parallel_attention(*own, config, context=context, return_stats=True, **call)
        found[name] = {
            "bitwise": same(out, context.split(want, axis)),
            "standing": same(out, context_parallel_attention(own[0], k, v, config, context=context, **call)),
            "gathered": same(context.gather(out, axis), want),
            "stats": figures(context.gather_stats(part)),
            "want": figures(stats),
        }
    want, _ = in_one_call(LATE, q, k, v)
    found["late"] = float((context_parallel_attention(*own, LATE, context=context) - context.split(want)).abs().max())
    half = k.astype("bfloat16")
    found["other dtypes"] = same(context.gather(context.split(half)).astype("float32"), half.astype("float32"))
    ids = paddle.arange(LENGTH).unsqueeze(0)
    found["ids"] = same(context.gather(context.split(ids, 1), 1), ids)
    return found


def sentence(run) -> str:
    try:
        run()
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def misuse(context: ContextParallel) -> dict:
    """What each process says where process 1 is wrong, or all are; and that a call works after each."""
    first = context.rank != 1
    q, k, v = (context.split(x) for x in tensors())

    def attend(q=q, k=k, config=None, context=context):
        return lambda: context_parallel_attention(q, k, k, config, context=context)

    wanting = q.clone()
    wanting.stop_gradient = False
    runs = {
        "rows": attend(q if first else q[:, :, :-1]),
        "keys": attend(k=k if first else k[:, :, :-1]),
        "kind": attend(q if first else q.numpy()),
        "heads": attend(q if first else q[:, :2]),
        "preset": attend(config="balanced" if first else "fast"),
        "key block": attend(config=psa(key_block=64 if first else 32)),
        "no preset": attend(config="balanced" if first else "best"),
        "both ways": attend(config=psa(causal=False)),
        "gradients": attend(wanting),
        "length": attend(context=context if first else ContextParallel(LENGTH - 1)),
        "gathered rows": lambda: context.gather(q if first else q[:, :, 1:]),
        "gathered heads": lambda: context.gather(q if first else k),
        "split": lambda: context.split(q),
        "context": attend(context=None),
    }
    whole = pyramid_attention(*tensors())
    found = {}
    for name, run in runs.items():
        found[name] = sentence(run)
        if name in ("rows", "length"):
            assert same(context.gather(context_parallel_attention(q, k, v, context=context)), whole)
    return found


def run(folder: Path, rank: int, ranks: int, ends: list[str]) -> None:
    """What a process does."""
    log = os.open(folder / f"{ranks}-{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {
        "PADDLE_TRAINER_ID": str(rank), "PADDLE_TRAINERS_NUM": str(ranks), "PADDLE_MASTER": ends[0],
        "PADDLE_CURRENT_ENDPOINT": ends[rank], "PADDLE_TRAINER_ENDPOINTS": ",".join(ends),
        "PADDLE_DISTRI_BACKEND": "gloo",
    }  # fmt: skip
    dist.init_parallel_env()
    if ranks == 2:
        found = {"rows": compare(ContextParallel(LENGTH)), "misuse": misuse(ContextParallel(LENGTH))}
    else:
        found = {"rows": compare(ContextParallel(LENGTH, dist.get_group()))}
    (folder / f"{ranks}-{rank}.json").write_text(json.dumps(found))
    dist.barrier()  # the first process holds what the others talk through


def main(folder: Path, *counts: int) -> None:
    """Run so many processes at a time; they are forked, as importing Paddle takes longer than all that they do."""
    for ranks in counts:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(ranks)]
        ends = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
        for one in sockets:
            one.close()
        fork = multiprocessing.get_context("fork")
        started = [fork.Process(target=run, args=(folder, rank, ranks, ends)) for rank in range(ranks)]
        for one in started:
            one.start()
        for one in started:
            one.join()
        if any(one.exitcode for one in started):
            sys.exit("\n".join((folder / f"{ranks}-{rank}.log").read_text()[-2000:] for rank in range(ranks)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
