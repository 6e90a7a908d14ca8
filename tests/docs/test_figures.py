"""The pictures of docs/how.md are what a run of the bundled model gives."""

import base64
import io
import re
from pathlib import Path

import draw_psa
import numpy as np
import pytest
from PIL import Image

IMAGES = Path(__file__).resolve().parents[2] / "docs/images"
NAMES = [f"{name}{suffix}" for name in draw_psa.DRAWINGS for suffix in draw_psa.WORDS]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A folder with the pictures, made anew."""
    folder = tmp_path_factory.mktemp("images")
    draw_psa.draw(folder)
    return folder


def pixels_of(svg: str) -> list[np.ndarray]:
    found = re.findall(r'href="data:image/png;base64,([^"]+)"', svg)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), int) for data in found]


def words_of(svg: str) -> list[str]:
    return re.findall(r">([^<]+)</text>", svg)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_that_of_a_run(drawn, name):
    """Another processor may round a block to the other side of a bound: so much may differ."""
    now, kept = ((folder / f"{name}.svg").read_text(encoding="utf-8") for folder in (drawn, IMAGES))
    assert len(pixels_of(now)) == len(pixels_of(kept)) >= 2
    for a, b in zip(pixels_of(now), pixels_of(kept), strict=True):
        assert a.shape == b.shape and (np.abs(a - b).max(-1) > 8).mean() < 0.01, "run python docs/draw_psa.py"
    for a, b in zip(words_of(now), words_of(kept), strict=True):
        assert re.sub(r"\d+", "", a) == re.sub(r"\d+", "", b)
        assert np.abs(np.subtract(*(list(map(int, re.findall(r"\d+", x))) for x in (a, b)))).max(initial=0) <= 1


def test_the_picture_of_the_steps_says_what_its_maps_show(drawn):
    svg = (drawn / "steps.svg").read_text(encoding="utf-8")
    estimate, levels, exact = pixels_of(svg)
    valid = (exact != 255).any(-1)
    kept = (levels == draw_psa.rgb(draw_psa.LEVEL_COLOURS[1])).all(-1)
    assert valid[-1].all() and not valid[0, 2:].any() and not (kept & ~valid).any() and kept[-1].all()
    assert f"{kept.sum() / valid.sum():.0%} of the pairs of blocks are kept" in svg
    assert ((estimate != 255).any(-1) == valid).all()


def test_words_of_both_languages_have_the_same_places():
    english, chinese = (draw_psa.WORDS[suffix] for suffix in ("", "_zh"))
    assert english.keys() == chinese.keys()
    for name, words in english.items():
        if isinstance(words, str):
            assert re.findall(r"\{[^}]*\}", words) == re.findall(r"\{[^}]*\}", chinese[name]), name
