"""The atlas of everything that can be drawn: shapes, a card, clutter, digits and letters, as masks."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .vocabulary import SHAPES

SIDE = 64  # pixels of a mask; the outermost stay empty, so that whatever lies outside a glyph reads as empty
FINER = 4  # drawn larger by this, then averaged: smooth edges
DIGITS, LETTERS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NAMES = (*(english for english, _ in SHAPES), "card", "dash", "dot", *DIGITS, *LETTERS)
INDEX = {name: i for i, name in enumerate(NAMES)}


def _star() -> list:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, 0.42, 1.0)
    return list(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True))


def _heart() -> list:
    t = np.linspace(0, 2 * np.pi, 80)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return list(zip(x / 17, (y + 2) / 16, strict=True))


# Corners in [-1, 1], y down; a circle or a ring is drawn by its own rule.
POLYGONS = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0, -0.95), (0.98, 0.85), (-0.98, 0.85)],
    "star": _star(),
    "cross": [(a * x, b * y) for a, b, corners in (
        (1, -1, ((-.33, 1), (.33, 1), (.33, .33))), (1, -1, ((1, .33), (1, -.33), (.33, -.33))),
        (1, -1, ((.33, -1), (-.33, -1), (-.33, -.33))), (1, -1, ((-1, -.33), (-1, .33), (-.33, .33))),
    ) for x, y in corners],
    "heart": _heart(),
    "diamond": [(0, -1), (0.75, 0), (0, 1), (-0.75, 0)],
    "card": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "dash": [(-1, -0.15), (1, -0.15), (1, 0.15), (-1, 0.15)],
}  # fmt: skip


def _draw(name: str) -> Image.Image:
    side = SIDE * FINER
    inner = (SIDE - 2) * FINER / 2
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    if name in ("circle", "ring", "dot"):
        box = (side / 2 - inner, side / 2 - inner, side / 2 + inner, side / 2 + inner)
        draw.ellipse(box, fill=255)
        if name == "ring":
            hole = inner * 0.58
            draw.ellipse((side / 2 - hole, side / 2 - hole, side / 2 + hole, side / 2 + hole), fill=0)
    elif name in POLYGONS:
        draw.polygon([(side / 2 + x * inner, side / 2 + y * inner) for x, y in POLYGONS[name]], fill=255)
    else:
        text = Image.new("L", (2 * side, 2 * side))
        font = ImageFont.load_default(size=side)
        ImageDraw.Draw(text).text((side, side), name, fill=255, font=font, anchor="mm")
        around = text.getbbox()
        margin = FINER
        image.paste(text.crop(around).resize((side - 2 * margin, side - 2 * margin)), (margin, margin))
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


@cache
def atlas() -> np.ndarray:
    """Masks float32 [glyphs, SIDE, SIDE] in [0, 1], empty at the border."""
    masks = np.stack([np.asarray(_draw(name), dtype=np.float32) / 255 for name in NAMES])
    masks[:, [0, -1]] = 0
    masks[:, :, [0, -1]] = 0
    return masks
