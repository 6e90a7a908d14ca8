"""The pictures of a report, drawn with Pillow: bare, for a page that writes beside them, and with their labels."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .capture import CELLS, WAYS, LevelMap, Recorder

# Darker is more work; means, whose work is next to nothing, have their own hue; nothing is drawn over invalid pairs.
COLOURS = {"1": "#0b3c6f", "2": "#2171b5", "4": "#6baed6", "8": "#b5d4ea", "means": "#f2c14e", "skipped": "#ececec"}
PAPER, INK, LEAST, MOST = "#ffffff", "#222222", "#f1f5f9", "#0f766e"
EDGE, GAP, LINE = 512, 12, 22  # pixels of a labelled figure: the picture's longer side, margins, a line of text


def rgb(colour: str) -> np.ndarray:
    """``"#rrggbb"`` as float64 [3]."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float64)


def shades(values) -> np.ndarray:
    """Colours of numbers from 0 to 1, uint8 [..., 3]."""
    part = np.clip(np.asarray(values, np.float64), 0.0, 1.0)[..., None]
    return np.round(rgb(LEAST) + (rgb(MOST) - rgb(LEAST)) * part).astype(np.uint8)


def level_image(maps: Sequence[LevelMap]) -> Image.Image:
    """The calls of one layer, top to bottom, in one picture, queries down and keys across, at most ``CELLS`` a side: a
    cell mixes the colours of what its pairs of blocks did, all heads together."""
    if not maps:
        raise ValueError("there is no level map; the layer ran dense, takes TriangleMix, or was not recorded.")
    keys = max(one.lengths[1] for one in maps)
    side = min(CELLS, max(one.cells.shape[2] for one in maps))
    picture = Image.new("RGB", (side, side), PAPER)
    for one in maps:
        lq, lk = one.lengths
        top, bottom = (lk - lq) * side // keys, -(-lk * side // keys)
        mixed = np.tensordot(one.cells, np.array([rgb(COLOURS[way]) for way in WAYS]), ([0], [0]))
        mixed += (1.0 - one.cells.sum(0))[..., None] * rgb(PAPER)
        band = Image.fromarray(np.round(np.clip(mixed, 0, 255)).astype(np.uint8))
        picture.paste(band.resize((-(-lk * side // keys), bottom - top), Image.Resampling.BOX), (0, top))
    return picture


def heads_image(heads: dict[int, list[float]]) -> Image.Image:
    """Share of the work not done: a pixel a head, a row a layer, from the least to the most (``heads_range``)."""
    least, most = heads_range(heads)
    return Image.fromarray(shades((np.array(list(heads.values())) - least) / max(most - least, 1e-9)))


def heads_range(heads: dict[int, list[float]]) -> tuple[float, float]:
    """The least and the most of a head."""
    every = [share for layer in heads.values() for share in layer]
    return min(every), max(every)


def mass_image(mass: np.ndarray) -> Image.Image:
    """Shares of attention [layers, frames]: a pixel each, the largest of all darkest."""
    return Image.fromarray(shades(mass / max(float(mass.max()), 1e-30)))


def labelled(
    picture: Image.Image, title: str, down: str, across: str, legend: Sequence[tuple[str, str]]
) -> Image.Image:
    """A picture enlarged, with a title, what its axes are, and a legend of (colour, words)."""
    scale = max(1, EDGE // max(picture.size))
    size = picture.width * scale, picture.height * scale
    font = ImageFont.load_default(14)
    texts = [title, f"down: {down}", f"across: {across}"]
    width = max(size[0], *(round(font.getlength(text)) for text in texts)) + 2 * GAP
    lines: list[list[tuple[str, str, float]]] = [[]]
    place = float(GAP)
    for colour, words in legend:
        step = font.getlength(words) + 34
        if place + step > width and lines[-1]:
            lines.append([])
            place = float(GAP)
        lines[-1].append((colour, words, place))
        place += step
    top = GAP + LINE
    below = top + size[1] + GAP
    sheet = Image.new("RGB", (width, below + LINE * (2 + len(lines)) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP - 2), title, INK, font=font)
    sheet.paste(picture.resize(size, Image.Resampling.NEAREST), (GAP, top))
    for row, text in enumerate(texts[1:]):
        draw.text((GAP, below + LINE * row), text, INK, font=font)
    for row, line in enumerate(lines, 2):
        for colour, words, x in line:
            y = below + LINE * row
            draw.rectangle((x, y + 2, x + 13, y + 15), fill=colour, outline=INK)
            draw.text((x + 19, y), words, INK, font=font)
    return sheet


def data_uri(picture: Image.Image, kind: str = "PNG", **how) -> str:
    """The picture as a ``data:`` address."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def figure(record: Recorder, what: str, layer: int | None = None, frames: int | None = None) -> Image.Image:
    """A picture of a recorded request, to be saved as PNG.

    Args:
        record: what ``recording`` gave.
        what: ``"levels"`` of a layer, which key blocks each query block kept and how; ``"heads"``, the sparsity of each
            layer and head; ``"frames"``, how much of the question's attention falls on each frame, layer by layer.
        layer: for ``"levels"``: one of ``record.layers``.
        frames: for ``"frames"``: how many pairs of frames the clip has, or how many pictures there were.

    Raises:
        ValueError: another picture, a layer or a number of frames that was not recorded.
    """
    if what == "levels":
        found = record.maps.get(-1 if layer is None else layer, [])
        image, legend = level_image(found), [(COLOURS[way], way) for way in WAYS]
        return labelled(image, f"Layer {layer}: levels of the key blocks", "query blocks", "key blocks", legend)
    if what == "heads":
        heads = record.heads()
        legend = [(c, f"{share:.1%}") for c, share in zip((LEAST, MOST), heads_range(heads), strict=True)]
        return labelled(heads_image(heads), "Attention work skipped", "layers", "heads", legend)
    if what != "frames":
        raise ValueError(f"a figure is 'levels', 'heads' or 'frames', got {what!r}.")
    if frames is None:
        raise ValueError("'frames' needs frames=, how many pairs of frames the clip has or pictures there were.")
    mass = record.mass_of_frames(frames)
    if mass is None:
        raise ValueError(f"the recorded prompt has not {frames} pairs of frames or pictures; give their number.")
    legend = [(LEAST, "nothing"), (MOST, f"{mass.max():.1%} of the question's attention")]
    return labelled(mass_image(mass), "Where the question looks", "layers", "pairs of frames, or pictures", legend)
