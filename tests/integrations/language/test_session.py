"""Conversations that keep their KV cache: the tokens of one long prompt, at the price of the new ones."""

import json

import paddle
import pytest
from PIL import Image
from shared_answers import Handed
from shared_demo import LAYERS, ROOT, SPARSE

from psa_paddle import AttentionConfig
from psa_paddle.integrations.language.attention import plug_of, replace_attention, restore_attention
from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.utils.media import MediaError, load_video

IM_END = 1202
BALANCED = AttentionConfig(dense_below=0)
SETTINGS = {"dense": {}, "balanced": {"attention": "psa", "psa_config": BALANCED}}


@pytest.fixture(scope="module", params=SETTINGS)
def model(request):
    return QwenVLInference("demo", **SETTINGS[request.param])


@pytest.fixture(scope="module")
def dense():
    return QwenVLInference("demo")


@pytest.fixture(scope="module")
def clip():
    return load_video(ROOT / "demo" / "sample.mp4", fps=0.2)


@pytest.fixture(scope="module")
def picture():
    return Image.open(ROOT / "demo" / "sample.jpg")


def user(*content):
    return {"role": "user", "content": list(content)}


def text(words):
    return {"type": "text", "text": words}


def one_prompt(model, session):
    """The answer to the last question of a session, its tokens, and the first tokens, where all is asked at once."""
    said, shown = [dict(m) for m in session.messages[:-1]], iter(session.shown)
    for message in said:
        parts = message["content"]
        message["content"] = [p if p["type"] == "text" else {**p, p["type"]: next(shown)} for p in parts]
    whole = model.session()
    return whole.chat(said, 12), whole.ids


class Noting:
    """A session, and everything that it was shown."""

    def __init__(self, model):
        self.inner, self.shown = model.session(), []

    def ask(self, *content, max_tokens=60):
        self.shown += [part[part["type"]] for part in content if part["type"] != "text"]
        return self.inner.ask(list(content), max_tokens)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_the_second_turn_answers_as_one_long_prompt_and_prefills_its_own_tokens(model, clip):
    session = Noting(model)
    session.ask({"type": "video", "video": clip}, text("Describe this video."))
    first = len(session.ids)
    with Handed(model) as rows:
        answer = session.ask(text("How many circles are there?"), max_tokens=12)
    assert rows[0].pixels == [] and rows[0].grids == [], "the tower ran again"
    stats = model.stats()
    assert stats["sequence_length"] == len(session.ids) - stats["new_tokens"]
    assert stats["prefill_tokens"] == stats["sequence_length"] - (first - 1) < 30
    assert stats["vision_tokens"] == 3 * 9 * 12 and stats["frame_times_s"] == clip.times
    assert (answer, session.ids) == one_prompt(model, session)
    if plug_of(model.model) is not None:
        calls = [call for _, call in plug_of(model.model).calls]
        assert len(calls) == LAYERS, "they are of the last turn"


def test_media_in_any_order_and_in_later_turns(dense, clip, picture):
    session = Noting(dense)
    short = type(clip)(clip.frames[:4], clip.fps)
    session.ask(text("Look:"), {"type": "image", "image": picture}, {"type": "video", "video": short}, text("What?"))
    answer = session.ask({"type": "image", "image": picture.resize((112, 56))}, text("And this?"), max_tokens=12)
    assert (answer, session.ids) == one_prompt(dense, session)
    vision = [n for n in session.ids if n in (dense.model.config.image_token_id, dense.model.config.video_token_id)]
    image, video = dense.model.config.image_token_id, dense.model.config.video_token_id
    assert vision == [image] * 48 + [video] * 2 * 108 + [image] * 8
    third = session.ask({"type": "video", "video": clip}, text("Which way?"), max_tokens=12)
    assert dense.stats()["frame_times_s"] == [short.times, clip.times]
    assert (third, session.ids) == one_prompt(dense, session)


def test_an_answer_that_was_cut_off_is_closed(dense, picture):
    session = Noting(dense)
    cut = session.ask({"type": "image", "image": picture}, text("What is this?"), max_tokens=3)
    assert session.ids[-1] != IM_END
    session.ask(text("And?"), max_tokens=12)
    (place,) = [i for i, m in enumerate(session.messages) if m["role"] == "assistant"][:1]
    assert session.messages[place]["content"] == [text(cut)]
    assert session.ids == one_prompt(dense, session)[1]


def test_a_whole_answer_is_closed_once(dense, picture):
    session = Noting(dense)
    session.ask({"type": "image", "image": picture}, text("What is this?"))
    assert session.ids[-1] == IM_END
    session.ask(text("And?"), max_tokens=12)
    assert session.ids == one_prompt(dense, session)[1]


class Stops:
    """A streamer that gives up at the second token."""

    def __init__(self):
        self.heard = 0

    def put(self, value):
        self.heard += 1
        if self.heard == 3:
            raise KeyboardInterrupt

    def end(self):
        pass


