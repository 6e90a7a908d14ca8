"""``generate`` with the KV cache: the tokens that it gives without, for every kind of prompt and of search."""

import numpy as np
import paddle
import pytest
from shared_tiny import LAYERS, TINY_ONE, TINY_SPARSE, VOCABULARY, tiny_model, tiny_prompts

from psa_paddle.integrations.language.attention import plug_of, psa_attention_in
from psa_paddle.integrations.language.generation import TokenClock, cached_generation

NEW = 5
MENDS = {"cache alone": cached_generation, "psa": lambda model: psa_attention_in(model, TINY_ONE)}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def sliding():
    return tiny_model(window=12, full_layers=1)


def generate(model, inputs, **changes):
    settings = {"max_new_tokens": NEW, "decode_strategy": "greedy_search", "eos_token_id": 1, "pad_token_id": 0}
    with paddle.no_grad():
        return model.generate(**inputs, **{**settings, **changes})[0].tolist()


PROMPTS = {
    "text": tiny_prompts([40]),
    "text without a mask": tiny_prompts([40], mask=False),
    "text of several lengths": tiny_prompts([40, 25, 70]),
    "an image": tiny_prompts([40], (0,)),
    "an image without a mask": tiny_prompts([40], (0,), mask=False),
    "an image and text": tiny_prompts([40, 60], (0,)),
    "text and an image": tiny_prompts([30, 60], (1,)),
    "a hole in the mask": {**tiny_prompts([40]), "attention_mask": paddle.to_tensor([[1] * 9 + [0] * 3 + [1] * 28])},
}


