"""Plugged into video transformers: exact where it must be, right steps, text kept, undone exactly."""

import logging

import numpy as np
import paddle
import pytest
from stub_video import STUBS, TEXT_LENGTH, StubVideoPipeline

from psa_paddle import PSAConfig, load_preset
from psa_paddle.integrations.ppdiffusers import (
    plug_of,
    psa_attention_in,
    replace_attention_with_psa,
    restore_attention,
)

SETTINGS = {"height": 96, "width": 144, "num_frames": 13, "num_inference_steps": 4}  # grid 4 x 6 x 9
GRID = (4, 6, 9)
PLAIN = load_preset("CogVideo_5b", "baseline")
SPARSE = PSAConfig(block_m=64, block_n=32, rearrange_method="Gilbert", dense_below=0)
ALL_ONE = SPARSE.replace(mask_ratios={1: (0.0, 1.0)})
ONLY_FORCED = PSAConfig(block_m=64, block_n=32, dense_below=0, mask_ratios={0: (0.0, 1.0)})


@pytest.fixture(params=list(STUBS))
def pipe(request):
    return StubVideoPipeline(request.param)


@pytest.fixture
def cogvideox():
    return StubVideoPipeline("stub-cogvideox")


@pytest.fixture
def wan():
    return StubVideoPipeline("stub-wan")


def video(pipe, **changes):
    return pipe("a red ball", **{**SETTINGS, **changes})


def blocks_of(pipe):
    return getattr(pipe.transformer, "transformer_blocks", None) or pipe.transformer.blocks


def snapshot(pipe):
    """Everything that plugging in might leave behind."""
    model = pipe.transformer
    layers = [(sorted(vars(block.attn1)), block.attn1.processor) for block in blocks_of(pipe)]
    weights = {name: (value.data_ptr(), value.numpy().tobytes()) for name, value in model.state_dict().items()}
    names = [name for name, _ in model.named_sublayers()]
    return sorted(vars(model)), len(model._forward_pre_hooks), layers, names, weights


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


def call(pipe, **changes):
    """One call of the transformer with random latents."""
    paddle.seed(3)
    shape = [1, 4, 4, 12, 18]
    with paddle.no_grad():
        return pipe.transformer(
            **{
                "hidden_states": paddle.randn(shape),
                "encoder_hidden_states": paddle.randn([1, TEXT_LENGTH, 32]),
                "timestep": paddle.to_tensor([10.0]),
                **changes,
            }
        )[0].numpy()


def test_mask_runs_dense(pipe):
    block, tokens = blocks_of(pipe)[0], GRID[0] * GRID[1] * GRID[2]
    length = tokens + (TEXT_LENGTH if pipe.transformer.channels_first is False else 0)
    attn, forward = block.attn1, block.attn1.forward
    mask = paddle.where(paddle.arange(length) < length - 9, 0.0, -1e9).reshape([1, 1, 1, length])
    attn.forward = lambda *a, **k: forward(*a, **{**k, "attention_mask": mask})
    dense = call(pipe)
    with psa_attention_in(pipe, PLAIN) as plug:
        assert np.array_equal(call(pipe), dense)
        assert plug.steps()[0]["dense_reasons"] == {"attention mask": 1, "plain softmax": 1}


def test_gradients_run_dense(pipe):
    with psa_attention_in(pipe, SPARSE) as plug:
        latent = paddle.randn([1, 4, 4, 12, 18])
        out = pipe.transformer(
            hidden_states=latent, encoder_hidden_states=paddle.randn([1, TEXT_LENGTH, 32]), timestep=paddle.ones([1])
        )[0]
        out.sum().backward()
        assert plug.steps()[0]["dense_reasons"] == {"gradients": 2}


def test_head_dimension_that_the_operator_lacks_runs_dense():
    pipe = StubVideoPipeline("stub-wan", head_dim=48)
    dense = video(pipe)
    with psa_attention_in(pipe, SPARSE) as plug:
        assert np.array_equal(video(pipe), dense)
        assert plug.steps()[0]["dense_reasons"] == {"head dimension 48": 4}


def test_tokens_that_are_not_the_latents_run_dense(wan):
    dense = call(wan)
    with psa_attention_in(wan, SPARSE) as plug:
        plug._family = type("Odd", (), {"grid": staticmethod(lambda config, shape: (1, 2, 3))})
        assert np.array_equal(call(wan), dense)
        assert list(plug.steps()[0]["dense_reasons"]) == ["216 tokens are not the latent's grid (1, 2, 3)"]


def test_short_videos_run_dense_and_say_so(pipe):
    with psa_attention_in(pipe, SPARSE.replace(dense_below=None)) as plug:
        video(pipe, num_inference_steps=1)
        assert list(plug.steps()[0]["dense_reasons"]) == ["shorter than 1024 keys"]


def test_presets_verbose_logs_a_line_a_step(pipe, caplog):
    caplog.set_level(logging.INFO, "psa_paddle")
    loud = load_preset("Wan2.1_1.3b", "psa_topk")
    assert loud.verbose and not PLAIN.verbose
    for preset, verbose, lines in ((loud, None, 4), (loud, False, 0), (PLAIN, None, 0), (PLAIN, True, 4)):
        caplog.clear()
        with psa_attention_in(pipe, preset, verbose=verbose):
            video(pipe)
        assert len(caplog.messages) == lines
        assert all(f"step {i:>2}" in line for i, line in enumerate(caplog.messages, start=1))


@pytest.mark.parametrize(
    "config,error,words",
    [
        ({"warmup_steps": 2}, TypeError, "PSAConfig or a Preset"),
        (load_preset("Qwen2.5-VL"), ValueError, "for a language model"),
    ],
    ids=["dict", "causal preset"],
)
def test_refuses_configurations(pipe, config, error, words):
    before = snapshot(pipe)
    with pytest.raises(error, match=words):
        replace_attention_with_psa(pipe, config)
    assert snapshot(pipe) == before


def test_refuses_other_models(cogvideox):
    with pytest.raises(TypeError, match="CogVideoX or Wan transformer"):
        replace_attention_with_psa(paddle.nn.Linear(2, 2))
    attn = cogvideox.transformer.transformer_blocks[0].attn1
    del attn.to_q
    attn.fused_projections = True
    with pytest.raises(TypeError, match="unfuse_qkv_projections"):
        replace_attention_with_psa(cogvideox)
