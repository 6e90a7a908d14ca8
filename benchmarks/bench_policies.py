"""What chooses the presets: attention error at equal density for every part of the selection, on a CPU, in Paddle.

    python benchmarks/bench_policies.py [--lengths 4k 8k] [--clips 1] [--structured 8192] [--density 0.25 0.12]

Tensors: q, k, v of all layers of the demo model on clips of the test split with one question (``model 8k``), on the
dense model's own trajectory; and bench_eager_cpu.py's video-like ones, 2 heads, D=128 (``structured 8192``). Error is
||sparse - dense|| / ||dense||, mean over layers and clips; density counts everything that is kept, forced blocks too.

Each policy has one free number, a scale on where its levels end, which is set by bisection so that the mean density
over a set of tensors is the one wanted. The density that was reached stands beside the error: what is always kept can
be more than was wanted, and a policy may end below it.
``seeds`` is the upstream rule, whose share of importance includes the block itself, at its own ratios and scaled.
``true importance`` ranks by the attention that each block really gets: what no estimate can beat.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
import paddle
from common import cpu_name, facts, machine_line
from cpu_inputs import video_qkv
from quality_batches import LENGTHS, batches
from quality_settings import inclusive_levels, ratios_of

from psa_paddle import AttentionConfig, eager
from psa_paddle.config import PRESETS
from psa_paddle.eager.selection import key_similarity_cap
from psa_paddle.geometry import Geometry
from psa_paddle.plan import Plan
from psa_paddle.stats import work_of

STRUCTURED_TEXT = 64  # last tokens of the structured tensors that stay at level 1
THRESHOLDS = {2: 0.75, 4: 0.7, 8: 0.7}
CONFIG = AttentionConfig(block_means=False, dense_below=0)


@dataclass
class Tensors:
    """One layer's q [1, H, L, D], k and v [1, Hkv, L, D], its dense output, and what was already worked out."""

    q: paddle.Tensor
    k: paddle.Tensor
    v: paddle.Tensor
    scale: float
    text_length: int
    dense: paddle.Tensor
    kept: dict = field(default_factory=dict)

    def importance(self, config: AttentionConfig, true: bool) -> np.ndarray:
        estimate = (
            config.importance_method, config.xattn_query_stride, config.xattn_stride, config.xattn_terms,
        )  # fmt: skip
        key = (true, config.query_block, config.key_block, *(() if true else estimate))
        if key not in self.kept:
            run = true_importance if true else eager.importance
            self.kept[key] = run(self.q, self.k, Plan.of(config, self.scale, "eager")).numpy()
        return self.kept[key]