@pytest.mark.parametrize("mend", MENDS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_are_those_without_a_cache(model, prompt, mend):
    want = generate(model, PROMPTS[prompt])
    with MENDS[mend](model):
        assert generate(model, PROMPTS[prompt]) == want


@pytest.mark.parametrize("mend", MENDS)
def test_a_batch_answers_as_its_samples_alone(model, mend):
    """Each sample's positions go on from its own length."""
    lengths = [40, 25, 70]
    batch = tiny_prompts(lengths)
    with MENDS[mend](model):
        together = generate(model, batch)
        for i, length in enumerate(lengths):
            ids = batch["input_ids"][i : i + 1, -length:]
            assert generate(model, {"input_ids": ids, "attention_mask": paddle.ones_like(ids)}) == [together[i]]


@pytest.mark.parametrize("mend", MENDS)
def test_positions_of_the_users_own(model, mend):
    inputs = tiny_prompts([40, 40])
    places = paddle.arange(0, 80, 2).expand([3, 2, 40])  # twice as far apart as they would be
    want = generate(model, inputs, position_ids=places)
    assert want != generate(model, inputs)
    with MENDS[mend](model):
        assert generate(model, inputs, position_ids=places) == want


@pytest.mark.parametrize("mend", MENDS)
@pytest.mark.parametrize("search", [{"decode_strategy": "beam_search", "num_beams": 3}, {"use_cache": False}], ids=str)
def test_other_ways_to_generate(model, search, mend):
    inputs = tiny_prompts([40, 25])
    want = generate(model, inputs, **search)
    with MENDS[mend](model):
        assert generate(model, inputs, **search) == want


@pytest.mark.parametrize("mend", MENDS)
def test_layers_that_slide_over_more_than_their_window(sliding, mend):
    """PaddleFormers' sliding cache drops keys that its mask still has columns for."""
    for inputs in (tiny_prompts([40]), tiny_prompts([30, 60], (1,))):
        want = generate(sliding, inputs, max_new_tokens=20)
        with MENDS[mend](sliding):
            assert generate(sliding, inputs, max_new_tokens=20) == want


def rows_of(model) -> list[tuple[int, int]]:
    """(query rows, positions of logits) of every forward from now on."""
    seen = []
    inner = model.model.language_model
    inner.register_forward_pre_hook(lambda layer, args, kw: seen.append(kw["inputs_embeds"].shape[1]), with_kwargs=True)
    model.register_forward_post_hook(lambda layer, args, out: seen.append(out.logits.shape[1]))
    return seen


def test_decoding_sees_one_row_and_makes_the_last_logits():
    model, inputs = tiny_model(), tiny_prompts([40])
    seen = rows_of(model)
    generate(model, inputs)
    assert seen[:4] == [40, 40, 41, 41]
    for mend in MENDS.values():
        seen.clear()
        with mend(model):
            generate(model, inputs)
        assert seen == [40, 1] + [1, 1] * (NEW - 1)


def test_records_are_of_prefill_and_are_forgotten_at_a_reset(model):
    with psa_attention_in(model, TINY_SPARSE):
        plug = plug_of(model)
        for times in (1, 2):
            generate(model, tiny_prompts([100]))
            assert [layer for layer, _ in plug.calls] == list(range(LAYERS)) * times
            assert plug.decode_calls == times * LAYERS * (NEW - 1)
        plug.reset()
        assert plug.calls == [] and plug.decode_calls == 0


def test_the_last_vision_token_counts_whichever_it_is(model):
    ids = np.full((3, 50), 7)
    ids[0, 10:20], ids[1, 15:30], ids[1, 5] = 60, 61, 60  # images; a video after an image; neither
    skip = TINY_SPARSE.replace(text_length=None)
    with psa_attention_in(model, skip), paddle.no_grad():
        plug_of(model)._before_model(None, (paddle.to_tensor(ids),), {})
        assert plug_of(model)._text_lengths == [30, 20, 512]
        plug_of(model)._before_model(None, (), {"input_ids": paddle.to_tensor(ids[:1, :1])})
        assert plug_of(model)._text_lengths == [512]


def test_question_lengths_that_differ_are_kept_sample_by_sample(model):
    """With questions of different lengths each sample runs with its own, so that a batch equals its samples."""
    skip = TINY_SPARSE.replace(text_length=None, query_block=64)
    rng = np.random.default_rng(0)
    ids = rng.integers(2, 60, (2, 200))
    ids[0, 0:190], ids[1, 0:60] = 60, 60  # questions of 10 and of 140 tokens
    embeds = paddle.to_tensor(rng.standard_normal((2, 200, 64)).astype(np.float32))
    places = paddle.arange(200).expand([3, 2, 200])

    def run(rows):
        plug_of(model).reset()
        plug_of(model)._before_model(None, (), {"input_ids": paddle.to_tensor(ids[rows])})
        out = model.model.language_model(inputs_embeds=embeds[rows], position_ids=places[:, rows])[0]
        return out.numpy(), plug_of(model).calls[0][1]

    with psa_attention_in(model, skip), paddle.no_grad():
        both, call = run(slice(0, 2))
        (one, first), (two, second) = run(slice(0, 1)), run(slice(1, 2))
    assert np.abs(both - np.concatenate([one, two])).max() < 1e-5 * np.abs(both).max()
    assert first.sparsity() > second.sparsity() + 0.05 and call.lengths == ((200, 200), (200, 200))
    assert call.pairs == first.pairs + second.pairs


class Listener:
    def __init__(self):
        self.heard, self.ended = [], 0

    def put(self, value):
        self.heard.append(np.asarray(value).reshape(-1).tolist())

    def end(self):
        self.ended += 1


def test_the_clock_passes_everything_on_and_times_new_tokens_alone(model):
    listener, inputs = Listener(), tiny_prompts([40])
    clock = TokenClock(listener)
    with cached_generation(model):
        tokens = generate(model, inputs, streamer=clock)
    assert listener.heard == [inputs["input_ids"][0].tolist(), *([t] for t in tokens[0])] and listener.ended == 1
    assert len(clock.times) == len(tokens[0]) and clock.times == sorted(clock.times)
    clock.times = [0.5, 0.75, 1.0, 1.5]
    assert clock.timings() == {"ttft_s": 0.5, "decode_tokens_per_s": 3.0, "new_tokens": 4}
    clock.times = [0.5]
    assert clock.timings() == {"ttft_s": 0.5, "decode_tokens_per_s": None, "new_tokens": 1}
    assert max(max(t) for t in tokens) < VOCABULARY
