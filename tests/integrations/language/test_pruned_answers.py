"""Answers with fewer video tokens: those of ``generate``, also in conversations, chunks and batches."""

from dataclasses import replace

import numpy as np
import paddle
import pytest
from PIL import Image
from shared_demo import ROOT

from psa_paddle.integrations.language.answering.prompt import Prompt
from psa_paddle.integrations.language.generation import cached_generation
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.integrations.language.paddleformers.pruner import video_tokens_in
from psa_paddle.integrations.language.samples import video_inputs
from psa_paddle.utils.media import Clip, load_video

QUESTION, PLACES = "Describe this video.", 30


@pytest.fixture(scope="module")
def model():
    return QwenVLInference("demo", video_tokens=0.5)


@pytest.fixture(scope="module")
def plain():
    return QwenVLInference("demo")


@pytest.fixture(scope="module")
def clip():
    return load_video(ROOT / "demo" / "sample.mp4", fps=0.5, max_pixels=168 * 168)


def shown(clip, words=QUESTION):
    return [{"type": "video", "video": clip}, {"type": "text", "text": words}]


def half(clip) -> Clip:
    return Clip(clip.frames[4:12], clip.fps)


def test_an_answer_is_what_generate_gives(model, clip):
    answer = model.inference_video(clip, QUESTION, 12)
    inputs = video_inputs(model.processor, clip, QUESTION, model.family)
    ends = model.processor.tokenizer.convert_tokens_to_ids(["<|im_end|>"])
    with paddle.no_grad(), cached_generation(model.model):
        ids, _ = model.model.generate(
            **inputs, max_new_tokens=12, decode_strategy="greedy_search", eos_token_id=ends, pad_token_id=0
        )
    assert model.processor.tokenizer.decode(ids[0].tolist(), skip_special_tokens=True).strip() == answer


def test_the_summary_is_of_the_last_answer(model, clip):
    model.inference_video(clip, QUESTION, 1)
    model.inference_video(half(clip), QUESTION, 1)
    s, video = model.stats(), model.stats()["video_tokens"]
    assert video["setting"] == 0.5 and video["tokens"] == s["vision_tokens"] == 2 * video["dropped"] == 4 * PLACES
    assert s["prefill_tokens"] == s["sequence_length"] - video["dropped"]
    (seen,) = video["clips"]
    assert len(seen["dropped_of_frames"]) == 4 and seen["tokens_of_a_frame"] == PLACES


def test_a_conversation_answers_as_one_prompt(model, clip):
    session = model.session()
    said = [{"role": "user", "content": shown(clip)}]
    for content in ([{"type": "text", "text": "How many objects appear?"}], shown(half(clip), "And here?")):
        answered = session.chat(said[-1:], 40)
        said += [{"role": "assistant", "content": [{"type": "text", "text": answered}]}]
        said += [{"role": "user", "content": content}]
    last, whole = session.chat(said[-1:], 12), model.session()
    assert len(session.ids) - 1 - session._cache.get_seq_length() == (7 + 4) * PLACES // 2
    assert (whole.chat(said, 12), whole.ids) == (last, session.ids)


def test_a_turn_that_fails_is_forgotten(model, clip):
    class Stop:
        def put(self, value):
            raise KeyboardInterrupt

        def end(self): ...

    session, untouched = model.session(), model.session()
    for one in (session, untouched):
        one.ask(shown(clip), 12)
    with pytest.raises(KeyboardInterrupt):
        session.ask(shown(half(clip)), 12, streamer=Stop())
    again = [{"type": "text", "text": "How many objects appear?"}]
    assert session.ask(again, 12) == untouched.ask(again, 12) and session.ids == untouched.ids


def test_chunks_are_one_call(model, clip):
    want = model.inference_video(clip, QUESTION, 12)
    dropped = model.stats()["video_tokens"]
    model.prefill_chunk = 128
    try:
        assert model.inference_video(clip, QUESTION, 12) == want and model.stats()["video_tokens"] == dropped
    finally:
        model.prefill_chunk = None


def test_a_batch_that_lost_tokens_is_padded_anew():
    """Columns and the mask, of samples that keep different numbers of tokens; without a mask, and with padding."""
    rows = paddle.arange(12).reshape([2, 6])
    whole = Prompt(rows.unsqueeze(-1), rows.expand([3, 2, 6]), rows[:, :1], None, [1, 1])
    stay = np.array([[1, 0, 0, 1, 0, 1], [1, 1, 0, 1, 1, 1]], bool)
    short = whole.shorter(stay)
    assert short.mask.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert short.embeds.numpy()[0, 2:, 0].tolist() == [0, 3, 5] and short.embeds.numpy()[1, :, 0].tolist() == [
        6, 7, 9, 10, 11,
    ]  # fmt: skip
    assert (short.positions.numpy() == short.embeds.numpy()[None, :, :, 0]).all()
    padded = replace(whole, mask=np.array([[1] * 6, [0, 0, 1, 1, 1, 1]])).shorter(stay)
    assert padded.mask is None and padded.embeds.numpy()[..., 0].tolist() == [[0, 3, 5], [9, 10, 11]]
    assert whole.shorter(np.ones((2, 6), bool)) is whole


def test_a_batch_answers_as_its_prompts_alone(model, clip):
    picture = {"type": "image", "image": Image.open(ROOT / "demo" / "sample.jpg").resize((168, 168))}
    asked = [shown(clip), shown(half(clip), "How many objects appear?"), [picture, *shown(half(clip))]]
    conversations = [[{"role": "user", "content": content}] for content in asked]
    together = model.inference_batch(conversations, 12)
    tokens = model.stats()["video_tokens"]["tokens"]
    assert tokens == (7 + 4 + 4) * PLACES and together == [model.chat(one, 12) for one in conversations]


def test_all_tokens_are_the_answer_of_all_tokens(model, plain, clip):
    """Token for token."""
    with video_tokens_in(model, 1.0):
        session = model.session()
        answer = session.ask(shown(clip), 20)
        assert model.stats()["video_tokens"]["dropped"] == 0
    whole = plain.session()
    assert (whole.ask(shown(clip), 20), whole.ids) == (answer, session.ids)


def test_of_a_still_clip_most_is_dropped_and_what_is_in_it_is_seen(model, plain):
    still = np.repeat(np.asarray(Image.open(ROOT / "demo" / "sample.jpg").resize((168, 168)))[None], 20, 0)
    asked = {"What colour is the star?": "green", "What colour is the diamond?": "white"}
    with video_tokens_in(model, "auto"):
        for question, colour in asked.items():
            assert plain.inference_video(Clip(still, 2.0), question, 12) == colour
            assert model.inference_video(Clip(still, 2.0), question, 12) == colour
        (seen,) = model.stats()["video_tokens"]["clips"]
    assert seen["tokens_of_a_frame"] == 36 and seen["dropped_of_frames"][0] == 0
    assert min(seen["dropped_of_frames"][1:]) >= 36 / 2
