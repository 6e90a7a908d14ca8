"""What is handed to a model's own attention function."""

import paddle
import pytest
from paddleformers.nn.attention.interface import AttentionInterface

from psa_paddle.integrations.language.paddleformers.dense import own_attention


@pytest.mark.parametrize("own,mask,rows,called", [
    ("flashmask", False, False, "flashmask"), ("flashmask", True, False, "sdpa"),
    ("flashmask", False, True, "flashmask"), ("sdpa", True, False, "sdpa"),
    ("eager", True, False, "eager"), ("another", False, False, "another"),
])  # fmt: skip
def test_a_mask_goes_to_a_function_that_reads_masks(own, mask, rows, called, monkeypatch):
    seen = {}
    for name in ("flashmask", "sdpa", "eager", "another"):
        spy = lambda *qkv, name=name, **rest: seen.update({name: rest}) or (None, None)  # noqa: E731
        monkeypatch.setitem(AttentionInterface._global_mapping, name, spy)
    q, k = paddle.randn([2, 2, 5, 16]), paddle.randn([2, 1, 5, 16])
    given, indices = paddle.zeros([2, 1, 5, 9]) if mask else None, paddle.ones([2, 1, 5, 1], "int32") if rows else None
    own_attention(own, None, q, k, k, given, indices, 0.0, 0.25, None)
    assert list(seen) == [called]
    got = seen[called]
    assert got["attn_mask_startend_row_indices"] is indices and got["scaling"] == 0.25
    assert got["attention_mask"] is None if not mask else got["attention_mask"].shape == [2, 1, 5, 5]


def test_sinks_and_attention_both_ways_go_on_to_the_models_own_function(monkeypatch):
    """``sdpa`` reads the scaling where there is a sink, and masks nothing where nothing is causal."""
    seen = {}
    for name in ("sdpa", "eager"):
        spy = lambda layer, q, *kv, name=name, **rest: seen.update({name: (q, rest)}) or (None, None)  # noqa: E731
        monkeypatch.setitem(AttentionInterface._global_mapping, name, spy)
    q, k, sink = paddle.randn([1, 2, 5, 16]), paddle.randn([1, 1, 9, 16]), paddle.ones([2])
    own_attention("sdpa", None, q, k, k, None, None, 0.1, 0.5, False, sink=sink)
    own_attention("eager", None, q, k, k, None, None, 0.1, 0.5, False)
    (given, sdpa), (_, eager) = seen["sdpa"], seen["eager"]
    assert given is q and sdpa["sink"] is sink and sdpa["dropout"] == eager["dropout"] == 0.1
    assert sdpa["attention_mask"] is None and sdpa["is_causal"] is False
    assert (eager["attention_mask"].numpy() == 0).sum() == 5 + 6 + 7 + 8 + 9, "eager attention never asks"


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("padded", [False, True])
def test_one_row_sees_what_paddles_own_attention_sees(padded, scaling, monkeypatch):
    """On a CPU, where that copies keys for every head that shares them."""
    paddle.seed(0)
    q, k, v = paddle.randn([2, 6, 1, 16]), paddle.randn([2, 2, 37, 16]), paddle.randn([2, 2, 37, 16])
    mask = None
    if padded:
        mask = paddle.zeros([2, 1, 1, 40])
        mask[1, :, :, :9] = paddle.finfo(paddle.float32).min
    given = None if mask is None else mask[..., -37:]
    rows = (
        (q * (1 if scaling is None else scaling * 4)).transpose([0, 2, 1, 3]),
        *(x.transpose([0, 2, 1, 3]) for x in (k, v)),
    )
    want = paddle.nn.functional.scaled_dot_product_attention(*rows, given, enable_gqa=True).reshape([2, 1, 96])
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", None)
    got, _ = own_attention("sdpa", None, q, k, v, mask, None, 0.0, scaling, None)
    assert float((got - want).abs().max()) < 1e-6


@pytest.mark.parametrize("what", ["sink", "dropout", "row_indices", "bfloat16"])
def test_one_row_with_more_to_it_goes_to_the_models_own_function(what, monkeypatch):
    called = []
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", lambda *a, **k: called.append(k) or (None, None))
    q, k = paddle.randn([1, 2, 1, 16]), paddle.randn([1, 1, 9, 16])
    if what == "bfloat16":
        q, k = q.astype(what), k.astype(what)
    indices = paddle.ones([1, 1, 9, 1], "int32") if what == "row_indices" else None
    how = {"sink": paddle.ones([2])} if what == "sink" else {}
    own_attention("sdpa", None, q, k, k, None, indices, 0.1 if what == "dropout" else 0.0, 0.25, None, **how)
    assert len(called) == 1