def test_a_turn_that_fails_is_forgotten(dense, picture, tmp_path):
    def start():
        session = dense.session()
        session.ask([{"type": "image", "image": picture}, text("What is this?")], 20)
        return session

    calm, shaken = start(), start()
    before = shaken.ids, shaken.messages
    with pytest.raises(KeyboardInterrupt):
        shaken.ask("Tell me about the star.", 10, streamer=Stops())
    with pytest.raises(MediaError, match="does not exist"):
        shaken.ask([{"type": "image", "image": tmp_path / "no.jpg"}, text("And this?")])
    with pytest.raises(ValueError, match="exceeds the 128000 positions"):
        shaken.ask("And?", 128000)
    assert (shaken.ids, shaken.messages) == before
    assert shaken.ask("Where is it?", 10) == calm.ask("Where is it?", 10) and shaken.ids == calm.ids


def test_a_first_turn_that_fails_leaves_nothing(dense, picture):
    session, fresh = dense.session(), dense.session()
    with pytest.raises(KeyboardInterrupt):
        session.ask("What?", 10, streamer=Stops())
    assert session.ids == [] and session.messages == []
    question = [{"type": "image", "image": picture}, text("What is this?")]
    assert session.ask(question, 8) == fresh.ask(question, 8) and session.ids == fresh.ids


def test_the_preset_may_change_between_turns(clip):
    model = QwenVLInference("demo")
    session = model.session()
    session.ask([{"type": "video", "video": clip}, text("Describe this video.")], 8)
    replace_attention(model, AttentionChoice("psa", SPARSE))
    session.ask([{"type": "video", "video": clip}, text("And this one?")], 8)
    stats = model.stats()
    assert stats["attention"] == "psa" and stats["layers_sparse"] == LAYERS and stats["average_sparsity"] > 0.05
    assert {call.lengths for _, call in plug_of(model.model).calls} == {
        ((stats["prefill_tokens"], stats["sequence_length"]),)
    }
    replace_attention(model, AttentionChoice("trianglemix", triangle_layers=[0]))
    session.ask("Which way?", 4)
    assert model.stats()["attention"] == "trianglemix"
    restore_attention(model.model)
    answer = session.ask("Which way?", 4)
    assert model.stats()["attention"] == "dense" and isinstance(answer, str)


def test_a_model_whose_plug_was_taken_out_answers_as_one_that_had_none(dense, picture):
    """Its own attention would align the rows after a cache with the first keys."""
    restored = QwenVLInference("demo", use_psa=True)
    restore_attention(restored.model)

    def talk(model):
        session = model.session()
        session.ask([{"type": "image", "image": picture}, text("What is this?")], 20)
        return session.ask("Where is the star?", 10), session.ids

    assert talk(restored) == talk(dense)


def test_other_requests_may_come_between_turns(dense, picture, clip):
    def talk(between):
        session = dense.session()
        session.ask([{"type": "image", "image": picture}, text("What is this?")], 20)
        between()
        return session.ask("Where is the star?", 10), session.ids

    alone = talk(lambda: None)
    assert talk(lambda: dense.inference_video(clip, "Which way?", 4)) == alone


def test_twenty_turns_keep_the_cache_and_nothing_else(dense, picture):
    session = dense.session()
    session.ask([{"type": "image", "image": picture}, text("What is this?")], 4)
    for _ in range(20):
        session.ask("And?", 2)
    layers = session._cache.layers
    assert len(layers) == LAYERS
    assert all(layer.keys.shape[2] == layer.values.shape[2] == len(session.ids) - 1 for layer in layers)
    assert all(medium.content is None for medium in session._media)
    assert len(session.messages) == 42 and json.loads(json.dumps(session.messages)) == session.messages
    assert paddle.is_grad_enabled()


def test_a_system_message(dense, picture):
    content = [{"type": "image", "image": picture}, text("What is this?")]
    session = dense.session("You speak of colours alone.")
    answer = session.ask(content, 8)
    words = dense.processor.tokenizer.decode(session.ids)
    assert words.startswith("<|im_start|>system\nYou speak of colours alone.<|im_end|>\n<|im_start|>user\n")
    system = {"role": "system", "content": "You speak of colours alone."}
    assert dense.chat([system, user(*content)], 8) == answer
    with pytest.raises(ValueError, match="a system message comes first; this conversation has begun"):
        session.chat([system, user(text("And?"))])


def test_a_question_may_hold_any_letter(dense, picture):
    """Also the one that stands for an answer while the template is filled."""
    session = Noting(dense)
    session.ask({"type": "image", "image": picture}, text("What is \ue000 this?"), max_tokens=4)
    session.ask(text("\ue000And\ue000?"), max_tokens=4)
    decoded = dense.processor.tokenizer.decode(session.ids)
    assert decoded.count("<|im_start|>user\n") == 2 and session.ids == one_prompt(dense, session)[1][: len(session.ids)]
