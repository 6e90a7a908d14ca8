"""Damaged bytes of every format: a picture or clip, or one sentence, and never another error."""

import io
import random

import numpy as np
import pytest
from PIL import Image
from shared_media import picture, write_animation, write_clip

from psa_paddle.utils.media import MediaError, load_image, load_video

TRIES = 60
PICTURES = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "TGA", "JPEG2000", "AVIF")
CLIPS = {
    "a.mp4": {"codec": "mpeg4"}, "a.mkv": {"codec": "mpeg4"}, "a.ts": {}, "a.avi": {"codec": "mpeg4"},
    "a.flv": {"codec": "flv"}, "a.h264": {"form": "h264"}, "a.asf": {"codec": "wmv2"}, "a.webm": {"codec": "libvpx"},
}  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, lost or added, more of them near the start."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 2, 4, 16])):
        at = rng.randrange(len(data) if rng.random() < 0.6 else min(len(data), 64))
        how = rng.random()
        if how < 0.7:
            data[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        elif how < 0.85:
            del data[at : min(at + rng.randrange(1, 20), len(data) - 1)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
    return bytes(data)


def outcomes(load, data: bytes, path) -> set[str]:
    """What became of ``TRIES`` damaged copies."""
    rng, seen = random.Random(0), set()
    for _ in range(TRIES):
        path.write_bytes(damaged(data, rng))
        try:
            load(path)
            seen.add("read")
        except MediaError as refusal:
            assert "\n" not in str(refusal) and len(str(refusal)) < 400
            seen.add("refused")
    return seen


@pytest.mark.parametrize("form", PICTURES)
def test_pictures(form, tmp_path):
    stream = io.BytesIO()
    picture().save(stream, form)
    assert outcomes(load_image, stream.getvalue(), tmp_path / "a") >= {"refused"}


def test_real_numbers(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 4000, dtype=np.float32).reshape(50, 80)).save(stream, "TIFF")
    assert outcomes(load_image, stream.getvalue(), tmp_path / "a") >= {"refused"}


@pytest.mark.parametrize("name", CLIPS)
def test_clips(name, tmp_path, capfd):
    data = write_clip(tmp_path / name, times=np.arange(12) / 4, **CLIPS[name]).read_bytes()
    assert "read" in outcomes(load_video, data, tmp_path / "b")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animations(name, tmp_path):
    data = write_animation(tmp_path / name, [500] * 3).read_bytes()
    assert outcomes(load_video, data, tmp_path / "b") >= {"refused"}
