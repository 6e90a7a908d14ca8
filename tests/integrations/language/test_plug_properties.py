"""Plugged at level 1 equals unplugged, over random tiny models and prompts, and undone in any order it is gone.

What is right comes from the same weights with PaddleFormers' eager attention, which is the only one that gets a mask
in every case.
"""

from functools import cache

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integrations.language.test_paddleformers import snapshot
from shared_tiny import LAYERS, TINY_ONE, TINY_SPARSE, closeness, real_logits, tiny_model, tiny_prompts

from psa_paddle.integrations.language.attention import (
    attention_in,
    plug_of,
    psa_attention_in,
    replace_attention_with_psa,
    restore_attention,
)
from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.integrations.language.generation import cached_generation

MODELS = st.fixed_dictionaries(
    {
        "attention": st.sampled_from(["eager", "sdpa"]),
        "head_dim": st.sampled_from([32, 16]),  # what the operator takes and what it does not
        "window": st.sampled_from([None, None, 30]),
        "full_layers": st.integers(0, LAYERS - 1),
    }
)
LENGTHS = st.lists(st.integers(24, 110), min_size=1, max_size=3)
EQUAL = 1e-5

build = cache(lambda **changes: tiny_model(**changes))  # every example takes its plugs out again
some = settings(max_examples=12, deadline=None, derandomize=True)


def models(settings):
    """The model, and the same weights with eager attention."""
    return build(**settings), build(**{**settings, "attention": "eager"})


@some
@given(model=MODELS, lengths=LENGTHS, media=st.booleans(), mask=st.booleans(), seed=st.integers(0, 99))
def test_logits(model, lengths, media, mask, seed):
    plugged, want = models(model)
    lengths = lengths if mask else lengths[:1] * len(lengths)
    inputs = tiny_prompts(lengths, range(len(lengths))[1:] if media else (), seed, mask)
    right = real_logits(want, inputs)
    unplugged, shape = real_logits(plugged, inputs), snapshot(plugged)
    with psa_attention_in(plugged, TINY_ONE):
        got = real_logits(plugged, inputs)
        kinds = {layer: call.mode for layer, call in plug_of(plugged).calls}
    sliding = [model["window"] is not None and i >= model["full_layers"] for i in range(LAYERS)]
    assert kinds == {i: "dense" if sliding[i] or model["head_dim"] == 16 else "sparse" for i in range(LAYERS)}
    assert closeness(got, right) < EQUAL and closeness(unplugged, right) < EQUAL
    assert snapshot(plugged) == shape


@some
@given(model=MODELS, lengths=LENGTHS, media=st.sampled_from([(), (0,), (1,)]), mask=st.booleans())
def test_tokens(model, lengths, media, mask):
    """Plugged and with the cache mend alone, against prefilling again for every token."""
    plugged, want = models(model)
    lengths = lengths if mask else lengths[:1] * len(lengths)
    inputs = tiny_prompts(lengths, [i for i in media if i < len(lengths)], mask=mask)
    call = {"max_new_tokens": 5, "decode_strategy": "greedy_search", "eos_token_id": 1, "pad_token_id": 0}
    with paddle.no_grad():
        tokens = want.generate(**inputs, **call)[0].tolist()
        with cached_generation(plugged):
            assert plugged.generate(**inputs, **call)[0].tolist() == tokens
        with psa_attention_in(plugged, TINY_ONE):
            assert plugged.generate(**inputs, **call)[0].tolist() == tokens


@some
@given(model=MODELS, lengths=LENGTHS, cuts=st.lists(st.integers(1, 23), min_size=1, max_size=2), trimmed=st.booleans())
def test_chunks(model, lengths, cuts, trimmed):
    """A prompt that comes in chunks; trimmed: the cache that the model would make, which lets go of keys that its
    sliding layers no longer see."""
    from paddleformers.transformers.cache_utils import DynamicCache

    plugged, want = models(model)
    inputs = tiny_prompts(lengths)
    ids, mask, total = inputs["input_ids"], inputs["attention_mask"], max(lengths)
    places = (mask.cumsum(-1) - 1).clip(0).expand([3, *ids.shape])
    past = DynamicCache(config=plugged.config.text_config) if trimmed else DynamicCache()
    parts = []
    with paddle.no_grad(), psa_attention_in(plugged, TINY_ONE):
        for start, stop in zip([0, *sorted(set(cuts))], [*sorted(set(cuts)), total], strict=True):
            inside = {"position_ids": places[..., start:stop], "attention_mask": mask[:, :stop]}
            out = plugged(ids[:, start:stop], past_key_values=past, use_cache=True, **inside)
            parts.append(out.logits.numpy())
        whole = want(ids, position_ids=places, attention_mask=mask, use_cache=False).logits.numpy()
    real = mask.numpy().astype(bool)
    # A chunk in which a sample has padding alone has no right answer; where real tokens begin, all is as in one call.
    assert closeness(np.concatenate(parts, 1)[real], whole[real]) < EQUAL


