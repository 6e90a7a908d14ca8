"""Qwen's message format: what is taken, and what is refused before any file is read."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from shared_demo import ROOT

from psa_paddle.integrations.language.answering.messages import Looking, check_messages, read_message
from psa_paddle.utils.media import MediaError, load_video

IMAGE, VIDEO = ROOT / "demo" / "sample.jpg", ROOT / "demo" / "sample.mp4"


def read(*content, reports=None, **looking):
    report = (lambda *given: reports.append(given)) if reports is not None else (lambda *given: None)
    return read_message("user", list(content), Looking(**looking), report)


def test_images_from_every_place():
    data = base64.b64encode(IMAGE.read_bytes()).decode()
    want = np.asarray(Image.open(IMAGE))
    places = [IMAGE, str(IMAGE), f"file://{IMAGE}", f"data:image/jpeg;base64,{data}", Image.open(IMAGE), want]
    message = read(*({"type": "image", "image": place} for place in places))
    assert message.parts == [{"type": "image"}] * 6
    assert all(np.array_equal(np.asarray(picture), want) and limits == {} for picture, limits in message.shown)


def test_a_part_says_how_it_is_looked_at():
    reports = []
    message = read(
        {"type": "video", "video": f"file://{VIDEO}", "fps": 0.2, "max_pixels": 40_000},
        {"type": "text", "text": "and"},
        {"type": "video", "video": VIDEO, "max_frames": 2},
        {"type": "image", "image": IMAGE, "max_pixels": 5000},
        {"type": "image", "image": IMAGE},
        reports=reports, fps=0.3, image_pixels=9000,
    )  # fmt: skip
    (first, none), (second, _), (_, small), (_, usual) = message.shown
    assert first.frames.shape[0] == 6 and first.frames[0, :, :, 0].size <= 40_000 and none == {}
    assert second.frames.shape == (2, 252, 336, 3)
    assert small == {"images_kwargs": {"min_pixels": 784, "max_pixels": 5000}}
    assert usual == {"images_kwargs": {"min_pixels": 784, "max_pixels": 9000}}
    assert message.as_dict()["content"] == [{"type": "video"}, {"type": "text", "text": "and"}, *message.parts[2:]]
    assert [r for r in reports if r[1] == r[2]] == [("media", 6, 6), ("media", 2, 2), ("media", 1, 1), ("media", 1, 1)]
    clip = load_video(VIDEO, max_frames=2)
    assert read({"type": "video", "video": clip}).shown == [(clip, {})]


def test_pictures_for_a_model_of_text_alone():
    assert read({"type": "text", "text": "Hello"}, factor=None).shown == []
    with pytest.raises(ValueError, match="this model takes text alone"):
        read({"type": "image", "image": IMAGE}, factor=None)


TEXT = {"type": "text", "text": "What?"}
REFUSED = {
    "no list": ("What?", TypeError, "messages must be a list"),
    "nothing": ([], TypeError, "messages must be a list"),
    "no dict": ([5], TypeError, "message 0 must be a dict of role and content"),
    "another key": ([{"role": "user", "content": "a", "name": "b"}], TypeError, "message 0 must be a dict"),
    "an unknown role": ([{"role": "tool", "content": "a"}], ValueError, "message 0: role must be user or assistant"),
    "a late system": (
        [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], ValueError, "message 1: role must be",
    ),
    "the assistant last": ([{"role": "assistant", "content": "a"}], ValueError, "last message must be the user's"),
    "empty content": ([{"role": "user", "content": []}], TypeError, "content must be text or a list"),
    "no content": ([{"role": "user", "content": None}], TypeError, "content must be text or a list"),
    "an empty text": ([{"role": "user", "content": " "}], ValueError, "prompt is empty"),
    "an unknown type": ([{"role": "user", "content": [{"type": "audio", "audio": "a"}]}], TypeError, "a part of a"),
    "a part without its value": ([{"role": "user", "content": [{"type": "image"}]}], TypeError, "a part of a message"),
    "a part that is text": ([{"role": "user", "content": ["a"]}], TypeError, "a part of a message"),
    "a setting of another": (
        [{"role": "user", "content": [{"type": "image", "image": "a", "fps": 1}]}], ValueError,
        "image parts know image, max_pixels; got fps",
    ),
    "a special token": ([{"role": "user", "content": "<|im_end|>"}], ValueError, "special token"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_messages(case):
    messages, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        check_messages(messages)


@pytest.mark.parametrize("data", ["data:image/png;base64,!!", "data:image/png;base64,aGVsbG8=", "data:image/png,abc"])
def test_refuses_data_that_holds_no_picture(data):
    with pytest.raises(MediaError, match="does not hold a picture in base64"):
        read({"type": "image", "image": data})


def test_the_head_of_a_picture_in_data():
    file = io.BytesIO()
    Image.effect_noise((64, 48), 50).save(file, "PNG")
    half = base64.b64encode(file.getvalue()[:-900]).decode()
    with pytest.raises(MediaError, match="cannot be decoded"):
        read({"type": "image", "image": f"data:image/png;base64,{half}"})
