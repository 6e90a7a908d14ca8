"""Answers by ``generate``, as PaddleMIX's models give them: those that a model taken apart gives."""

from types import SimpleNamespace

import pytest
from shared_demo import ROOT

from psa_paddle.integrations.language import inference as module
from psa_paddle.integrations.language.answering.sampling import Sampling
from psa_paddle.integrations.language.attention import plug_of
from psa_paddle.integrations.language.inference import QwenVLInference

IMAGE, VIDEO = ROOT / "demo" / "sample.jpg", ROOT / "demo" / "sample.mp4"


class Listener:
    def __init__(self):
        self.heard, self.ends = [], 0

    def put(self, value):
        self.heard.append(value.numpy().reshape(-1).tolist())

    def end(self):
        self.ends += 1


def after_the_prompt(streamer):
    """PaddleMIX's ``generate`` does not hand the prompt to its streamer."""
    heard = []

    def put(value):
        heard.append(value)
        if len(heard) > 1:
            streamer.put(value)

    return SimpleNamespace(put=put, end=streamer.end)


@pytest.fixture(params=["dense", "psa"])
def pair(request, monkeypatch):
    """A model, and another that is asked as PaddleMIX's are."""
    taken, whole = (QwenVLInference("demo", attention=request.param) for _ in range(2))
    generate = whole.model.generate
    object.__setattr__(
        whole.model, "generate", lambda streamer, **given: generate(streamer=after_the_prompt(streamer), **given)
    )
    monkeypatch.setattr(module, "aligned_in", lambda *given: module.paddle.no_grad())
    whole.library = "paddlemix"
    return taken, whole


QUESTIONS = {
    "an image": lambda model, **how: model.inference_image(IMAGE, "What is this?", 6, max_pixels=20_000, **how),
    "images": lambda model, **how: model.inference_multi_image([IMAGE, IMAGE], "What differs?", 6, **how),
    "a video": lambda model, **how: model.inference_video(VIDEO, "Which way?", 6, fps=0.2, max_pixels=20_000, **how),
}
FIGURES = ("sequence_length", "vision_tokens", "text_tokens", "prefill_tokens", "new_tokens", "finish_reason")


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_and_figures(pair, question):
    listeners = Listener(), Listener()
    answers = [QUESTIONS[question](model, streamer=one) for model, one in zip(pair, listeners, strict=True)]
    assert answers[0] == answers[1] and listeners[0].heard == listeners[1].heard and listeners[1].ends == 1
    one, other = (model.stats() for model in pair)
    assert {name: one[name] for name in FIGURES} == {name: other[name] for name in FIGURES}
    assert one.get("frame_times_s") == other.get("frame_times_s") and ("frame_times_s" in one) == (
        question == "a video"
    )
    assert list(other["timings_s"]) == ["load", "media", "prefill", "decode"]
    assert other["ttft_s"] == other["timings_s"]["prefill"] and min(other["timings_s"].values()) > 0
    assert plug_of(pair[1].model) is None or len(plug_of(pair[1].model).calls) == other["layers_dense"]
    with pytest.raises(ValueError, match="exceeds the 128000 positions"):
        pair[1].inference_image(IMAGE, "What?", 128_000)


def test_what_needs_the_model_taken_apart_is_refused(pair):
    for ask in (lambda m: m.session(), lambda m: m.chat([{"role": "user", "content": "a"}])):
        with pytest.raises(ValueError, match="need library 'paddleformers'"):
            ask(pair[1])
    with pytest.raises(ValueError, match="need library 'paddleformers'"):
        pair[1].inference_batch([[{"role": "user", "content": "a"}]])


@pytest.mark.parametrize(
    "settings", [{"prefill_chunk": 128}, {"sampling": Sampling(seed=1)}, {"tensor_parallel": 2}], ids=str
)
def test_settings_that_paddlemix_has_not(settings, monkeypatch):
    monkeypatch.setattr(module, "check_library", lambda name: "paddlemix")
    monkeypatch.setattr(module, "check_ranks", lambda wanted: wanted or 1)
    monkeypatch.setattr(module, "load_qwen2_5_vl", lambda *given: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="prefill_chunk, sampling and tensor_parallel need library 'paddleformers'"):
        QwenVLInference("demo", **settings)
