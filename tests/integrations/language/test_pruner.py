"""Fewer video tokens: what a model says is what it says where the dropped tokens are masked."""

from contextlib import ExitStack

import numpy as np
import paddle
import pytest
from paddleformers.transformers.cache_utils import DynamicCache
from shared_clips import GRID, PLACES, clip_prompts, masked_greedy, masked_logits, stays
from shared_paddlemix import Qwen2_5_VLForConditionalGeneration as PaddleMix
from shared_tiny import TINY_ONE, VIDEO, tiny_model

from psa_paddle.integrations.language.attention import psa_attention_in
from psa_paddle.integrations.language.generation import cached_generation
from psa_paddle.integrations.language.paddleformers.pruner import (
    keep_video_tokens,
    prune_video_tokens,
    pruner_of,
    video_tokens_in,
)

NEW = 4
PROMPTS = {
    "a clip": clip_prompts([[5, "clip", 9]]),
    "a clip without a mask": clip_prompts([[5, "clip", 9]], mask=False),
    "clips and images": clip_prompts([[3, "image", 2, "clip", "clip", 4, "image", 7]]),
    "a padded batch": clip_prompts([[30, "clip", 9], [2, "clip", 3, "clip", 9], [12], [4, "image", 5]]),
    "a batch without a mask": clip_prompts([[5, "clip", 9], [7, "clip", 7]], mask=False),
}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def generate(model, inputs, **changes):
    settings = {"max_new_tokens": NEW, "decode_strategy": "greedy_search", "eos_token_id": 1, "pad_token_id": 0}
    with paddle.no_grad():
        return model.generate(**inputs, **{**settings, **changes})[0].tolist()


def real(inputs, stay):
    """Which tokens stay and are no padding."""
    return stay & inputs["attention_mask"].numpy().astype(bool) if "attention_mask" in inputs else stay


@pytest.mark.parametrize("how", ["auto", 0.5, 0.3])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_are_those_where_dropped_tokens_are_masked(model, prompt, how):
    inputs = PROMPTS[prompt]
    stay = real(inputs, stays(model, inputs, how))
    want, counts = masked_logits(model, inputs, stay).numpy()[stay], stay.sum(1)
    with video_tokens_in(model, how), paddle.no_grad():
        got = model(**inputs).logits.numpy()
    assert got.shape[1] == max(counts) < inputs["input_ids"].shape[1]
    rows = np.concatenate([row[len(row) - count :] for row, count in zip(got, counts, strict=True)])
    np.testing.assert_allclose(rows, want, atol=2e-5)


ORDERS = {"dense": (), "psa, then fewer tokens": ("psa", "video"), "fewer tokens, then psa": ("video", "psa")}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_generated_tokens_are_those_where_dropped_tokens_are_masked(model, prompt, order):
    inputs = PROMPTS[prompt]
    want = masked_greedy(model, inputs, stays(model, inputs, 0.5), NEW)
    with ExitStack() as stack:
        ways = {"psa": lambda: psa_attention_in(model, TINY_ONE), "video": lambda: video_tokens_in(model, 0.5)}
        for way in ORDERS[order]:
            stack.enter_context(ways[way]())
        if not ORDERS[order]:
            stack.enter_context(video_tokens_in(model, 0.5))
            stack.enter_context(cached_generation(model))
        assert generate(model, inputs) == want


def test_steps_that_bring_the_clip_again(model):
    """Without a cache, as PaddleFormers' own ``generate`` does."""
    inputs = PROMPTS["a clip"]
    want = masked_greedy(model, inputs, stays(model, inputs, 0.5), NEW)
    with video_tokens_in(model, 0.5):
        assert generate(model, inputs) == want


def test_all_tokens_are_bit_for_bit_all_tokens(model):
    inputs = PROMPTS["a padded batch"]
    with paddle.no_grad():
        want = model(**inputs).logits.numpy()
        with video_tokens_in(model, 1.0):
            assert (model(**inputs).logits.numpy() == want).all()
            assert pruner_of(model).summary()["dropped"] == 0


