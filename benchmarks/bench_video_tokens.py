"""Accuracy and time of the demo model where it reads fewer tokens of its clips, with dense and with sparse attention.

    python benchmarks/bench_video_tokens.py --csv out.csv            # unseen clips of 2k tokens, questions of every kind
    python benchmarks/bench_video_tokens.py --times --csv times.csv  # seconds on one clip of 8k tokens

All settings see the same vision tokens; balanced is sparse at any length. density is of the attention over the tokens
that stay.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
from common import facts, header, line, machine_line, write_csv
from quality_batches import LENGTHS, batches
from quality_paddle import Clip, Driver
from quality_settings import DENSE, Setting

from psa_paddle import AttentionConfig
from psa_paddle.integrations.language.video_tokens import check_video_tokens, choose

ATTENTION = {
    "dense": DENSE,
    "balanced": Setting("balanced", "presets", "psa", AttentionConfig.preset("balanced", dense_below=0)),
}
SETTINGS = ("1", "0.75", "0.5", "0.25", "auto")


def shorter(clip: Clip, kept: np.ndarray, video: int) -> Clip:
    """The clip with the video tokens that stay."""
    rows = np.ones(clip.prefix_ids.shape[1], bool)
    rows[clip.prefix_ids.numpy()[0] == video] = kept.ravel()
    rows = paddle.to_tensor(np.flatnonzero(rows))
    cut = {"prefix_ids": 1, "embeddings": 1, "positions": 2}
    return replace(clip, **{name: paddle.gather(getattr(clip, name), rows, axis) for name, axis in cut.items()})


def kept_of(clip: Clip, frames: int, video: int, setting: str) -> np.ndarray:
    """``choose`` of a clip's tokens by a setting as the command line has it."""
    tokens = paddle.to_tensor(clip.embeddings.numpy()[0][clip.prefix_ids.numpy()[0] == video])
    how = check_video_tokens(setting if setting == "auto" else float(setting))
    return choose(tokens.reshape([frames, -1, tokens.shape[-1]]), how)


def accuracy(driver: Driver, bucket: str, args):
    """Rows of one length."""
    video, found = driver.model.config.video_token_id, {}
    for batch in batches(args.split, bucket, args.clips, args.questions, 1, args.shapes):
        clip = driver.load(batch)
        for setting in args.settings:
            kept = kept_of(clip, batch.plan.shape[1] // 2, video, setting)
            short = shorter(clip, kept, video)
            for name, attention in ATTENTION.items():
                tokens, density = driver.tokens(short, attention)
                right, _, _ = driver.judge(clip, tokens, tokens)
                rows = found.setdefault((setting, name), [])
                rows.append((kept.mean(), density, right[0], clip.types[0]))
        print(f"{bucket}: {len(rows)} clips", file=sys.stderr, flush=True)
    for (setting, name), rows in found.items():
        kept, density, right, types = zip(*rows, strict=True)
        right, types = np.concatenate(right), np.concatenate(types)
        kinds = {f"right_{kind}": round(100 * right[types == kind].mean(), 1) for kind in sorted(set(types.tolist()))}
        yield {
            "tokens": bucket, "video_tokens": setting, "attention": name, "kept": round(float(np.mean(kept)), 3),
            "density": round(float(np.mean(density)), 3), "accuracy_percent": round(100 * right.mean(), 2),
            "questions": right.size, "clips": len(rows), **kinds,
        }  # fmt: skip


def times(driver: Driver, bucket: str, args):
    """Rows of one clip: seconds of the vision tower, and of the text model's prefill, the median of some."""
    (batch,) = batches(args.split, bucket, 1, 1, 1, 1)
    video = driver.model.config.video_token_id
    clip, inputs = driver.load(batch), driver._inputs(batch, "")
    vision = seconds(
        lambda: driver.model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"]), args
    )
    for setting in args.settings:
        kept = kept_of(clip, batch.plan.shape[1] // 2, video, setting)
        chosen = seconds(lambda setting=setting: kept_of(clip, batch.plan.shape[1] // 2, video, setting), args)
        short = shorter(clip, kept, video)
        for name, attention in ATTENTION.items():
            with driver._plugged(attention):
                prefill = seconds(lambda short=short: driver._prefix(short), args)
            yield {
                "tokens": clip.prefix_ids.shape[1], "video_tokens": setting, "attention": name,
                "kept": round(float(kept.mean()), 3), "vision_s": round(vision, 3), "choice_s": round(chosen, 4),
                "prefill_s": round(prefill, 3),
            }  # fmt: skip


def seconds(run, args) -> float:
    """Median of ``args.repeats`` calls after one."""
    taken = []
    with paddle.no_grad():
        for _ in range(args.repeats + 1):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", action="store_true", help="seconds instead of accuracy")
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, help="of clips (2k; --times: 8k)")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="'auto' or shares (%(default)s)")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--clips", type=int, default=32, help="of each length (%(default)s)")
    parser.add_argument("--questions", type=int, default=16, help="about each clip (%(default)s)")
    parser.add_argument("--shapes", type=int, default=16, help="sizes of clips of each length (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each time (%(default)s)")
    parser.add_argument("--csv", type=Path, help="write the rows there")
    args = parser.parse_args()
    driver = Driver()
    found, rows = facts(driver.machine, *driver.PACKAGES), []
    print(machine_line(found))
    for bucket in args.lengths or (["8k"] if args.times else ["2k"]):
        rows += (times if args.times else accuracy)(driver, bucket, args)
    fields = list(dict.fromkeys(name for row in rows for name in row))
    print(header(fields), *(line([row.get(name) for name in fields]) for row in rows), sep="\n")
    write_csv(args.csv, found, fields, rows)


if __name__ == "__main__":
    main()
