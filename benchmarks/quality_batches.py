"""Clips of the demo model's world in batches, by number of vision tokens."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))  # the visual world is scripts, not a package

from world_batches import BUCKETS, FPS, UNSEEN, clip_shape, make_batch  # noqa: E402

TRAINED = tuple(b for b in BUCKETS if b.endswith("k"))
LENGTHS = (*TRAINED, *UNSEEN)


def batches(split: str, bucket: str, clips: int, questions: int, tokens: int, shapes: int):
    """Batches of at most ``tokens`` vision tokens; ``shapes`` sizes of clips, as kernels compile anew for some."""
    rng = np.random.default_rng([7, LENGTHS.index(bucket)])
    done = 0
    for part in range(shapes):
        shape = clip_shape(bucket, rng, test=split == "test")
        each = shape[0] * shape[1] // 28**2 * shape[2] // 2
        stop = clips * (part + 1) // shapes
        while done < stop:
            count = min(stop - done, max(1, tokens // each))
            yield make_batch(split, done + np.arange(count), shape, rng.choice(FPS[:2], count), questions, rng)
            done += count
