"""Plugged into video transformers: exact where it must be, right steps, text kept, undone exactly."""

import numpy as np
import pytest
from shared_video import ALL_ONE, GRID, ONLY_FORCED, PLAIN, SPARSE, snapshot, video
from stub_video import TEXT_LENGTH

from psa_paddle.integrations.video.attention import (
    plug_of,
    psa_attention_in,
    replace_attention_with_psa,
    restore_attention,
)


def numbers(plug):
    return [(row["run"], row["step"], row["layers_sparse"]) for row in plug.steps()]


@pytest.mark.parametrize("guidance", [1.0, 5.0], ids=["no guidance", "guidance"])
def test_plain_softmax_through_our_processors_is_bitwise_the_model(pipe, guidance):
    dense = video(pipe, guidance_scale=guidance)
    with psa_attention_in(pipe, PLAIN) as plug:
        assert np.array_equal(video(pipe, guidance_scale=guidance), dense)
        assert all(list(row["dense_reasons"]) == ["plain softmax"] for row in plug.steps())


def test_restore_is_exact(pipe):
    dense, before = video(pipe), snapshot(pipe)
    assert replace_attention_with_psa(pipe, SPARSE) is pipe
    assert snapshot(pipe)[3:] == before[3:], "no sublayer added, no weight copied or changed"
    assert not np.array_equal(video(pipe), dense)
    assert restore_attention(pipe) is pipe and plug_of(pipe) is None
    assert snapshot(pipe) == before
    assert np.array_equal(video(pipe), dense)
    assert restore_attention(pipe) is pipe


def test_context_restores_after_an_error(pipe):
    before = snapshot(pipe)
    with pytest.raises(ZeroDivisionError), psa_attention_in(pipe, SPARSE):
        _ = 1 / 0
    assert snapshot(pipe) == before


def test_plugging_in_twice_takes_the_new_configuration(pipe):
    before = snapshot(pipe)
    replace_attention_with_psa(pipe.transformer, SPARSE)
    replace_attention_with_psa(pipe, ALL_ONE)
    assert plug_of(pipe).config == ALL_ONE and plug_of(pipe.transformer) is plug_of(pipe)
    restore_attention(pipe.transformer)
    assert snapshot(pipe) == before


@pytest.mark.parametrize("method", [None, "Gilbert", "STA", "SemanticAware", "Hybrid"])
def test_all_levels_one_equal_dense(pipe, method):
    dense = video(pipe)
    with psa_attention_in(pipe, ALL_ONE.replace(rearrange_method=method)) as plug:
        error = np.abs(video(pipe) - dense).max()
        assert all(row["layers_sparse"] == 2 and row["average_sparsity"] == 0 for row in plug.steps())
    print(f"{method}: {error:.1e}")
    assert error < 1e-4


def test_sparse_video_differs_a_little_and_a_broken_attention_much(pipe):
    dense = video(pipe)
    with psa_attention_in(pipe, SPARSE.replace(mask_ratios={1: (0.0, 0.7), 2: (0.7, 1.0)})) as plug:
        sparse = np.abs(video(pipe) - dense).mean()
        assert all(0.05 < row["average_sparsity"] < 0.2 for row in plug.steps())
        attend = plug.attend
        plug.attend = lambda *arguments: attend(*arguments).flip([2])
        broken = np.abs(video(pipe) - dense).mean()
    print(f"mean difference: sparse {sparse:.4f}, broken {broken:.4f}")
    assert 0 < 4 * sparse < broken


def test_warmup_over_all_steps_is_dense_exactly(pipe):
    dense = video(pipe)
    with psa_attention_in(pipe, SPARSE.replace(warmup_steps=4)) as plug:
        assert np.array_equal(video(pipe), dense)
        assert all(list(row["dense_reasons"]) == ["warm-up step"] for row in plug.steps())


@pytest.mark.parametrize("guidance", [1.0, 5.0], ids=["no guidance", "guidance"])
def test_steps_are_counted(pipe, guidance):
    with psa_attention_in(pipe, SPARSE.replace(warmup_steps=2)) as plug:
        video(pipe, guidance_scale=guidance)
        rows = plug.steps()
        assert numbers(plug) == [(1, 1, 0), (1, 2, 0), (1, 3, 2), (1, 4, 2)]
        assert [row["timestep"] for row in rows] == [1000, 750, 500, 250]
        video(pipe, guidance_scale=guidance)
        assert numbers(plug)[4:] == [(2, 1, 0), (2, 2, 0), (2, 3, 2), (2, 4, 2)]
        plug.reset()
        assert plug.steps() == [] and plug.step == 0


