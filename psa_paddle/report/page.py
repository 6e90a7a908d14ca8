"""One request as one page: a self-contained HTML file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image

from ..utils.files import check_file, write_text
from ..utils.language import say
from ..utils.media import Clip
from ..utils.media.sampling import FRAME_PAIR
from .capture import WAYS, LevelMap, Recorder
from .figures import COLOURS, LEAST, MOST, data_uri, heads_image, heads_range, level_image, mass_image
from .words import WORDS

TILES, TILE_EDGE = 60, 160  # most tiles of a film strip, and pixels of a tile's longer side


class Dense(NamedTuple):
    """What dense attention said to the same request, and its ``stats()``."""

    answer: str
    stats: dict


@dataclass(frozen=True)
class Report:
    """All that a page is made of.

    question, answer: text; shown: what was asked about, a ``Clip`` or pictures in order; stats: of
    ``QwenVLInference.stats()``; record: what ``recording`` gave, None for dense attention; dense: the same request
    with dense attention, if it was made.
    """

    question: str
    answer: str
    shown: Clip | Sequence[Image.Image]
    stats: dict
    record: Recorder | None = None
    dense: Dense | None = None

    def html(self, language: str = "en") -> str:
        """The page; language: ``"en"`` or ``"zh"``."""
        folder = Path(__file__).parent
        loader = jinja2.FileSystemLoader(folder)
        page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        return page.get_template("page.html").render(
            w=WORDS[language],
            say=partial(say, language=language),
            language={"en": "en", "zh": "zh-CN"}[language],
            question=self.question,
            answer=self.answer,
            s=self.stats,
            film=self._film(),
            heads=self._heads(),
            maps=self._maps(),
            without_map=sorted(set(self.record.layers) - set(self.record.maps)) if self.record else [],
            colours=COLOURS,
            least=LEAST,
            most=MOST,
            audited=[row for row in self.stats.get("layers", ()) if row["audit"]],
            recording_s=self.record.seconds if self.record else None,
            dense=self.dense,
            differences=differences(self.answer, self.dense.answer) if self.dense else [],
            own_peak=self.stats["device"].startswith("gpu"),
        )

    def write(self, path, language: str = "en") -> None:
        """Write the page, whole or not at all.

        Raises:
            ValueError: not a place for a file. OSError: it cannot be written.
        """
        write_text(check_file(path, "the report's file"), self.html(language))

    def _film(self) -> dict[str, Any]:
        """The tiles of the strip, and where the question looked."""
        tiles = list(_tiles(self.shown))
        is_clip, parts = isinstance(self.shown, Clip), sum(tile.parts for tile in tiles)
        mass = self.record.mass_of_frames(parts) if self.record else None
        film: dict[str, Any] = {"is_clip": is_clip, "largest": 0.0, "share": None, "by_layer": None}
        film["frames_a_tile"] = tiles[0].parts * FRAME_PAIR if is_clip else 1
        film["tiles"] = [{"uri": tile.uri, "label": tile.label, "mass": None} for tile in tiles]
        if mass is not None:
            ends = np.cumsum([tile.parts for tile in tiles])
            sums = np.add.reduceat(mass, np.concatenate([[0], ends[:-1]]), axis=1)
            for tile, share in zip(film["tiles"], sums.mean(0).tolist(), strict=True):
                tile["mass"] = share
            film.update(largest=float(sums.mean(0).max()), share=float(sums.mean(0).sum()))
            film["by_layer"] = {"uri": data_uri(mass_image(sums)), "layers": len(sums)}
        return film

    def _heads(self) -> dict[str, Any] | None:
        """The picture of layers and heads, and a row a layer."""
        if self.record is None:
            return None
        heads = self.record.heads()
        rows = [{**row, "heads": heads[row["layer"]]} for row in self.stats["layers"]]
        count = len(next(iter(heads.values())))
        return {"uri": data_uri(heads_image(heads)), "rows": rows, "count": count, "range": heads_range(heads)}

    def _maps(self) -> list[dict[str, Any]]:
        """A picture of each recorded layer, and how much of its pairs of blocks did what."""
        found = self.record.maps if self.record else {}
        return [
            {"layer": layer, "uri": data_uri(level_image(calls)), "shares": _shares(calls), "blocks": calls[0].blocks}
            for layer, calls in sorted(found.items())
        ]


class _Tile(NamedTuple):
    """uri: of the small picture; label: when it is seen, or its number; parts: how many pairs of frames it stands
    for."""

    uri: str
    label: str
    parts: int


def _tiles(shown: Clip | Sequence[Image.Image]):
    if not isinstance(shown, Clip):
        for number, image in enumerate(shown, 1):
            yield _Tile(_small(image.convert("RGB")), str(number), 1)
        return
    times, pairs = shown.times, len(shown.frames) // FRAME_PAIR
    step = -(-pairs // TILES)
    for pair in range(0, pairs, step):
        first, last = pair * FRAME_PAIR, min(pair + step, pairs) * FRAME_PAIR - 1
        label = f"{times[first]:.1f}–{times[last]:.1f} s"
        yield _Tile(_small(Image.fromarray(shown.frames[first])), label, min(step, pairs - pair))


def _small(image: Image.Image) -> str:
    image = image.copy()
    image.thumbnail((TILE_EDGE, TILE_EDGE))
    return data_uri(image, "JPEG", quality=70)


def _shares(calls: list[LevelMap]) -> list[tuple[str, float]]:
    """(way, share of the valid pairs of blocks) of a layer, those that occur."""
    mean = np.average([one.shares for one in calls], axis=0, weights=[one.pairs for one in calls]).tolist()
    return [(way, share) for way, share in zip(WAYS, mean, strict=True) if share > 0]


def differences(ours: str, theirs: str) -> list[tuple[str, str]]:
    """The two texts as pieces of (``"both"``, ``"ours"`` or ``"theirs"``, text): by words, Chinese by characters."""
    a, b = (re.findall(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+\s*|\s+", text) for text in (ours, theirs))
    pieces = []
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(("both", "".join(a[a0:a1])))
            continue
        pieces += [(name, "".join(part)) for name, part in (("ours", a[a0:a1]), ("theirs", b[b0:b1])) if part]
    return pieces
