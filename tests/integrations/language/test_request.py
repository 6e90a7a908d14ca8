"""What the model is handed, what known media must answer, and that statistics are of the last request alone."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from shared_answers import Handed
from shared_demo import LAYERS, ROOT, SPARSE

from psa_paddle.integrations.language.answering import messages
from psa_paddle.integrations.language.attention import plug_of
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.integrations.language.request import check_positions
from psa_paddle.utils.media import load_video

VIDEO, IMAGE = ROOT / "demo" / "sample.mp4", ROOT / "demo" / "sample.jpg"
IM_END, END_OF_TEXT = 1202, 1200
SHOWN = "a small green star at the top right, a small pink cross at the right and a card with 31."
PICTURE, CLIP = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video"))


def chat(media: str, question: str) -> str:
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    return f"{system}<|im_start|>user\n{media}{question}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def dense():
    return QwenVLInference("demo")


@pytest.fixture(scope="module")
def sparse():
    return QwenVLInference("demo", use_psa=True, psa_config=SPARSE)


@pytest.fixture
def handed(dense):
    with Handed(dense) as rows:
        yield rows


def test_an_image(dense, handed):
    answer = dense.inference_image(IMAGE, "What is this?")
    assert answer == f"A small white diamond at the top left, {SHOWN}"
    (given,) = handed
    assert given.text == chat(PICTURE, "What is this?")
    (medium,) = given.asked.media
    assert np.array_equal(np.asarray(medium.content), np.asarray(Image.open(IMAGE).convert("RGB")))
    assert medium.limits == {} and medium.grid == (1, 12, 16) and given.grids == [[1, 12, 16]]
    assert given.settings.max_tokens == 512 and given.settings.sampling.greedy and not given.gradients
    assert int((given.asked.ids == dense.model.config.image_token_id).sum()) == 48
    stats = dense.stats()
    assert stats["finish_reason"] == "stop" and stats["new_tokens"] < 60
    assert (stats["sequence_length"], stats["vision_tokens"], stats["text_tokens"]) == (79, 48, 31)
    assert stats["prefill_tokens"] == 79
    assert (stats["model"], stats["library"], stats["device"]) == ("demo", "paddleformers", "cpu")
    assert (stats["dtype"], stats["attention"], stats["use_psa"]) == ("float32", "dense", False)


def test_times_of_every_stage(dense):
    dense.inference_image(IMAGE, "What is this?", 3)
    stats = dense.stats()
    times = stats["timings_s"]
    assert list(times) == ["load", "media", "vision", "prefill", "decode"] and min(times.values()) > 0
    assert stats["ttft_s"] == times["vision"] + times["prefill"]
    assert stats["decode_tokens_per_s"] == pytest.approx(2 / times["decode"])


def test_several_images_in_order_with_few_pixels(dense, handed):
    other = Image.new("RGB", (280, 140), "red")
    dense.inference_multi_image([IMAGE, other], "Compare them.", np.int64(3), max_pixels=np.int32(20000))
    (given,) = handed
    assert given.text == chat(PICTURE * 2, "Compare them.")
    assert [medium.content.size for medium in given.asked.media] == [(224, 168), (280, 140)]
    assert all(medium.limits == {"min_pixels": 784, "max_pixels": 20000} for medium in given.asked.media)
    assert all(h * w * 14**2 <= 20000 for _, h, w in given.grids) and len(given.grids) == 2
    assert [pixels.shape[0] for pixels in given.pixels] == [h * w for _, h, w in given.grids]
    assert given.settings.max_tokens == 3


def test_a_small_image_keeps_its_size_under_a_limit(dense, handed):
    """The processor's own least is 3,136 pixels."""
    dense.inference_image(Image.new("RGB", (28, 56), "red"), "What is this?", 1, max_pixels=5000)
    assert handed[0].grids == [[1, 4, 2]]


