"""One QwenVLInference asked many times: from threads, one after another, and for its statistics meanwhile."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from shared_demo import LAYERS, ROOT, SPARSE

from psa_paddle.integrations.language.attention import plug_of
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.utils.media import load_video

QUESTIONS = ("What is this?", "请描述这个视频", "How many circles are there, and which way do they move?")


@pytest.fixture(scope="module", params=["dense", "psa"])
def inference(request):
    settings = {"attention": "psa", "psa_config": SPARSE} if request.param == "psa" else {}
    return QwenVLInference("demo", dtype="float32", **settings)


@pytest.fixture(scope="module")
def requests():
    """Images of several sizes and a clip, each with a question."""
    picture = Image.open(ROOT / "demo" / "sample.jpg")
    images = [picture.resize((28 * n, 28 * (n + 2))) for n in (4, 7, 10)]
    clip = load_video(ROOT / "demo" / "sample.mp4", fps=0.2)
    return [
        lambda m: m.inference_image(images[0], QUESTIONS[0], 6),
        lambda m: m.inference_video(clip, QUESTIONS[1], 6),
        lambda m: m.inference_multi_image(images[1:], QUESTIONS[2], 6),
        lambda m: m.inference_image(images[2], QUESTIONS[1], 6),
    ]


class Lets:
    """A streamer that, at the first new token, gives others the time to run a whole request."""

    def __init__(self):
        self.tokens, self.others_may_run, self.others_are_done = 0, threading.Event(), threading.Event()

    def put(self, value):
        self.tokens += 1
        if self.tokens == 2:
            self.others_may_run.set()
            self.others_are_done.wait(2)

    def end(self):
        pass


def test_threads_get_the_answers_that_one_gets(inference):
    """Also where another thread asks something in the middle of an answer."""
    clip = load_video(ROOT / "demo" / "sample.mp4", fps=0.25)
    small = Image.open(ROOT / "demo" / "sample.jpg").resize((56, 56))
    long = lambda streamer=None: inference.inference_video(clip, QUESTIONS[1], 40, streamer=streamer)  # noqa: E731
    short = lambda: inference.inference_image(small, QUESTIONS[0], 3)  # noqa: E731
    want, lets = (long(), short()), Lets()

    def ask_in_the_middle():
        lets.others_may_run.wait(60)
        answer = short()
        lets.others_are_done.set()
        return answer

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(long, lets), pool.submit(ask_in_the_middle)
        assert (first.result(timeout=120), second.result(timeout=120)) == want
    assert inference.stats()["vision_tokens"] == 4, "the request that ended last"


def test_records_are_of_one_request(inference, requests):
    plug = plug_of(inference.model)
    lengths = []
    for ask in requests:
        ask(inference)
        s = inference.stats()
        lengths.append(s["sequence_length"])
        assert s["sequence_length"] == s["vision_tokens"] + s["text_tokens"] and 1 <= s["new_tokens"] <= 6
        if plug is not None:
            assert [layer for layer, _ in plug.calls] == list(range(LAYERS))
            assert all(call.lengths == ((lengths[-1],) * 2,) for _, call in plug.calls)
            assert plug.decode_calls == LAYERS * (s["new_tokens"] - 1)
            assert [row["calls"] for row in s["layers"]] == [1] * LAYERS
    assert len(set(lengths)) == len(requests)


def test_a_request_that_fails_lets_the_next_one_in(inference, requests):
    class Stop:
        def put(self, value):
            raise KeyboardInterrupt

        def end(self):
            pass

    want = requests[0](inference)
    with pytest.raises(KeyboardInterrupt):
        inference.inference_image(Image.new("RGB", (112, 112)), QUESTIONS[0], 4, streamer=Stop())
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(requests[0], inference).result(timeout=60) == want
    assert "prepare_inputs_for_generation" not in inference.model.__dict__ or plug_of(inference.model) is not None


def test_statistics_may_be_asked_for_by_a_streamer(inference):
    class Asks:
        def __init__(self):
            self.seen = []

        def put(self, value):
            self.seen.append(inference.stats()["sequence_length"])

        def end(self):
            pass

    asks = Asks()
    inference.inference_image(np.zeros((112, 112, 3), np.uint8), QUESTIONS[0], 2, streamer=asks)
    assert len(asks.seen) == 3
