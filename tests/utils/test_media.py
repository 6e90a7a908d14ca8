"""Images and videos: what is read, and what is refused with a sentence."""

from pathlib import Path

import numpy as np
import pytest
from shared_http import Stream, folder, serving

from psa_paddle.utils.media import MediaError, fit_frame, load_image, load_video, sample_indices

DEMO = Path(__file__).parents[2] / "demo"


@pytest.fixture(scope="module")
def server():
    """The demo folder over http on this machine."""
    with serving(folder(DEMO)) as address:
        yield address


def test_image_from_path_url_pil_and_array(server):
    image = load_image(DEMO / "sample.jpg")
    pixels = np.asarray(image)
    for source in (str(DEMO / "sample.jpg"), f"{server}/sample.jpg", image, pixels):
        assert np.array_equal(np.asarray(load_image(source)), pixels)
    assert load_image(pixels[..., 0]).mode == "RGB"


def test_video_from_path_and_url(server):
    clip = load_video(DEMO / "sample.mp4", fps=0.5, max_pixels=100_000)
    assert clip.frames.dtype == np.uint8 and clip.frames.shape == (14, 252, 336, 3)
    assert clip.fps == pytest.approx(14 / 30)
    assert np.array_equal(load_video(f"{server}/sample.mp4", fps=0.5, max_pixels=100_000).frames, clip.frames)
    assert len({frame.tobytes() for frame in clip.frames}) == 14


def test_video_limits():
    clip = load_video(DEMO / "sample.mp4", fps=8, max_pixels=28 * 28 * 12, max_frames=9)
    count, height, width, _ = clip.frames.shape
    assert count == 8 and height % 28 == 0 and width % 28 == 0 and height * width <= 28 * 28 * 12


def test_sample_indices_are_even_and_inside():
    assert sample_indices(240, 8.0, 1.0, 768) == [4 + 8 * i for i in range(30)]
    assert sample_indices(1, 25.0, 1.0, 768) == [0, 0]
    assert len(sample_indices(10_000, 25.0, 30.0, 100)) == 100


@pytest.mark.parametrize(
    "height,width,limit,fitted",
    [
        (252, 336, 151_200, (252, 336)),
        (1080, 1920, 151_200, (280, 504)),
        (30, 50, 151_200, (28, 56)),
        (1, 1, 784, (28, 28)),
        (42, 70, 151_200, (56, 56)),  # halves round to even, as in Qwen's processor
        (2666, 331, 2382, (84, 28)),
        (28, 5600, 7840, (28, 280)),
    ],
)
def test_frames_fit_their_limit(height, width, limit, fitted):
    assert fit_frame(height, width, limit) == fitted
    with pytest.raises(MediaError, match="too thin"):
        fit_frame(1, 201, limit)


def text_file(path: Path) -> Path:
    path.write_text("neither a picture nor a film")
    return path


def first_half(path: Path, of: str) -> Path:
    data = (DEMO / of).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def empty(path: Path) -> Path:
    path.touch()
    return path


REFUSED = {
    "missing image": (load_image, lambda d: d / "no.jpg", "does not exist"),
    "folder as image": (load_image, lambda d: d, "is a folder"),
    "empty image": (load_image, lambda d: empty(d / "a.jpg"), "is empty"),
    "text named .jpg": (load_image, lambda d: text_file(d / "a.jpg"), "not an image file"),
    "truncated image": (load_image, lambda d: first_half(d / "a.jpg", "sample.jpg"), "truncated"),
    "missing video": (load_video, lambda d: d / "no.mp4", "does not exist"),
    "folder as video": (load_video, lambda d: d, "is a folder"),
    "empty video": (load_video, lambda d: empty(d / "a.mp4"), "is empty"),
    "text named .mp4": (load_video, lambda d: text_file(d / "a.mp4"), "cannot be decoded"),
    "truncated video": (load_video, lambda d: first_half(d / "a.mp4", "sample.mp4"), "truncated"),
    "video without frames": (load_video, lambda d: DEMO.parent / "tests/golden/no_frames.mp4", "has no frames"),
    "ftp": (load_video, lambda d: "ftp://host/v.mp4", "not http or https"),
    "no answer": (load_image, lambda d: "http://127.0.0.1:9/x.jpg", "could not be downloaded"),
    "a number": (load_image, lambda d: 7, "must be a path"),
    "float array": (load_image, lambda d: np.zeros((4, 4, 3)), "must be uint8"),
    "flat array": (load_image, lambda d: np.zeros(4, np.uint8), "must be .H, W."),
}


@pytest.mark.parametrize("case", REFUSED, ids=list(REFUSED))
def test_refuses(case, tmp_path):
    load, make, words = REFUSED[case]
    with pytest.raises((MediaError, TypeError), match=words):
        load(make(tmp_path))


def test_url_that_is_not_there_or_too_large(server):
    with pytest.raises(MediaError, match="answered 404"):
        load_image(f"{server}/no.jpg")
    with pytest.raises(MediaError, match="larger than 0 MiB"):
        load_video(f"{server}/sample.mp4", max_bytes=1000)


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "not announced"])
def test_size_limit_holds_while_downloading(announced):
    """The limit does not rely on the server saying how much it sends."""
    with serving(type("Long", (Stream,), {"announced": announced})) as address:
        with pytest.raises(MediaError, match="larger than 2 MiB"):
            load_image(f"{address}/x.jpg", max_bytes=2 << 20)


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"fps": 0}, "fps must be a number above 0"),
        ({"fps": float("nan")}, "fps must be a number above 0"),
        ({"max_frames": 1}, "max_frames must be an integer of at least 2"),
        ({"max_pixels": 100}, "max_pixels must be an integer of at least 784"),
    ],
    ids=["fps 0", "fps nan", "one frame", "too few pixels"],
)
def test_refuses_sampling_settings(settings, words):
    with pytest.raises(MediaError, match=words):
        load_video(DEMO / "sample.mp4", **settings)
