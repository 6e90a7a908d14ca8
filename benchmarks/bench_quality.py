"""What sparse attention costs in answers: accuracy and attention error against compute, on the demo model's test split.

    python benchmarks/bench_quality.py                       # torch and Triton, one CUDA GPU, about three minutes
    python benchmarks/bench_quality.py --driver paddle --small   # PaddleFormers and the product's plug, on a CPU

Clips of about 1k, 2k, 4k and 8k vision tokens from the test split of the visual world (demo/world), several questions
about each; the question is the forced text. (--lengths 16k 32k: longer than the model was trained on.) Columns:

density    share of the dense attention work that was done in the clip's prefix, mean over the layers (block pairs by
           1 / level, means by 1 / key_block; TriangleMix: visible pairs; the estimate of importance is not in it)
accuracy   % of questions whose greedy answer is right token for token
agreement  % of the true answers' tokens at which the likeliest next token is the dense model's
error      relative attention error ||sparse - dense|| / ||dense|| of the clip's prefix, layer by layer on the dense
           model's own queries, keys and values; mean over layers and over the first clips

Everything runs sparse at any length (``dense_below`` 0), to see what it costs; only TriangleMix keeps its own rule that
prompts of up to 2,048 tokens run dense. TriangleMix's layers: the analyser's choice on clips of the training split,
the first ones, or random ones. Vision tokens are computed once a clip and shared by all settings and questions.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from common import facts, header, machine_line
from quality_batches import LENGTHS, TRAINED, batches
from quality_report import FIELDS, check_outputs, line, write_csv, write_plot
from quality_settings import DENSE, psa_settings, triangle_settings
from world_batches import CHECKPOINT

ANALYSED = "2k"  # clips of the training split that choose TriangleMix's layers
FULL = dict(lengths=list(TRAINED), clips=128, questions=8, tokens=131072, shapes=2, analysed=8)
SMALL = dict(lengths=["1k", "2k"], clips=2, questions=6, tokens=1, shapes=1, analysed=2)


class Tally:
    """One setting's counts over the clips of one length."""

    def __init__(self, setting):
        self.setting = setting
        self.right, self.types, self.density, self.errors = [], [], [], []
        self.agree = self.answered = self.clips = self.seconds = 0

    def add(self, driver, clip, reference, clips: int):
        """Run a batch; returns the tokens found."""
        start = time.perf_counter()
        found, density = driver.tokens(clip, self.setting)
        right, agree, answered = driver.judge(clip, found, found if reference is None else reference)
        self.seconds += time.perf_counter() - start
        self.density.append((float(density), clips))
        self.right.append(right)
        self.types.append(clip.types)
        self.agree, self.answered, self.clips = self.agree + agree, self.answered + answered, self.clips + clips
        return found

    def row(self, bucket: str) -> dict:
        right, types = (np.concatenate([x.ravel() for x in parts]) for parts in (self.right, self.types))
        density, weights = zip(*self.density, strict=True)
        kinds = {f"right_{name}": right[types == name].mean() for name in sorted(set(types.tolist()))}
        return {
            "tokens": bucket, "setting": self.setting.name, "group": self.setting.group,
            "density": np.average(density, weights=weights), "accuracy": right.mean(),
            "agreement": self.agree / self.answered, "error": float(np.mean(self.errors)), "questions": right.size,
            "clips": self.clips, "seconds": self.seconds, **kinds,
        }  # fmt: skip


def bench(driver, bucket: str, settings, args):
    """Rows of one length, the dense one first."""
    tallies = [Tally(s) for s in settings]
    for number, batch in enumerate(batches("test", bucket, args.clips, args.questions, args.tokens, args.shapes)):
        clip, reference = driver.load(batch), None
        for tally in tallies:
            found = tally.add(driver, clip, reference, len(batch.ids))
            reference = found if reference is None else reference
        if number == 0:
            recorded = driver.record(clip)
            for tally in tallies:
                tally.errors.append(float(driver.error(recorded, tally.setting)))
    return [tally.row(bucket) for tally in tallies]


def make_driver(args):
    if args.driver == "torch":
        import torch
        from quality_torch import Driver

        if args.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("the torch driver needs a CUDA GPU; use --driver paddle --small on a CPU.")
        return Driver(args.checkpoint, args.device)
    from quality_paddle import Driver

    return Driver(args.checkpoint)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", choices=("torch", "paddle"), default="torch")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: Triton's interpreter, for tests"
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS)
    parser.add_argument("--clips", type=int, help=f"clips of each length ({FULL['clips']})")
    parser.add_argument("--questions", type=int, help=f"questions about each clip ({FULL['questions']})")
    parser.add_argument(
        "--tokens", type=int, help=f"most vision tokens of a batch ({FULL['tokens']}; paddle: one clip)"
    )
    parser.add_argument("--shapes", type=int, help=f"sizes of clips of each length ({FULL['shapes']})")
    parser.add_argument("--analysed", type=int, help=f"clips that choose TriangleMix's layers ({FULL['analysed']})")
    parser.add_argument("--settings", nargs="*", help="only settings whose name contains one of these; dense always")
    parser.add_argument("--small", action="store_true", help="minutes on two cores: " + str(SMALL))
    parser.add_argument("--csv", type=Path, help="write the rows there")
    parser.add_argument("--plot", type=Path, help="draw them there (PNG; needs matplotlib)")
    args = parser.parse_args()
    for name, value in (SMALL if args.small else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.driver == "paddle":
        args.tokens = 1
    try:
        check_outputs(args.csv, args.plot)
        driver = make_driver(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = facts(driver.machine, *driver.PACKAGES)
    title = machine_line(found)
    print(title, flush=True)
    order = driver.triangle_order(batches("train", ANALYSED, args.analysed, 1, 1, 1))
    print(f"TriangleMix's layers, least dependent first: {order}\n\n{header(FIELDS)}", flush=True)
    settings = psa_settings() + triangle_settings(order)
    if args.settings:
        settings = [s for s in settings if any(word in s.name for word in args.settings)]
    rows = []
    for bucket in args.lengths:
        for row in bench(driver, bucket, [DENSE, *settings], args):
            rows.append(row)
            print(line(row), flush=True)
        write_csv(args.csv, found, rows)
        write_plot(args.plot, rows, title)
    return 0


if __name__ == "__main__":
    sys.exit(main())
