"""Several conversations at once: each gets the answer that it gets alone."""

import pytest
from PIL import Image
from shared_answers import Handed
from shared_demo import ROOT, SPARSE

from psa_paddle import AttentionConfig
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.utils.media import MediaError, load_video

SETTINGS = {
    "dense": {},
    "sparse": {"attention": "psa", "psa_config": SPARSE},
    "balanced in chunks": {"attention": "psa", "psa_config": AttentionConfig(dense_below=0), "prefill_chunk": 128},
}


@pytest.fixture(scope="module")
def conversations():
    """Media of different size, kind and number, and none."""
    picture, clip = Image.open(ROOT / "demo" / "sample.jpg"), load_video(ROOT / "demo" / "sample.mp4", fps=0.2)

    def user(*content):
        return {"role": "user", "content": [*content]}

    what = {"type": "text", "text": "What is this?"}
    image, video = {"type": "image", "image": picture}, {"type": "video", "video": clip}
    small = {"type": "image", "image": picture.resize((84, 56))}
    return [
        [user(image, what)],
        [user(video, {"type": "text", "text": "How many circles are there, and which way do they move?"})],
        [user(small, what), {"role": "assistant", "content": "A cross."}, user(image, what)],
        [user({"type": "text", "text": "Hello?"})],
    ]


@pytest.mark.parametrize("settings", SETTINGS)
def test_answers_are_those_of_each_alone(settings, conversations):
    model = QwenVLInference("demo", **SETTINGS[settings])
    want, lengths = [], []
    for one in conversations:
        want.append(model.chat(one, 6))
        lengths.append(model.stats()["sequence_length"])
    with Handed(model) as rows:
        assert model.inference_batch(conversations, 6) == want
    (given,) = rows
    stats = model.stats()
    assert stats["sequence_length"] == stats["prefill_tokens"] == sum(lengths) == given.asked.mask.sum()
    assert given.asked.ids.shape == (4, max(lengths)) and stats["vision_tokens"] == 48 + 3 * 108 + 6 + 48
    assert 6 < stats["new_tokens"] <= 24


def test_texts_of_several_lengths():
    model = QwenVLInference("demo")
    questions = [
        [{"role": "user", "content": words}] for words in ("Who?", "Which way do the two circles move, and why?")
    ]
    assert model.inference_batch(questions, 6) == [model.chat(one, 6) for one in questions]


def test_one_alone_and_equal_lengths_need_no_padding(conversations):
    model = QwenVLInference("demo")
    with Handed(model) as rows:
        one = model.inference_batch(conversations[:1], 4)
        assert model.inference_batch([conversations[0]] * 2, 4) == one * 2
    assert [given.asked.mask for given in rows] == [None, None]


def test_refuses_batches(conversations, tmp_path):
    model = QwenVLInference("demo")
    for wrong in ([], "What?", None):
        with pytest.raises(TypeError, match="conversations must be a list"):
            model.inference_batch(wrong)
    with pytest.raises(TypeError, match="messages must be a list"):
        model.inference_batch([[]])
    missing = [{"role": "user", "content": [{"type": "image", "image": tmp_path / "no.jpg"}]}]
    with pytest.raises(MediaError, match="does not exist"):
        model.inference_batch([conversations[0], missing])
    with pytest.raises(ValueError, match="exceeds the 128000 positions"):
        model.inference_batch(conversations, 128_000)
