"""What reaches the model of pictures and clips of known content: colours, sizes, times; and what it answers."""

import numpy as np
import paddle
import pytest
from PIL import Image
from shared_answers import Handed
from shared_demo import CONFIG
from shared_media import QUARTERS, SECONDS, WHITE, assert_quarters, picture, quarters, write_clip
from world import ask, render, sample_scene

from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.utils.media import Clip, load_video

PATCH, PAIR, MERGE = 14, 2, 2
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
PER_SECOND = CONFIG["vision_config"]["tokens_per_second"]


@pytest.fixture(scope="module")
def model():
    return QwenVLInference("demo", dtype="float32")


@pytest.fixture
def handed(model):
    with Handed(model) as rows:
        yield rows


def pixels_of(patches, grid) -> np.ndarray:
    """The frames that portions of patches, [n, 3 * 2 * 14 * 14] each, were cut from, [T, H, W, 3] in 0-255."""
    t, h, w = (int(n) for n in grid)
    x = paddle.concat(patches).numpy().reshape(t, h // MERGE, w // MERGE, MERGE, MERGE, 3, PAIR, PATCH, PATCH)
    x = x.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5).reshape(t * PAIR, h * PATCH, w * PATCH, 3)
    return (x * STD + MEAN) * 255


def time_positions(model, request) -> np.ndarray:
    """The first of M-RoPE's three positions of each vision token, counted from the first one."""
    positions, _ = model.model.model.get_rope_index(**request.positions)
    ids = request.asked.ids[0]
    times = positions.numpy()[0, 0][ids == CONFIG["video_token_id"]]
    return times - times[0]


@pytest.mark.parametrize("fps,seconds_a_pair", [(1, 2.0), (2, 1.0), (0.7, 3.0)])
def test_clip(model, handed, tmp_path, fps, seconds_a_pair):
    """Six seconds: every pair of frames with its colours and at its time."""
    model.inference_video(write_clip(tmp_path / "a.mp4"), "What?", 1, fps=fps)
    (request,), times = handed, model.stats()["frame_times_s"]
    grid = request.asked.media[0].grid
    assert request.positions["second_per_grid_ts"].numpy().tolist() == [pytest.approx(seconds_a_pair)]
    assert len(times) == 2 * grid[0] and np.diff(times) == pytest.approx(seconds_a_pair / 2)
    frames = pixels_of(request.pixels, grid)
    assert frames.shape[1:] == (84, 112, 3)
    for frame, second in zip(frames, times, strict=True):
        middle = frame[40:44, 50:60].reshape(-1, 3).mean(0)
        assert np.abs(middle - SECONDS[int(second)]).max() < 6
        assert np.abs(frame[5:20, 5:20] - WHITE).max() < 6
    told = time_positions(model, request).reshape(grid[0], -1)
    assert (told == told[:, :1]).all() and told[:, 0].tolist() == [int(t * PER_SECOND) for t in times[::2]]


def test_uneven_clip(model, handed, tmp_path):
    """Frames at odd moments are told at the times at which they are seen."""
    path = write_clip(tmp_path / "a.mkv", times=[*np.arange(0, 2, 0.04), 2.0, 3.0, 4.0, 5.0])
    model.inference_video(path, "What?", 1, fps=1)
    (request,) = handed
    assert model.stats()["frame_times_s"] == pytest.approx(range(6), abs=0.01)
    frames = pixels_of(request.pixels, request.asked.media[0].grid)
    assert np.abs(frames[:, 42, 56] - np.array(SECONDS)).max() < 6
    assert sorted(set(time_positions(model, request))) == [0, 2 * PER_SECOND, 4 * PER_SECOND]


def test_clip_of_arrays(model, handed):
    model.inference_video(Clip(np.zeros((4, 28, 56, 3), np.uint8), 0.5), "What?", 1)
    assert handed[0].positions["second_per_grid_ts"].numpy().tolist() == [4.0]
    assert model.stats()["frame_times_s"] == [0, 2, 4, 6]
    model.inference_image(picture(), "What?", 1)
    assert "frame_times_s" not in model.stats()


def test_pictures(model, handed, tmp_path):
    """Each in its place, with its own colours and size."""
    picture().save(tmp_path / "a.png")
    gray = Image.fromarray(quarters((0, 21845, 43690, 65535), dtype=np.uint16))
    model.inference_multi_image([tmp_path / "a.png", gray.resize((112, 84), Image.Resampling.NEAREST)], "What?", 1)
    (request,) = handed
    grids = request.grids
    assert [(int(h) * PATCH, int(w) * PATCH) for _, h, w in grids] == [(56, 56), (84, 112)]
    assert_quarters(pixels_of(request.pixels[:1], grids[0])[0], QUARTERS, 8)
    assert_quarters(pixels_of(request.pixels[1:], grids[1])[0], [(v,) * 3 for v in (0, 85, 170, 255)], 8)


@pytest.mark.parametrize("index", [0, 1])
def test_what_appears_at_a_second_of_an_uneven_clip(model, index, tmp_path):
    """A clip of the demo's world with most of its frames in the first third, asked by the second."""
    scene, question = scene_with_question(index)
    times = np.array([*np.arange(0, 6, 0.125), *np.arange(6, 20, 1.0)])
    frames = render([scene], times=times)[0].transpose(0, 2, 3, 1)
    clip = load_video(write_clip(tmp_path / "a.mkv", times=times, frames=frames, options={"crf": "10"}), fps=1)
    assert clip.times == pytest.approx(range(20), abs=0.01)
    assert model.inference_video(clip, question.prompt, 16) == question.answer


def scene_with_question(number: int):
    """A scene of 20 s and a question about a second of its last half."""
    found = -1
    for index in range(1000):
        scene = sample_scene("test", index, 224, 168, frames=40, fps=2.0)
        for question in ask(scene, np.random.default_rng(0), 8, ("time",)):
            second = int("".join(c for c in question.prompt if c.isdigit()))
            if 10 <= second <= 18:
                found += 1
                if found == number:
                    return scene, question
                break
    raise AssertionError("no such scene")
