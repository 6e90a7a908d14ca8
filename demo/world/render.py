"""Draw scenes: many at once, in NumPy or on a GPU with torch, with the same arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .glyphs import INDEX, SIDE, atlas
from .vocabulary import COLOURS, MOTIONS, SHAPES

NOISE_SIDE = 512  # pixels of the noise tile; every frame cuts its own window out of it
# A coloured light, grey levels from the left edge to the right one. Without it nothing tells columns apart: the vision
# tower sees differences of places only, and the width band of M-RoPE turns by 0.002 rad in 12 columns.
LAMP = (-140.0, 0.0, 140.0)
CARD_WHITE, CARD_BLACK = (248, 248, 248), (15, 15, 15)


@cache
def _noise_tile() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((NOISE_SIDE, NOISE_SIDE), dtype=np.float32)


@dataclass(frozen=True)
class Stamps:
    """One glyph for each of some frames: frame and glyph [N], place [N, 4] (x, y, half extents), colour [N, 3]."""

    frame: np.ndarray
    glyph: np.ndarray
    place: np.ndarray
    colour: np.ndarray

    @staticmethod
    def layers(sprites: list[list[tuple]]) -> list[Stamps]:
        """Every frame's list of (glyph, x, y, half width, half height, colour), lowest first, as layers."""
        layers = []
        for depth in range(max(map(len, sprites), default=0)):
            chosen = [i for i, stack in enumerate(sprites) if len(stack) > depth]
            rows = [sprites[i][depth] for i in chosen]
            layers.append(
                Stamps(
                    np.array(chosen, dtype=np.int64),
                    np.array([row[0] for row in rows], dtype=np.int32),
                    np.array([row[1:5] for row in rows], dtype=np.float32),
                    np.array([row[5] for row in rows], dtype=np.float32),
                )
            )
        return layers


@dataclass(frozen=True)
class Plan:
    """All that is needed to draw some scenes of one size: plain arrays, so that it can be made in another process.

    ends: [backdrops, 2, 3], the gradients' colours. backdrop: [F], the backdrop of each frame. offsets [F, 2] and
    strength [F]: the noise. shape: (scenes, frames of each, height, width).
    """

    shape: tuple
    ends: np.ndarray
    clutter: list[Stamps]
    backdrop: np.ndarray
    sprites: list[Stamps]
    offsets: np.ndarray
    strength: np.ndarray


class Canvas:
    """Frames float32 [F, 3, H, W] and the masks to stamp on them; ``device`` None means NumPy, else torch's."""

    def __init__(self, device):
        self.device = device
        self.masks = self.array(atlas().reshape(-1))

    def array(self, values):
        if self.device is None:
            return values
        import torch

        return torch.as_tensor(values, device=self.device)

    def integers(self, values):
        return values.astype(np.int32) if self.device is None else values.int()

    def _mask_index(self, pixels: int, centre, half):
        """Where each pixel of a row falls in a glyph's mask [F, pixels]; 0, which is empty, outside."""
        place = (self.array(np.arange(pixels, dtype=np.float32)) + 0.5 - centre[:, None]) / half[:, None]
        index = (place + 1) / 2 * SIDE
        return self.integers(index * ((index >= 0) & (index < SIDE)))

    def stamp(self, frames, stamps: Stamps) -> None:
        """Blend one glyph into each of the frames that ``stamps`` names, in place."""
        place, colour = self.array(stamps.place), self.array(stamps.colour)
        height, width = frames.shape[2:]
        across = self._mask_index(width, place[:, 0], place[:, 2])  # [F, W]
        down = self._mask_index(height, place[:, 1], place[:, 3]) * SIDE  # [F, H]
        down = down + self.array(stamps.glyph * SIDE * SIDE)[:, None]
        alpha = self.masks[down[:, :, None] + across[:, None, :]][:, None]
        if len(stamps.frame) == len(frames):
            frames += (colour[:, :, None, None] - frames) * alpha
        else:
            where = self.array(stamps.frame)
            part = frames[where]
            frames[where] = part + (colour[:, :, None, None] - part) * alpha

    def add_noise(self, frames, offsets, strength) -> None:
        """Add a window of the noise tile to each frame: offsets [F, 2] (y, x), strength [F] in grey levels."""
        height, width = frames.shape[2:]
        down = self.array((offsets[:, :1] + np.arange(height)) * NOISE_SIDE)
        across = self.array(offsets[:, 1:] + np.arange(width))
        tile = self.array(_noise_tile().reshape(-1))
        noise = tile[down[:, :, None] + across[:, None, :]]
        frames += (noise * self.array(strength)[:, None, None])[:, None]

    def to_bytes(self, frames):
        """uint8 [F, 3, H, W]."""
        if self.device is None:
            return (np.clip(frames, 0, 255) + 0.5).astype(np.uint8)
        import torch

        return frames.clamp_(0, 255).add_(0.5).to(torch.uint8)