@pytest.mark.parametrize("last", [1, 2, 3])
def test_steps_after_an_interrupted_run(pipe, last):
    def stop(step):
        if step == last:
            raise KeyboardInterrupt

    dense = video(pipe)
    with psa_attention_in(pipe, SPARSE.replace(warmup_steps=2)) as plug:
        whole = video(pipe)
        plug.reset()
        with pytest.raises(KeyboardInterrupt):
            video(pipe, on_step=stop)
        again = video(pipe)
        assert [(step, sparse) for _, step, sparse in numbers(plug)][-4:] == [(1, 0), (2, 0), (3, 2), (4, 2)]
    assert np.array_equal(again, whole) and not np.array_equal(again, dense)


def test_grid_follows_the_latent(pipe):
    with psa_attention_in(pipe, SPARSE) as plug:
        assert plug.grid is None
        video(pipe)
        assert plug.grid == GRID
        video(pipe, height=64, num_frames=5)
        assert plug.grid == (2, 4, 9)


def forced_only(q, k, v, text: int, block_m: int, block_n: int):
    """Independent: float64 attention in which video keeps its first key block, and text all that it touches.

    q, k, v: [H, L, D] with text first; returns the same.
    """
    length = q.shape[1]
    order = np.r_[text:length, :text]  # text last, as the operator sees it
    q, k, v = (x[:, order].astype(np.float64) for x in (q, k, v))
    place = np.arange(length)
    last_video = length - text
    keys = (place < block_n) | (place // block_n * block_n + block_n > last_video)
    rows = np.minimum((place // block_m + 1) * block_m, length) > last_video
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    logits = np.where(keys[None, None, :] | rows[None, :, None], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ v
    return out[:, np.argsort(order)]


def test_text_stays_at_full_resolution_where_lengths_do_not_divide(cogvideox):
    """Every video token sees all text and every text token sees all video, though all else is skipped."""
    seen = []
    with psa_attention_in(cogvideox, ONLY_FORCED) as plug:
        attend = plug.attend

        def spy(layer, q, k, v, text, softmax):
            out = attend(layer, q, k, v, text, softmax)
            seen.append(([x.numpy() for x in (q, k, v)], out.numpy(), text))
            return out

        plug.attend = spy
        video(cogvideox, num_inference_steps=1)
    (q, k, v), out, text = seen[0]
    length = q.shape[2]
    assert text == TEXT_LENGTH and length % 64 and length % 32 and (length - text) % 32
    for sample in range(2):
        want = forced_only(q[sample], k[sample], v[sample], text, 64, 32)
        assert np.abs(out[sample] - want).max() < 1e-5


def test_rearranged_text_keeps_its_place(cogvideox):
    """Only forced blocks: the text's rows are dense in any token order, and come back as rows of the text."""
    rows = []
    for config in (PLAIN, ONLY_FORCED, ONLY_FORCED.replace(rearrange_method="Gilbert")):
        with psa_attention_in(cogvideox, config) as plug:
            attend = plug.attend
            plug.attend = lambda *a, attend=attend: rows.append(attend(*a)[:, :, :TEXT_LENGTH].numpy()) or attend(*a)
            video(cogvideox, num_inference_steps=1)
    first = [rows[i] for i in (0, 2, 4)]  # the first layer of each
    assert np.abs(first[1] - first[0]).max() < 1e-5 and np.abs(first[2] - first[0]).max() < 1e-5


def test_cross_attention_is_left_alone(wan):
    before = [block.attn2.processor for block in wan.transformer.blocks]
    with psa_attention_in(wan, SPARSE) as plug:
        assert [block.attn2.processor for block in wan.transformer.blocks] == before
        video(wan, num_inference_steps=1, guidance_scale=1.0)
        assert [layer["calls"] for layer in plug.steps()[0]["layers"]] == [1, 1]


def test_clusters_are_each_layers_own_and_end_with_the_run(wan):
    several = {"height": 160, "width": 192, "num_frames": 17, "guidance_scale": 1.0}  # 600 tokens, three clusters
    with psa_attention_in(wan, SPARSE.replace(rearrange_method="SemanticAware")) as plug:
        first = video(wan, **several)
        assert np.array_equal(video(wan, **several), first)
        assert len(plug._attentions) == 2
