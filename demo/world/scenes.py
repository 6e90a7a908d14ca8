"""Scenes: what is where and when. Pure data; ``render`` draws them and ``ask`` questions them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from .vocabulary import CELLS, COLOURS, MOTIONS, SHAPES, STILL, WORDS

SPLITS = ("train", "validation", "test")
# A scene belongs to the split that its layout falls into: which things stand where, or move how.
SPLIT_OF_LAYOUT = ("train",) * 8 + ("validation", "test")
RADII = ((11.0, 14.0), (21.0, 26.0))  # pixels: small, large
SPEED = (7.0, 20.0)  # pixels a second
CARD_SECONDS = 1.0
MAX_EVENTS = 5


@dataclass(frozen=True)
class Thing:
    """A coloured shape: centre (x, y) in pixels at ``start``, visible from ``start`` to ``end`` seconds."""

    shape: int
    colour: int
    size: int
    cell: int | None
    motion: int
    x: float
    y: float
    radius: float
    speed: float = 0.0
    start: float = 0.0
    end: float = float("inf")


@dataclass(frozen=True)
class Card:
    """A white card with a number or a word: half width and half height in pixels."""

    text: str
    x: float
    y: float
    half_width: float
    half_height: float
    start: float = 0.0
    end: float = float("inf")


@dataclass(frozen=True)
class Backdrop:
    """A gradient from ``top`` to ``bottom`` (RGB) with grey clutter (name, x, y, radius, grey), from ``start`` on."""

    start: float
    top: tuple
    bottom: tuple
    clutter: tuple


@dataclass(frozen=True)
class Scene:
    """width, height in pixels; an image has one frame, a video ``frames`` frames at ``fps`` a second."""

    kind: str
    width: int
    height: int
    frames: int
    fps: float
    things: tuple[Thing, ...]
    card: Card | None
    backdrops: tuple[Backdrop, ...]
    noise: float
    seed: int

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    def layout(self) -> tuple:
        """What distinguishes one scene from another, up to noise: the key that the splits are made from."""
        if self.kind == "image":
            return tuple(sorted((t.shape, t.colour, t.cell) for t in self.things))
        return tuple((t.shape, t.colour, t.motion) for t in self.things)

    def split(self) -> str:
        return SPLIT_OF_LAYOUT[zlib.crc32(repr(self.layout()).encode()) % len(SPLIT_OF_LAYOUT)]


def sample_scene(split: str, index: int, width: int, height: int, frames: int = 1, fps: float = 1.0) -> Scene:
    """Scene number ``index`` of a split.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``; no layout is in two of them.
        index: any number from 0.
        width, height: pixels of a frame, multiples of 28, at least 168.
        frames: 1 for an image; an even number for a video.
        fps: frames a second of the video.

    Raises:
        ValueError: an unknown split or a size that the world cannot draw.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}.")
    if min(width, height) < 168 or width % 28 or height % 28:
        raise ValueError(f"a frame must be at least 168x168 in multiples of 28, got {width}x{height}.")
    if frames != 1 and frames % 2:
        raise ValueError(f"a video needs an even number of frames, got {frames}.")
    rng = np.random.default_rng([SPLITS.index(split), index, width, height, frames])
    while True:
        scene = _image(rng, width, height) if frames == 1 else _video(rng, width, height, frames, fps)
        if scene.split() == split:
            return scene


