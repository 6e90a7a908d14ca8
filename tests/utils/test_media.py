"""Images and videos: what is read, and what is refused with a sentence."""

from pathlib import Path

import numpy as np
import pytest
from shared_http import folder, serving

from psa_paddle.utils.media import Clip, MediaError, fit_frame, load_image, load_video, sample_times
from psa_paddle.utils.media.sampling import frames_at

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


def test_moments_are_even_and_start_with_the_first_frame():
    film = [i / 8 for i in range(240)]
    assert sample_times(film, 30.0, 1.0, 768) == [float(i) for i in range(30)]
    assert sample_times([7.0], 7.04, 1.0, 768) == [0, pytest.approx(0.02)]
    assert len(sample_times([i / 25 for i in range(10_000)], 400.0, 30.0, 100)) == 100
    assert len(sample_times(film, 30.0, 100.0, 768)) == 240  # no more than there are
    assert len(sample_times(film[:239], 29.875, 100.0, 768)) == 240  # an even number, none left out
    assert len(sample_times([0, 10, 20], 30.0, 1.0, 768)) == 4
    assert len(sample_times([0, 0, 1, 2], 3.0, 100.0, 768)) == 4  # two frames at one moment


def test_a_moment_shows_the_frame_that_has_come_last():
    stamps = [5.0, 5.5, 6.0, 9.0]
    assert frames_at(stamps, [0, 0.49, 0.5, 1.0, 3.9, 4.0, 60]) == [0, 0, 1, 2, 2, 3, 3]
    assert frames_at([0, 0.1 + 0.2], [0.3]) == [1]  # rounding does not hold a frame back


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


def test_frames_for_vision_tokens_of_another_size():
    """As Qwen3-VL has them: 32 pixels a side."""
    clip = load_video(DEMO / "sample.mp4", 0.1, 32 * 32 * 12, factor=32)
    assert clip.factor == 32 and clip.frames.shape[1:3] == (96, 128)
    assert fit_frame(1, 1, 1024, factor=32) == (32, 32) and fit_frame(2666, 331, 3100, factor=32) == (96, 32)
    with pytest.raises(MediaError, match="at least 1024, got 1000"):
        load_video(DEMO / "sample.mp4", max_pixels=1000, factor=32)
    with pytest.raises(MediaError, match="multiples of 32"):
        Clip(FRAMES, 1.0, 32)


def test_video_without_frames():
    with pytest.raises(MediaError, match="has no frames"):
        load_video(DEMO.parent / "tests" / "golden" / "no_frames.mp4")


def test_url_that_is_not_there_or_too_large(server):
    with pytest.raises(MediaError, match="answered 404"):
        load_image(f"{server}/no.jpg")
    with pytest.raises(MediaError, match="larger than 0 MiB"):
        load_video(f"{server}/sample.mp4", max_bytes=1000)


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"fps": 0}, "fps must be a number above 0"),
        ({"fps": float("nan")}, "fps must be a number above 0"),
        ({"max_frames": 1}, "max_frames must be an integer of at least 2"),
        ({"max_pixels": 100}, "max_pixels must be an integer of at least 784"),
        ({"fps": True}, "fps must be a number above 0"),
        ({"fps": "1"}, "fps must be a number above 0"),
        ({"fps": 2000}, "at most 1000"),
        ({"max_pixels": 1e6}, "max_pixels must be an integer"),
    ],
    ids=str,
)
def test_refuses_sampling_settings(settings, words):
    with pytest.raises(MediaError, match=words):
        load_video(DEMO / "sample.mp4", **settings)


def test_numbers_of_numpy_are_numbers():
    clip = load_video(DEMO / "sample.mp4", np.float32(0.1), np.int64(28 * 28 * 12), np.int32(2))
    assert clip.frames.shape[0] == 2 and type(clip.fps) is float and [type(t) for t in clip.times] == [float] * 2


FRAMES = np.zeros((2, 28, 56, 3), np.uint8)


@pytest.mark.parametrize(
    "arguments,error,words",
    [
        ((FRAMES.astype(np.float32), 1.0), TypeError, "uint8 array"),
        (([FRAMES[0]] * 2, 1.0), TypeError, "uint8 array"),
        ((FRAMES[:1], 1.0), MediaError, "T even"),
        ((FRAMES[:, :27], 1.0), MediaError, "multiples of 28"),
        ((FRAMES[..., :2], 1.0), MediaError, "T, H, W, 3"),
        ((FRAMES[0], 1.0), MediaError, "T, H, W, 3"),
        ((FRAMES[:0], 1.0), MediaError, "T, H, W, 3"),
        ((FRAMES, 0), MediaError, "fps must be a number above 0"),
        ((FRAMES, float("inf")), MediaError, "fps must be a number above 0"),
        ((FRAMES, "2"), MediaError, "fps must be a number above 0"),
    ],
)
def test_refuses_clips(arguments, error, words):
    with pytest.raises(error, match=words):
        Clip(*arguments)


def test_times_of_a_clip_are_even():
    assert Clip(np.concatenate([FRAMES] * 2), 4).times == [0, 0.25, 0.5, 0.75]
