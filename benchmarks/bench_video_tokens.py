"""Accuracy and time of the demo model where it reads fewer tokens of its clips, with dense and with sparse attention.

    python benchmarks/bench_video_tokens.py --csv out.csv            # unseen clips of 2k tokens, all kinds of questions
    python benchmarks/bench_video_tokens.py --times --csv times.csv  # CPU seconds on one clip of 8k tokens
    python benchmarks/bench_video_tokens.py --driver torch --lengths 8k --clips 128 --questions 8 --csv gpu.csv

All settings see the same vision tokens; balanced is sparse at any length. density is of the attention over the tokens
that stay.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from common import facts, header, line, machine_line, write_csv
from quality_batches import LENGTHS, batches
from quality_settings import DENSE, Setting

from psa_paddle.config import AttentionConfig
from psa_paddle.video_tokens import check_video_tokens, choose

ATTENTION = {
    "dense": DENSE,
    "balanced": Setting("balanced", "presets", "psa", AttentionConfig.preset("balanced", dense_below=0)),
}
SETTINGS = ("1", "0.75", "0.5", "0.25", "auto")


def kept_of(driver, clip, batch, setting: str) -> np.ndarray:
    """``choose`` of a clip's tokens by a setting as the command line has it."""
    how = check_video_tokens(setting if setting == "auto" else float(setting))
    return choose(driver.video_tokens(clip, batch.plan.shape[1] // 2), how)


def accuracy(driver, bucket: str, args):
    """Rows of one length."""
    found: dict[tuple, list] = {}
    for done, batch in enumerate(batches(args.split, bucket, args.clips, args.questions, 1, args.shapes), 1):
        clip = driver.load(batch)
        for setting in args.settings:
            kept = kept_of(driver, clip, batch, setting)
            short = driver.shorter(clip, kept)
            for name, attention in ATTENTION.items():
                tokens, density = driver.tokens(short, attention)
                right, _, _ = driver.judge(clip, tokens, tokens)
                found.setdefault((setting, name), []).append((kept.mean(), float(density), right[0], clip.types[0]))
        print(f"{bucket}: {done} clips", file=sys.stderr, flush=True)
    for (setting, name), rows in found.items():
        kept, density, right, types = zip(*rows, strict=True)
        right, types = np.concatenate(right), np.concatenate(types)
        kinds = {f"right_{kind}": f"{100 * right[types == kind].mean():.1f}" for kind in sorted(set(types.tolist()))}
        yield {
            "tokens": bucket, "video_tokens": setting, "attention": name, "kept": f"{np.mean(kept):.3f}",
            "density": f"{np.mean(density):.3f}", "accuracy_percent": f"{100 * right.mean():.2f}",
            "questions": right.size, "clips": len(rows), **kinds,
        }  # fmt: skip


def times(driver, bucket: str, args):
    """Rows of one clip, on Paddle: CPU seconds of the vision tower, of the choice, and of the text model's prefill."""
    (batch,) = batches(args.split, bucket, 1, 1, 1, 1)
    clip, shown = driver.load(batch), driver.inputs(batch, "")
    look = driver.model.model.get_video_features
    vision = seconds(lambda: look(shown["pixel_values_videos"], shown["video_grid_thw"]), args.repeats)
    for setting in args.settings:
        chosen = seconds(lambda setting=setting: kept_of(driver, clip, batch, setting), args.repeats)
        kept = kept_of(driver, clip, batch, setting)
        short = driver.shorter(clip, kept)
        for name, attention in ATTENTION.items():
            with driver.plugged(attention):
                prefill = seconds(lambda short=short: driver.prefix(short), args.repeats)
            yield {
                "tokens": clip.prefix_ids.shape[1], "video_tokens": setting, "attention": name,
                "kept": f"{kept.mean():.3f}", "vision_s": f"{vision:.2f}", "choice_s": f"{chosen:.3f}",
                "prefill_s": f"{prefill:.2f}",
            }  # fmt: skip


def seconds(run, repeats: int) -> float:
    """Median of some calls, after one more: of the process, as a machine may have other work."""
    taken = []
    for _ in range(repeats + 1):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return statistics.median(taken[1:])


def make_driver(name: str):
    """Paddle's on this machine's device, or torch's on a GPU."""
    if name == "torch":
        from quality_torch import Driver
    else:
        import paddle
        from quality_paddle import Driver

        paddle.set_grad_enabled(False)
    return Driver()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", choices=("paddle", "torch"), default="paddle", help="torch: on a CUDA GPU")
    parser.add_argument("--times", action="store_true", help="CPU seconds instead of accuracy, on Paddle")
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, help="of clips (2k; --times: 8k)")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="'auto' or shares (%(default)s)")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--clips", type=int, default=32, help="of each length (%(default)s)")
    parser.add_argument("--questions", type=int, default=16, help="about each clip (%(default)s)")
    parser.add_argument("--shapes", type=int, default=16, help="sizes of clips of each length (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each time (%(default)s)")
    parser.add_argument("--csv", type=Path, help="write the rows there")
    args = parser.parse_args()
    if args.times and args.driver == "torch":
        parser.error("--times needs --driver paddle.")
    driver = make_driver(args.driver)
    found, rows = facts(driver.machine, *driver.PACKAGES), []
    print(machine_line(found))
    for bucket in args.lengths or (["8k"] if args.times else ["2k"]):
        rows += (times if args.times else accuracy)(driver, bucket, args)
    fields = list(dict.fromkeys(name for row in rows for name in row))
    print(header(fields), *(line([row.get(name) for name in fields]) for row in rows), sep="\n")
    write_csv(args.csv, found, fields, rows)


if __name__ == "__main__":
    main()