def test_a_video(dense, handed):
    answer = dense.inference_video(VIDEO, "Describe this video.")
    moves = "First a pink diamond moves right, then a green circle moves right, then a red triangle moves down"
    assert answer.startswith(moves)  # the card is shown for a moment only
    assert dense.stats()["finish_reason"] == "stop"
    (given,) = handed
    assert given.text == chat(CLIP, "Describe this video.")
    (medium,) = given.asked.media
    assert medium.content.frames.shape == (30, 252, 336, 3)  # one frame a second
    assert given.settings.max_tokens == 512
    assert given.grids == [[9, 18, 24], [6, 18, 24]]  # portions of at most 4,096 patches on a CPU
    assert given.positions["video_grid_thw"].tolist() == [[15, 18, 24]]
    assert seconds_of(given) == pytest.approx(2, rel=0.05)


def seconds_of(given) -> float:
    """Seconds between two temporal patches, as the positions are told."""
    return float(np.asarray(given.positions["second_per_grid_ts"]).reshape(-1)[0])


@pytest.mark.parametrize(
    "settings,length",
    [({"fps": np.float32(0.2), "max_pixels": np.int64(40000)}, 6), ({"max_frames": np.int16(4)}, 4)],
    ids=["fps and pixels", "frames"],
)
def test_a_video_with_other_settings(settings, length, dense, handed):
    dense.inference_video(str(VIDEO), "Which way?", 2, **settings)
    frames = handed[0].asked.media[0].content.frames
    assert len(frames) == length and frames[0].shape[0] * frames[0].shape[1] <= settings.get("max_pixels", 151200)
    assert handed[0].settings.max_tokens == 2
    assert seconds_of(handed[0]) == pytest.approx(30 / (length / 2), rel=0.05)


def test_a_clip_keeps_its_rate(dense, handed):
    dense.inference_video(load_video(VIDEO, fps=0.3), "Which way?", 1)
    assert len(handed[0].asked.media[0].content.frames) == 8
    assert seconds_of(handed[0]) == pytest.approx(30 / 4, rel=0.05)


def test_an_answer_that_is_cut_off_says_so(dense, caplog, capsys):
    with caplog.at_level(logging.WARNING, "psa_paddle"):
        assert dense.inference_image(IMAGE, "What is this?", 3) == "A small white"
    assert "the answer was cut off after 3 tokens; a larger max_tokens" in caplog.text
    assert dense.stats()["finish_reason"] == "length" and dense.stats()["new_tokens"] == 3
    dense.print_stats()
    assert "3 tokens, cut off at max_tokens" in capsys.readouterr().out
    caplog.clear()
    with caplog.at_level(logging.WARNING, "psa_paddle"):
        dense.inference_image(IMAGE, "What is this?", 60)
    dense.print_stats()
    assert not caplog.text and "cut off" not in capsys.readouterr().out


class Listener:
    def __init__(self):
        self.tokens, self.ends = [], 0

    def put(self, value):
        self.tokens.append(value.numpy().reshape(-1).tolist())

    def end(self):
        self.ends += 1


@pytest.mark.parametrize("ask", ["inference_image", "inference_video"])
def test_a_streamer_hears_the_prompt_and_every_token(dense, ask):
    listener = Listener()
    source = IMAGE if ask == "inference_image" else load_video(VIDEO, fps=0.1)
    answer = getattr(dense, ask)(source, "What is this?", 5, streamer=listener)
    prompt, *tokens = listener.tokens
    assert len(prompt) == dense.stats()["sequence_length"] and len(tokens) == 5 and listener.ends == 1
    assert dense.processor.tokenizer.decode([t for (t,) in tokens]).strip() == answer