def lamp(width: int) -> np.ndarray:
    """What the light adds to every column of a frame: float32 [3, width], grey levels."""
    return np.outer(LAMP, (np.arange(width) + 0.5) / width - 0.5).astype(np.float32)


def _thing_sprite(thing, seconds: float, width: int, height: int) -> tuple:
    dx, dy = MOTIONS[thing.motion][4]
    way = thing.speed * (seconds - thing.start)
    r = thing.radius
    # What leaves the frame on one side comes back on the other.
    x = (thing.x + dx * way + r) % (width + 2 * r) - r if dx else thing.x
    y = (thing.y + dy * way + r) % (height + 2 * r) - r if dy else thing.y
    return INDEX[SHAPES[thing.shape][0]], x, y, r, r, COLOURS[thing.colour][2]


def _card_sprites(card) -> list[tuple]:
    sprites = [(INDEX["card"], card.x, card.y, card.half_width, card.half_height, CARD_WHITE)]
    pitch = 2 * card.half_width / (len(card.text) + 0.6)
    half = (min(pitch * 0.42, card.half_height * 0.55), card.half_height * 0.72)
    for i, letter in enumerate(card.text):
        x = card.x + (i - (len(card.text) - 1) / 2) * pitch
        sprites.append((INDEX[letter], x, card.y, *half, CARD_BLACK))
    return sprites


def _frame_sprites(scene, seconds: float) -> list[tuple]:
    visible = [_thing_sprite(t, seconds, scene.width, scene.height) for t in scene.things if t.start <= seconds < t.end]
    if scene.card is not None and scene.card.start <= seconds < scene.card.end:
        visible += _card_sprites(scene.card)
    return visible


def plan(scenes, times=None) -> Plan:
    """Work out where everything goes; see ``render`` for the arguments."""
    first = scenes[0]
    if any((s.width, s.height, s.frames) != (first.width, first.height, first.frames) for s in scenes):
        raise ValueError("scenes that are drawn together need one size and one number of frames.")
    sprites, clutter, ends, backdrop, offsets, strength = [], [], [], [], [], []
    for scene in scenes:
        seconds = np.arange(scene.frames) / scene.fps if times is None else np.asarray(times)
        starts = [b.start for b in scene.backdrops]
        backdrop.append(len(ends) + np.searchsorted(starts, seconds, side="right") - 1)
        for b in scene.backdrops:
            ends.append((b.top, b.bottom))
            clutter.append([(INDEX[name], x, y, r, r, (grey,) * 3) for name, x, y, r, grey in b.clutter])
        sprites += [_frame_sprites(scene, float(t)) for t in seconds]
        rng = np.random.default_rng(scene.seed)
        room = (NOISE_SIDE - scene.height, NOISE_SIDE - scene.width)
        offsets.append(np.stack([rng.integers(0, n, len(seconds)) for n in room], 1))
        strength.append(np.full(len(seconds), scene.noise, np.float32))
    return Plan(
        (len(scenes), len(offsets[0]), first.height, first.width), np.array(ends, dtype=np.float32),
        Stamps.layers(clutter), np.concatenate(backdrop), Stamps.layers(sprites), np.concatenate(offsets),
        np.concatenate(strength),
    )  # fmt: skip


def draw(plan: Plan, device=None):
    """Draw a plan; see ``render`` for the rest."""
    canvas = Canvas(device)
    count, frames, height, width = plan.shape
    ramp = canvas.array(np.linspace(0, 1, height, dtype=np.float32))[None, None, :, None]
    ends = canvas.array(plan.ends)[..., None, None]
    columns = canvas.array(np.ones((1, 1, 1, width), np.float32))
    backdrops = (ends[:, 0] * (1 - ramp) + ends[:, 1] * ramp) * columns
    for layer in plan.clutter:
        canvas.stamp(backdrops, layer)
    drawn = backdrops[canvas.array(plan.backdrop)]
    for layer in plan.sprites:
        canvas.stamp(drawn, layer)
    drawn += canvas.array(lamp(width))[None, :, None, :]
    canvas.add_noise(drawn, plan.offsets, plan.strength)
    return canvas.to_bytes(drawn).reshape(count, frames, 3, height, width)


def render(scenes, device=None, times=None):
    """Draw scenes of one size and one number of frames.

    Args:
        scenes: a list of ``Scene``.
        device: None for NumPy; else a torch device.
        times: seconds [frames] to draw instead of each scene's own sampling, for a smoother film.

    Returns:
        uint8 [scenes, frames, 3, height, width].

    Raises:
        ValueError: scenes of different sizes.
    """
    return draw(plan(scenes, times), device)