def _kinds(rng, count: int, unique: bool) -> list[tuple[int, int]]:
    """(shape, colour) of each thing: no two alike; with ``unique`` no two share a shape or a colour."""
    if unique:
        shapes, colours = rng.permutation(len(SHAPES))[:count], rng.permutation(len(COLOURS))[:count]
        return [(int(s), int(c)) for s, c in zip(shapes, colours, strict=True)]
    pairs = rng.permutation(len(SHAPES) * len(COLOURS))[:count]
    return [(int(p) // len(COLOURS), int(p) % len(COLOURS)) for p in pairs]


def _in_cell(rng, cell: int, width: int, height: int) -> tuple[float, float]:
    column, row = cell % 3, cell // 3
    jitter = rng.uniform(-0.12, 0.12, 2)
    return (column + 0.5 + jitter[0]) * width / 3, (row + 0.5 + jitter[1]) * height / 3


def _text(rng) -> str:
    return str(rng.integers(0, 100)) if rng.random() < 0.6 else str(rng.choice(WORDS))


def _backdrop(rng, start: float, width: int, height: int) -> Backdrop:
    grey, tilt = rng.uniform(25, 135, 2), rng.uniform(-18, 18, (2, 3))
    top, bottom = (np.clip(grey[i] + tilt[i], 0, 160) for i in range(2))
    clutter = tuple(
        (
            "dash" if rng.random() < 0.5 else "dot",
            float(rng.uniform(0, width)), float(rng.uniform(0, height)), float(rng.uniform(2, 7)),
            float(np.clip(grey.mean() + rng.uniform(-40, 40), 0, 175)),
        )
        for _ in range(rng.integers(0, 13))
    )  # fmt: skip
    return Backdrop(start, tuple(map(float, top)), tuple(map(float, bottom)), clutter)


def _image(rng, width: int, height: int) -> Scene:
    count = int(rng.choice([1, 2, 3, 4, 5], p=[0.2, 0.25, 0.25, 0.15, 0.15]))
    cells = [int(c) for c in rng.permutation(len(CELLS))]
    things = []
    for (shape, colour), cell in zip(_kinds(rng, count, rng.random() < 0.6), cells, strict=False):
        size = int(rng.integers(2))
        x, y = _in_cell(rng, cell, width, height)
        things.append(Thing(shape, colour, size, cell, STILL, x, y, float(rng.uniform(*RADII[size]))))
    card = None
    if rng.random() < 0.45:
        x, y = _in_cell(rng, cells[count], width, height)
        half = float(rng.uniform(14, 18)) * min(1.3, height / 168)
        card = Card(_text(rng), x, y, half * 1.55, half)
    return Scene(
        "image", width, height, 1, 1.0, tuple(things), card, (_backdrop(rng, 0.0, width, height),),
        float(rng.uniform(2, 9)), int(rng.integers(1 << 30)),
    )  # fmt: skip


def _video(rng, width: int, height: int, frames: int, fps: float) -> Scene:
    seconds = frames / fps
    count = int(rng.integers(1, min(MAX_EVENTS, max(1, frames // 4)) + 1))
    shares = rng.uniform(0.6, 1.4, count)
    cuts = np.concatenate([[0], np.cumsum(shares / shares.sum())]) * seconds
    # Every second scene or so has a new backdrop; the others only a new thing.
    backdrops = [_backdrop(rng, float(t), width, height) for t in cuts[:-1] if t == 0 or rng.random() < 0.5]
    things = []
    for (shape, colour), start, end in zip(_kinds(rng, count, True), cuts[:-1], cuts[1:], strict=True):
        size, motion = int(rng.integers(2)), int(rng.integers(len(MOTIONS)))
        cell = int(rng.integers(len(CELLS))) if motion == STILL else None
        x, y = (
            (rng.uniform(0.15, 0.85) * width, rng.uniform(0.15, 0.85) * height)
            if cell is None
            else _in_cell(rng, cell, width, height)
        )
        speed = 0.0 if motion == STILL else max(float(rng.uniform(*SPEED)), 30 / float(end - start))
        radius = float(rng.uniform(*RADII[size]))
        things.append(
            Thing(shape, colour, size, cell, motion, float(x), float(y), radius, speed, float(start), float(end))
        )
    card = None
    if rng.random() < 0.7:
        start = float(rng.uniform(0, max(seconds - CARD_SECONDS, 0)))
        half = float(rng.uniform(24, 30))
        card = Card(
            _text(rng), width * float(rng.uniform(0.4, 0.6)), height * float(rng.uniform(0.4, 0.6)),
            half * 1.6, half, start, start + max(CARD_SECONDS, 2 / fps),
        )  # fmt: skip
    return Scene(
        "video", width, height, frames, fps, tuple(things), card, tuple(backdrops),
        float(rng.uniform(2, 9)), int(rng.integers(1 << 30)),
    )  # fmt: skip
