"""Prefill in chunks and the vision tower in portions: what one call gives."""

import numpy as np
import paddle
import pytest
from paddleformers.transformers.cache_utils import DynamicCache
from shared_demo import ALL_ONE, LAYERS, ROOT, SPARSE
from shared_tiny import tiny_model

from psa_paddle.integrations.language.answering import media as media_module
from psa_paddle.integrations.language.answering.media import medium_of
from psa_paddle.integrations.language.answering.prefill import check_chunk, prefill
from psa_paddle.integrations.language.answering.reports import silent
from psa_paddle.integrations.language.answering.turn import Asked, make_prompt
from psa_paddle.integrations.language.attention import attention_in, plug_of
from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.integrations.language.paddleformers.linear_memory import aligned_in
from psa_paddle.trianglemix import TriangleMixConfig
from psa_paddle.utils.media import load_video

QUESTION = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "How many circles are there?"}]}]
CHOICES = {
    "level 1": AttentionChoice("psa", ALL_ONE),
    "sparse": AttentionChoice("psa", SPARSE),
    "sparse, a long question": AttentionChoice("psa", SPARSE.replace(text_length=200)),
}


@pytest.fixture(scope="module")
def model():
    return QwenVLInference("demo")


@pytest.fixture(scope="module")
def clip():
    return load_video(ROOT / "demo" / "sample.mp4", fps=0.25)


@pytest.fixture(scope="module")
def asked(model, clip):
    """A prompt of 432 vision tokens."""
    session = model.session()
    session.ask([{"type": "video", "video": clip}, QUESTION[0]["content"][1]], 1)
    medium = medium_of(model.processor, clip)
    return Asked(np.array([session.ids[:-1]]), None, [medium], [medium])


def prefilled(model, asked, chunk, choice=None):
    """Logits, keys of every layer, calls and reports."""
    parts, reports = model.parts(), []
    prompt = make_prompt(parts, asked, silent)
    cache = parts.new_cache()
    with paddle.no_grad():
        if choice is None:
            with aligned_in(model.model, "paddleformers", None):
                logits = prefill(parts, prompt, cache, None, chunk, lambda *r: reports.append(r))
            calls = []
        else:
            with attention_in(model, choice):
                plug = plug_of(model.model)
                logits = prefill(parts, prompt, cache, plug, chunk, lambda *r: reports.append(r))
                calls = list(plug.calls)
    return logits.numpy(), [layer.keys.numpy() for layer in cache.layers], calls, reports


def assert_close(got, want):
    assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()


@pytest.mark.parametrize("choice", [None, *CHOICES], ids=str)
@pytest.mark.parametrize("chunk", [128, 256])
def test_chunks_give_what_one_call_gives(model, asked, choice, chunk):
    choice = CHOICES.get(choice)
    want, keys, whole, _ = prefilled(model, asked, None, choice)
    got, chunked, calls, _ = prefilled(model, asked, chunk, choice)
    assert_close(got, want)
    for one, other in zip(chunked, keys, strict=True):
        assert one.shape == other.shape
        assert_close(one, other)
    rows, ends = asked.ids.shape[1], range(chunk, asked.ids.shape[1] + chunk, chunk)
    if choice is not None:
        lengths = [(min(end, rows) - (end - chunk), min(end, rows)) for end in ends]
        assert [call.lengths for _, call in calls] == [(pair,) for pair in lengths for _ in range(LAYERS)]
        assert {call.mode for _, call in calls + whole} == {"sparse"}
    if choice is CHOICES["sparse"]:
        assert min(call.sparsity() for _, call in calls[LAYERS : 2 * LAYERS]) > 0.05