def test_a_later_turn_brings_another_clip(model):
    """A cache that lacks some tokens, then text with a masked token, then another clip: as one prompt."""
    whole = clip_prompts([[5, "clip", 9, "clip", 6]])
    ids, mask, stay = whole["input_ids"], whole["attention_mask"], stays(model, whole, 0.5)
    mask[0, 34] = 0
    stay = real(whole, stay)
    want = masked_logits(model, whole, stay).numpy()[stay]
    grids, seconds = whole["video_grid_thw"], whole["second_per_grid_ts"]
    places, _ = model.model.get_rope_index(ids, None, grids, second_per_grid_ts=seconds, attention_mask=mask)
    half, cuts = len(whole["pixel_values_videos"]) // 2, [0, 33, 36, ids.shape[1]]  # a clip, text, a clip
    pixels = {0: whole["pixel_values_videos"][:half], 2: whole["pixel_values_videos"][half:]}
    cache, got = DynamicCache(config=model.model.language_model.config), []
    with video_tokens_in(model, 0.5), psa_attention_in(model, TINY_ONE), paddle.no_grad():
        for i in range(3):
            media = {"pixel_values_videos": pixels[i], "video_grid_thw": grids[:1]} if i in pixels else {}
            part = slice(cuts[i], cuts[i + 1])
            given = dict(input_ids=ids[:, part], position_ids=places[:, :, part], past_key_values=cache)
            got.append(model(**given, **media, attention_mask=mask[:, : cuts[i + 1]], use_cache=True).logits.numpy()[0])
    rows = np.delete(np.concatenate(got), 34 - int((~stay[0, :34]).sum()), 0)
    np.testing.assert_allclose(rows, want, atol=2e-5)
    assert cache.get_seq_length() == stay.sum() + 1


def test_text_after_a_padded_batch_keeps_its_mask(model):
    """The next rows of a cache whose samples lost different numbers of tokens; without a mask too."""
    for mask in (True, False):
        inputs = clip_prompts([[3, "clip", 40], [3, "clip", 6, "clip", 8]], mask=mask)
        stay = stays(model, inputs, "auto")
        assert mask or stay.sum(1)[0] != stay.sum(1)[1]
        want = masked_greedy(model, inputs, stay, NEW)
        with video_tokens_in(model, "auto"), cached_generation(model):
            assert generate(model, inputs) == want


def test_the_summary_says_which_frames_lost_how_many(model):
    inputs = PROMPTS["a padded batch"]
    stay = stays(model, inputs, "auto")
    kept = stay[inputs["input_ids"].numpy() == VIDEO].reshape(3, GRID[0], PLACES)
    with video_tokens_in(model, "auto"), paddle.no_grad():
        model(**PROMPTS["a clip"])
        pruner_of(model).reset()
        model(**inputs)
        found = pruner_of(model).summary()
    clips = [{"tokens_of_a_frame": PLACES, "dropped_of_frames": (~c).sum(1).tolist()} for c in kept]
    assert found == {"setting": "auto", "tokens": kept.size, "dropped": int((~kept).sum()), "clips": clips}
    assert 0 < found["dropped"] < kept.size


def test_it_is_undone_exactly():
    model = tiny_model()
    before, parts = dict(vars(model)), (model.model, model.model.language_model)
    hooks = [dict(part._forward_pre_hooks) for part in parts]
    prune_video_tokens(model, 0.5)
    prune_video_tokens(model, "auto")
    with video_tokens_in(model, 0.25), pytest.raises(RuntimeError):
        with video_tokens_in(model, 0.75):
            assert pruner_of(model).how == 0.75
            raise RuntimeError
    assert pruner_of(model).how == "auto"
    assert keep_video_tokens(keep_video_tokens(model)) is model
    assert pruner_of(model) is None and vars(model).keys() == before.keys()
    assert [dict(part._forward_pre_hooks) for part in parts] == hooks


def test_what_cannot_be_cut_is_refused(model):
    inputs = dict(PROMPTS["a clip"])
    length = inputs["input_ids"].shape[1]
    ids, grid = inputs["input_ids"], inputs["video_grid_thw"]
    places, _ = model.model.get_rope_index(ids, None, grid)
    inputs |= {"attention_mask": paddle.ones([1, 1, length, length], "bool"), "position_ids": places}
    with video_tokens_in(model, 0.5), paddle.no_grad(), pytest.raises(ValueError, match=r"mask of two axes, \[B, L\]"):
        model(**inputs)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="PaddleFormers' Qwen2.5-VL"):
        prune_video_tokens(PaddleMix(), 0.5)
    with pytest.raises(TypeError, match="expected PaddleFormers'"):
        prune_video_tokens(paddle.nn.Linear(2, 2), 0.5)
    with pytest.raises(ValueError, match="keep_video_tokens reads all"):
        prune_video_tokens(tiny_model(), None)