def test_only_the_prompt_is_prefilled(dense, sparse):
    """One forward over the prompt, then one token each: with attention dense too."""
    for model in (dense, sparse):
        lengths = []
        hook = model.model.model.language_model.register_forward_pre_hook(
            lambda layer, args, kwargs, to=lengths: to.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
        model.inference_image(IMAGE, "What is this?", 4)
        hook.remove()
        assert lengths == [79, 1, 1, 1]


def test_statistics_are_of_the_last_request(sparse):
    clip = load_video(VIDEO, fps=0.5)
    for frames in (clip.frames, clip.frames[:8]):
        sparse.inference_video(type(clip)(frames, clip.fps), "Which way?", 2)
    stats = sparse.stats()
    assert [row["calls"] for row in stats["layers"]] == [1] * LAYERS
    assert stats["vision_tokens"] == 4 * 9 * 12 and stats["config"] == plug_of(sparse.model).choice.as_dict()
    mean = np.mean([row["sparsity"] for row in stats["layers"]])
    assert stats["average_sparsity"] == pytest.approx(mean) and 0.05 < mean < 0.9
    assert (stats["attention"], stats["use_psa"]) == ("psa", True)
    calls = {call.lengths for _, call in plug_of(sparse.model).calls}
    assert calls == {((stats["sequence_length"], stats["sequence_length"]),)}


@pytest.mark.parametrize("attention,sparse", [("dense", 0), ("psa", 1), ("trianglemix", 0), ("mix", 1)])
def test_which_attentions_use_psa(attention, sparse):
    assert QwenVLInference.use_psa.fget(SimpleNamespace(attention=attention)) == sparse


@pytest.mark.parametrize("nested", [True, False], ids=["text_config", "flat"])
def test_a_prompt_beyond_the_positions_is_refused(nested):
    text = SimpleNamespace(max_position_embeddings=100)
    config = SimpleNamespace(text_config=text, max_position_embeddings=7) if nested else text
    check_positions(90, 10, config)
    with pytest.raises(ValueError, match="91 tokens, which with max_tokens=10 exceeds the 100 positions of the model"):
        check_positions(91, 10, config)
    check_positions(10**6, 10, SimpleNamespace())


def test_a_long_prompt_is_refused_before_it_is_answered(dense, monkeypatch):
    monkeypatch.setattr(dense, "make_answer", lambda *given: pytest.fail("it was asked"))
    with pytest.raises(ValueError, match="max_tokens=127922 exceeds the 128000 positions.*fewer frames"):
        dense.inference_image(IMAGE, "What is this?", 127922)


def test_a_log_that_cannot_be_written_costs_no_answer(tmp_path, caplog):
    model = QwenVLInference("demo", use_psa=True, log_dir=tmp_path / "log")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "log").write_text("a file came in between")
    with caplog.at_level(logging.ERROR, "psa_paddle"):
        assert model.inference_image(IMAGE, "What is this?", 2) == "A small"
    assert "the sparsity log could not be written" in caplog.text


def test_the_log_is_of_the_last_request(sparse, tmp_path):
    sparse.inference_image(IMAGE, "What is this?", 1)
    sparse.write_log(tmp_path)
    (log,) = tmp_path.glob("*.jsonl")
    assert len(log.read_text().splitlines()) == LAYERS and '"lengths": [[79, 79]]' in log.read_text()


def test_a_dense_model_has_no_log(dense, tmp_path):
    with pytest.raises(ValueError, match="no sparsity log"):
        dense.write_log(tmp_path)


def test_pictures_and_frames_are_scaled_for_the_vision_tokens_of_the_family(dense, monkeypatch, handed):
    clip = load_video(VIDEO, fps=0.1)
    monkeypatch.setattr(dense, "family", replace(dense.family, pixel_factor=14))  # a divisor: the model can be asked
    with pytest.raises(ValueError, match="tokens of 28 pixels a side, this model's have 14; give load_video factor=14"):
        dense.inference_video(clip, "What?", 1)
    dense.inference_image(IMAGE, "What?", 1, max_pixels=20_000)
    assert handed[0].asked.media[0].limits == {"min_pixels": 14 * 14, "max_pixels": 20_000}
    with pytest.raises(ValueError, match="max_pixels must be at least 196, got 195"):
        dense.inference_image(IMAGE, "What?", 1, max_pixels=195)
    seen = []
    monkeypatch.setattr(messages, "load_video", lambda *given, **more: seen.append(more["factor"]) or clip)
    dense.inference_video(VIDEO, "What?", 1)
    assert seen == [14]
