"""``backend="triton"`` behind the public operator, in the interpreter, against the eager backend."""

import numpy as np
import paddle
import pytest
from shared import RATIOS, smooth_qkv

from psa_paddle import AttentionConfig, adaptive_block_sparse_attn, estimate_block_importance, pyramid_attention

EAGER = AttentionConfig.preset(
    "seed",
    query_block=64,
    key_block=32,
    mask_ratios=RATIOS,
    text_length=9,
    xattn_stride=8,
    dense_below=0,
    backend="eager",
)
TRITON = EAGER.replace(backend="triton")


def tensors(*shape, **more):
    return [paddle.to_tensor(x) for x in smooth_qkv(*shape, **more)]


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("heads_last", [True, False], ids=["heads last", "heads first"])
def test_two_backends_one_answer(causal, heads_last):
    qkv = tensors(200, 300, 4, 2, 32)
    keywords = {"heads_last": heads_last, "return_stats": True}
    want, eager = pyramid_attention(*qkv, EAGER.replace(causal=causal), **keywords)
    got, triton = pyramid_attention(*qkv, TRITON.replace(causal=causal), **keywords)
    assert got.shape == want.shape == ([1, 200, 4, 32] if heads_last else [1, 4, 200, 32])
    assert np.abs(got.numpy() - want.numpy()).max() < 1e-5
    assert triton.per_head_density() == pytest.approx(eager.per_head_density(), abs=1e-6)
    assert (triton.backend, triton.mode, triton.lengths) == ("triton", "sparse", ((200, 300),))
    assert 0.05 < triton.sparsity() < 1


SIM = dict(mask_ratios={8: (0, 1)}, use_sim_mask=True, text_length=0, key_block=64, query_block=128)
THRESHOLDS = dict(sim_2x_threshold=0.7975, sim_4x_threshold=0.8045, sim_8x_threshold=0.81)  # some blocks pass each


@pytest.mark.parametrize("swap", ["", "24", "28", "48"])
def test_each_similarity_threshold_is_its_own_level(swap):
    """On each backend, and no two thresholds change places on the way."""
    qkv, values = tensors(700, 700, 1, 1, 128), dict(THRESHOLDS)
    if swap:
        a, b = (f"sim_{level}x_threshold" for level in swap)
        values[a], values[b] = values[b], values[a]
    want = pyramid_attention(*qkv, EAGER.replace(**SIM, **values), return_stats=True)[1].sparsity()
    assert pyramid_attention(*qkv, TRITON.replace(**SIM, **values), return_stats=True)[1].sparsity() == want
    plain = pyramid_attention(*qkv, EAGER.replace(**SIM, **THRESHOLDS), return_stats=True)[1].sparsity()
    assert (want == plain) == (not swap), "the exchange must show"


@pytest.mark.parametrize("dense_below,sparse", [(0, 3), (150, 2), (1000, 0)], ids=["all sparse", "one dense", "dense"])
def test_left_padded_batch(dense_below, sparse):
    qkv, starts = tensors(240, 260, 2, 1, 32, batch=3), [0, 33, 120]
    changes = {"dense_below": dense_below, "text_length": 0, "use_sim_mask": False, "mask_mode": "topk"}
    keywords = {"kv_start": starts, "heads_last": True, "return_stats": True}
    want, eager = pyramid_attention(*qkv, EAGER.replace(**changes), **keywords)
    got, triton = pyramid_attention(*qkv, TRITON.replace(**changes), **keywords)
    assert len(eager.pairs) == len(triton.pairs) == sparse and (eager.sparsity() > 0.05) == (sparse > 0)
    assert np.abs(got.numpy() - want.numpy()).max() < 1e-5
    assert (triton.mode, triton.lengths) == (eager.mode, eager.lengths)
    assert triton.sparsity() == pytest.approx(eager.sparsity(), abs=1e-6)


def test_short_prompts_run_dense():
    qkv = tensors(150, 150, 2, 1, 32)
    out, stats = pyramid_attention(*qkv, TRITON.replace(dense_below=None), return_stats=True)
    dense = pyramid_attention(*qkv, EAGER.replace(dense_below=1000))
    assert stats.mode == "dense" and "shorter than" in stats.reason and stats.sparsity() == 0
    assert np.abs(out.numpy() - dense.numpy()).max() < 1e-5


def test_importance_and_counts():
    qkv = tensors(200, 260, 2, 1, 64)
    want, got = (estimate_block_importance(*qkv[:2], config).numpy() for config in (EAGER, TRITON))
    assert np.abs(want - got).max() < 1e-5
    _, want, wants = adaptive_block_sparse_attn(*qkv, EAGER)
    _, got, gots = adaptive_block_sparse_attn(*qkv, TRITON)
    assert float(got) == pytest.approx(float(want), abs=1e-6)
    assert gots.numpy().tolist() == pytest.approx(wants.numpy().tolist(), abs=1e-6)


def test_last_dimension_that_is_not_contiguous():
    q, k, v = (x.transpose([0, 1, 3, 2]).contiguous().transpose([0, 1, 3, 2]) for x in tensors(70, 130, 2, 1, 32))
    assert q.strides[-1] != 1
    got, want = (pyramid_attention(q, k, v, config).numpy() for config in (TRITON, EAGER))
    assert np.abs(got - want).max() < 1e-5


def test_host_tensors_outside_the_interpreter_are_refused(monkeypatch):
    from psa_paddle.bridge import alloc

    monkeypatch.setattr(alloc, "interpreting", lambda kernel: False)
    with pytest.raises(ValueError, match="CUDA tensors"):
        alloc.launch(None, (1,), like=paddle.zeros([1]), x=paddle.zeros([1]))


def test_gradients_are_refused_rather_than_lost():
    q, k, v = tensors(100, 130, 2, 1, 32)
    k.stop_gradient = False
    with pytest.raises(ValueError, match="no gradients"):
        pyramid_attention(q, k, v, TRITON)
    with paddle.no_grad():
        lost = pyramid_attention(q, k, v, TRITON)
    kept = pyramid_attention(q, k, v, EAGER.replace(backend="auto"))
    assert lost.stop_gradient and not kept.stop_gradient
    kept.sum().backward()
    assert float(k.grad.abs().max()) > 0