def true_importance(q, k, plan):
    """The attention that each block of keys gets from each block of queries, [1, H, nI, nJ]."""
    geo = Geometry(q.shape[2], k.shape[2], plan.query_block, plan.key_block, True)
    out = np.zeros((1, q.shape[1], geo.n_i, geo.n_j), np.float32)
    for head in range(q.shape[1]):
        keys = k[0, head * k.shape[1] // q.shape[1]]
        for i in range(geo.n_i):
            start, stop = geo.rows(i)
            logits = plan.scale * paddle.matmul(q[0, head, start:stop], keys[:stop], transpose_y=True)
            hidden = paddle.arange(stop) > paddle.arange(start, stop).unsqueeze(-1)
            p = paddle.nn.functional.softmax(logits - hidden.astype("float32") * 1e30, -1).sum(0).numpy()
            out[0, head, i, : geo.n_valid(i)] = np.add.reduceat(p, np.arange(0, stop, geo.key_block))
    return paddle.to_tensor(out)


@dataclass(frozen=True)
class Policy:
    """ends: where levels 1, 2, 4 and 8 end, times a scale; fields: of ``AttentionConfig``; fixed: no scale but 1."""

    name: str
    ends: tuple
    fields: dict = field(default_factory=dict)
    inclusive: bool = False
    true: bool = False
    fixed: bool = False

    def levels(self, x: Tensors, scale: float) -> tuple:
        config = CONFIG.replace(
            mask_ratios=ratios_of(np.array(self.ends) * scale), text_length=x.text_length, **self.fields
        )
        scores = x.importance(config, self.true)
        if not self.inclusive:
            plan = Plan.of(config, x.scale, "eager")
            return config, eager.select(paddle.to_tensor(scores), x.k, x.q.shape[2], plan).numpy()
        cap = key_similarity_cap(x.k, config.key_block, THRESHOLDS).numpy()
        geo = Geometry(x.q.shape[2], x.k.shape[2], config.query_block, config.key_block, True)
        return config, inclusive_levels(scores, cap, geo, x.text_length, config.mask_ratios)


def density(x: Tensors, config: AttentionConfig, levels) -> float:
    geo = Geometry(x.q.shape[2], x.k.shape[2], config.query_block, config.key_block, True)
    return float(work_of(levels, geo, config.block_means).sum() / (geo.n_pairs() * levels.shape[1]))


def error(x: Tensors, config: AttentionConfig, levels) -> float:
    out = eager.attend_levels(x.q, x.k, x.v, levels, Plan.of(config, x.scale, "eager"))
    return float((out - x.dense).norm() / x.dense.norm())


def measure(policy: Policy, tensors: list[Tensors], wanted: float | None):
    """``(error, density)`` at the wanted mean density, or at the policy's own ends."""

    def mean_density(scale):
        return np.mean([density(x, *policy.levels(x, scale)) for x in tensors])

    low, high = (0.0, 1.0 / max(policy.ends)) if wanted is not None else (1.0, 1.0)
    if wanted is not None and mean_density(high) <= wanted:
        low = high
    while high - low > 0.01 / max(policy.ends):
        middle = (low + high) / 2
        low, high = (low, middle) if mean_density(middle) > wanted else (middle, high)
    chosen = [policy.levels(x, low) for x in tensors]
    found = [(error(x, *c), density(x, *c)) for x, c in zip(tensors, chosen, strict=True)]
    return tuple(np.mean(found, 0))


ONE_EIGHT = (1, 1, 1, 3)  # levels 1 and 8, twice as many blocks at 8


def preset_policy(name: str) -> Policy:
    config, end = AttentionConfig.preset(name), 0.0
    ends = [end := config.mask_ratios.get(level, (end, end))[1] for level in (1, 2, 4, 8)]
    fields = {key: value for key, value in PRESETS[name].items() if key != "mask_ratios"}
    return Policy(f"preset {name}", tuple(ends), fields, fixed=True)


def policies() -> dict[str, list[Policy]]:
    """Section -> policies; in each only one thing changes."""
    by_rank = dict(mask_mode="topk")
    estimates = (
        (16, 16, 16), (16, 16, 4), (16, 16, 2), (8, 8, 8), (8, 8, 2), (8, 8, 1),
        (4, 4, 1), (8, 4, 1), (16, 4, 1), (32, 4, 1), (16, 8, 1), (16, 4, 2),
    )  # fmt: skip
    importance = [
        Policy(f"{t} of {r} queries, {t} of {s} keys", ONE_EIGHT,
               dict(importance_method="xattn", xattn_query_stride=r, xattn_stride=s, xattn_terms=t))
        for r, s, t in estimates
    ]  # fmt: skip
    importance += [
        Policy(f"1 of {r} queries, 1 of {s} keys, peaks", ONE_EIGHT, dict(xattn_query_stride=r, xattn_stride=s))
        for r, s in ((8, 2), (16, 1), (16, 4))
    ]
    blocks = [
        Policy(f"query block {m}, key block {n}", ONE_EIGHT, dict(query_block=m, key_block=n))
        for m in (128, 64) for n in (32, 64, 128)
    ]  # fmt: skip
    families = {
        "levels 1 and 0": (1, 1, 1, 1),
        "levels 1, 8 (as many at 8)": (1, 1, 1, 2),
        "levels 1, 8 (2 x)": ONE_EIGHT,
        "levels 1, 8 (5 x)": (1, 1, 1, 6),
        "levels 1, 4 (2 x)": (1, 1, 3, 3),
        "levels 1, 2, 4, 8": (2, 3, 4, 7),
        "levels 1, 2, 4, 8, long tail": (1, 1.5, 2.5, 8),
    }
    shares = [Policy(f"topk, {name}", ends, by_rank) for name, ends in families.items()]
    shares += [
        Policy(f"topk_sqrt, {name}", families[name], dict(mask_mode="topk_sqrt"))
        for name in ("levels 1 and 0", "levels 1, 8 (2 x)", "levels 1, 8 (5 x)")
    ]
    shares += [
        Policy(f"topk_sqrt, {name}, means", families[name], dict(mask_mode="topk_sqrt", block_means=True))
        for name in ("levels 1 and 0", "levels 1, 8 (2 x)")
    ]
    shares += [
        Policy(f"energybound, {name}", families[name], dict(mask_mode="energybound"))
        for name in ("levels 1 and 0", "levels 1, 8 (2 x)", "levels 1, 2, 4, 8")
    ]
    cap = [Policy(f"similarity cap {word}", ONE_EIGHT, dict(use_sim_mask=on))
           for word, on in (("off", False), ("on", True))]  # fmt: skip
    seeds = [
        Policy(f"seeds, key block {n}", (0.6, 0.8, 0.9, 0.9),
               dict(key_block=n, importance_method="xattn", xattn_query_stride=16, xattn_stride=16, xattn_terms=16),
               inclusive=True)
        for n in (32, 64, 128)
    ]  # fmt: skip
    true = [Policy(f"true importance, key block {n}", ONE_EIGHT, dict(key_block=n), true=True) for n in (32, 64)]
    return {
        "presets": [preset_policy(name) for name in PRESETS],
        "importance": importance, "blocks": blocks, "level assignment": shares, "similarity cap": cap,
        "the seeds' rule": seeds, "true importance": true,
    }  # fmt: skip


def model_tensors(bucket: str, clips: int, driver) -> list[Tensors]:
    found = []
    for batch in batches("test", bucket, clips, 1, 1, clips):
        clip = driver.load(batch)
        found += [Tensors(*qkv, scale, 1, out) for *qkv, scale, out in driver.record(clip)]
    return found


def cell(found: tuple) -> str:
    """Error, and in brackets the density."""
    return f"{found[0]:.4f} ({found[1]:.3f})"


def structured_tensors(length: int) -> list[Tensors]:
    q, k, v = video_qkv(length, 2, 1, 128)
    scale = 128**-0.5
    return [Tensors(q, k, v, scale, STRUCTURED_TEXT, eager.dense_attention(q, k, v, True, scale))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="*", choices=LENGTHS, default=["4k", "8k"])
    parser.add_argument("--clips", type=int, default=1, help="clips of each length, each of another size")
    parser.add_argument("--structured", type=int, nargs="*", default=[8192], help="lengths of the structured tensors")
    parser.add_argument("--density", type=float, nargs="+", default=[0.25, 0.12])
    parser.add_argument("--sections", nargs="+", choices=list(policies()), default=list(policies()))
    args = parser.parse_args()
    paddle.set_device("cpu")
    from quality_paddle import Driver

    driver, start = Driver(), time.perf_counter()
    sets = {f"model {bucket}": model_tensors(bucket, args.clips, driver) for bucket in args.lengths}
    sets |= {f"structured {length}": structured_tensors(length) for length in args.structured}
    tokens = ", ".join(f"{name} {[x.q.shape[2] for x in found[:: driver.layers]]}" for name, found in sets.items())
    print(f"{machine_line(facts(cpu_name(), 'paddlepaddle'))}; tokens: {tokens}")
    columns = [(name, d) for name in sets for d in args.density]
    for title in args.sections:
        print(f"\n| {title} | " + " | ".join(f"{name}, {d:g}" for name, d in columns), end=" |\n")
        print("|---" * (len(columns) + 1) + "|")
        for policy in policies()[title]:
            if not policy.fixed:
                cells = [cell(measure(policy, sets[name], d)) for name, d in columns]
                print(f"| {policy.name} | " + " | ".join(cells) + " |", flush=True)
            if policy.fixed or policy.inclusive:
                own = {name: cell(measure(policy, found, None)) for name, found in sets.items()}
                cells = [own.pop(name, "") for name, _ in columns]
                print(f"| {policy.name}, own ratios | " + " | ".join(cells) + " |", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