def test_triangle_layers_let_the_last_rows_of_the_whole_prompt_see_everything():
    """More than 2,048 keys in each chunk: with fewer it runs dense."""
    model, rng = tiny_model(), np.random.default_rng(0)
    embeds = paddle.to_tensor(rng.standard_normal((1, 2200, 64)).astype(np.float32))
    places = paddle.arange(2200).expand([3, 1, 2200])
    text = model.model.language_model

    def work(chunk: int, pattern) -> float:
        with attention_in(model, AttentionChoice("trianglemix", triangle=pattern)), paddle.no_grad():
            plug, cache = plug_of(model), DynamicCache()
            for start in range(0, 2200, chunk):
                rows = slice(start, start + chunk)
                plug.expect([10], max(0, 2200 - start - chunk))
                text(
                    inputs_embeds=embeds[:, rows],
                    position_ids=places[:, :, rows],
                    past_key_values=cache,
                    use_cache=True,
                )
            calls = [call for layer, call in plug.calls if layer == 0]
        assert {call.mode for call in calls} == {"sparse"} and len(calls) == -(-2200 // chunk)
        return sum((1 - call.sparsity()) * pairs_of(call) for call in calls)

    for last in (10, 200):
        pattern = TriangleMixConfig(triangle_layer_indices=[0], sliding_window_size=64, num_last_tokens=last)
        assert work(2176, pattern) == pytest.approx(work(2200, pattern), rel=1e-6)


def pairs_of(call) -> int:
    """Pairs of a query and a key that it may see."""
    return sum(rows * (keys - rows) + rows * (rows + 1) // 2 for rows, keys in call.lengths)


def test_the_tower_in_portions(model, clip, monkeypatch):
    parts, medium = model.parts(), medium_of(model.processor, clip)
    with paddle.no_grad():
        want = parts.look([medium], silent).numpy()
        reports = []
        monkeypatch.setitem(media_module.PORTIONS, "cpu", 2 * 432)
        got = parts.look([medium, medium], lambda *r: reports.append(r)).numpy()
    assert got.shape == (2 * len(want), want.shape[1])
    assert_close(got[: len(want)], want)
    assert_close(got[len(want) :], want)
    assert [done for _, done, _ in reports] == [432 * n for n in (2, 4, 6, 8)]
    assert {(stage, total) for stage, _, total in reports} == {("vision", 8 * 432)}


def test_a_frame_larger_than_a_portion_is_seen_whole(model, clip, monkeypatch):
    monkeypatch.setitem(media_module.PORTIONS, "cpu", 1)
    found = list(media_module.portions(model.processor, medium_of(model.processor, clip)))
    assert [grid for _, grid in found] == [[1, 18, 24]] * 4
    assert all(list(pixels.shape) == [432, 1176] for pixels, _ in found)


@pytest.mark.parametrize(
    "change", [{}, {"rescale_factor": 1 / 127, "image_std": [0.1, 0.2, 3.0]}], ids=["as it is", "other"]
)
def test_patches_are_the_processors_to_the_last_bit(model, clip, monkeypatch, change):
    video = model.processor.video_processor
    for name, value in change.items():
        monkeypatch.setattr(video, name, value)
    made = video(videos=[clip.frames], do_resize=False, do_sample_frames=False, return_tensors="pd")
    assert np.array_equal(media_module.patches_of(video, clip.frames), made["pixel_values_videos"].numpy())


def test_a_processor_that_does_less_is_asked(model, clip, monkeypatch):
    video = model.processor.video_processor
    monkeypatch.setattr(video, "do_normalize", False)
    (pixels, _), *_ = media_module.portions(model.processor, medium_of(model.processor, clip))
    assert 0.9 < float(pixels.max()) <= 1 and float(pixels.min()) >= 0


def test_prefill_reports_every_layer_of_every_chunk(model, asked):
    *_, reports = prefilled(model, asked, 256)
    chunks = -(-asked.ids.shape[1] // 256)
    assert reports == [("prefill", n, chunks * LAYERS) for n in range(chunks * LAYERS + 1)]
    assert all(not layer._forward_pre_hooks for layer in model.model.model.language_model.layers)


def test_an_answer_in_chunks(model, clip):
    chunked = QwenVLInference("demo", prefill_chunk=256)
    assert chunked.inference_video(clip, "How many circles are there?", 12) == model.inference_video(
        clip, "How many circles are there?", 12
    )


@pytest.mark.parametrize("chunk,error,words", [
    (100, ValueError, "at least 128"), (200, ValueError, "multiple of 128, got 200"), (1.5, TypeError, "an integer"),
])  # fmt: skip
def test_refuses_chunks(chunk, error, words):
    with pytest.raises(error, match=f"prefill_chunk must be .*{words}"):
        check_chunk(chunk)
    assert check_chunk(None) is None and check_chunk(np.int64(2048)) == 2048