@some
@given(model=MODELS, lengths=LENGTHS, media=st.booleans(), first=st.integers(0, LAYERS), embeds=st.booleans())
def test_gradients(model, lengths, media, first, embeds):
    """Wanted from layer ``first`` on, by the head alone or by the embeddings; the plug would skip what it can."""
    plugged, want = models(model)
    inputs = tiny_prompts(lengths, (0,) if media else ())
    got, right = (gradients(m, inputs, first, embeds, plug) for m, plug in ((plugged, True), (want, False)))
    assert got.keys() == right.keys() and len(got) >= 1
    for name in right:
        assert np.abs(got[name] - right[name]).max() <= 1e-4 * max(np.abs(right[name]).max(), 1e-3), name


def gradients(model, inputs, first, embeds, plug) -> dict:
    for name, p in model.named_parameters():
        part = name.split("model.language_model.layers.")[-1].split(".")[0]
        p.stop_gradient = not (name == "lm_head.weight" or (part.isdigit() and int(part) >= first))
    if embeds:
        model.model.language_model.embed_tokens.weight.stop_gradient = False
    real = inputs["attention_mask"].astype("bool")
    try:
        if plug:
            with psa_attention_in(model, TINY_SPARSE):
                logits = model(**inputs, use_cache=False).logits
                assert {call.reason for _, call in plug_of(model).calls} == {"gradients"}
                (logits[real] ** 2).mean().backward()
        else:
            (model(**inputs, use_cache=False).logits[real] ** 2).mean().backward()
        return {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    finally:
        model.clear_gradients(set_to_zero=False)
        for p in model.parameters():
            p.stop_gradient = False


CHOICES = [TINY_ONE, TINY_SPARSE, TINY_ONE.replace(query_block=128), TINY_ONE.replace(key_block=64)]


KINDS = st.sampled_from(["plug", "mend", "refused", "leave", "leave", "leave"])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.tuples(KINDS, st.integers(0, 11)), max_size=10),
    rest=st.randoms(use_true_random=False),
    attention=st.sampled_from(["eager", "sdpa"]),
)
def test_undone_in_any_order(steps, rest, attention):
    """Plugs and cache mends entered and left in any order: the last plug that is not left is in force, and at the end
    nothing is."""
    model = build(attention=attention)
    inputs, open_ = tiny_prompts([40]), []
    dense, shape = real_logits(model, inputs), snapshot(model)
    for kind, number in steps:
        if kind == "leave" and open_:
            open_.pop(number % len(open_))[0].__exit__(None, None, None)
        elif kind in ("plug", "mend"):
            config = CHOICES[number % len(CHOICES)] if kind == "plug" else None
            context = cached_generation(model) if config is None else psa_attention_in(model, config)
            context.__enter__()
            open_.append((context, config))
        elif kind == "refused":
            with pytest.raises(ValueError, match="layers"):
                attention_in(model, AttentionChoice("mix", TINY_ONE, None, [99])).__enter__()
        configs = [config for _, config in open_ if config is not None]
        assert (plug_of(model) and plug_of(model).config) == (configs[-1] if configs else None)
    rest.shuffle(open_)
    for context, _ in open_:
        context.__exit__(None, None, None)
    assert snapshot(model) == shape and np.array_equal(real_logits(model, inputs), dense)


def test_the_same_plug_records_again_after_an_inner_one():
    model, inputs = build(attention="sdpa"), tiny_prompts([40])
    replace_attention_with_psa(model, TINY_ONE)
    try:
        outer = plug_of(model)
        with psa_attention_in(model, TINY_SPARSE):
            real_logits(model, inputs)
        assert plug_of(model) is outer and not outer.calls
        real_logits(model, inputs)
        assert len(outer.calls) == LAYERS
    finally:
        restore_attention(model)
