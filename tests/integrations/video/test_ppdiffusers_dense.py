"""What the video plug leaves to the model's own processors, logs, and refuses."""

import logging

import numpy as np
import paddle
import pytest
from shared_video import GRID, PLAIN, SPARSE, blocks_of, snapshot, video
from stub_video import TEXT_LENGTH, StubVideoPipeline

from psa_paddle import load_preset
from psa_paddle.integrations.video.attention import psa_attention_in, replace_attention_with_psa


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


def test_refuses_a_prefill_preset_of_a_bidirectional_model(pipe, write_preset):
    path = write_preset("mine:\n  attention_configs:\n    fast:\n      type: prefill\n")
    preset = load_preset("mine", "fast", file=path)
    before = snapshot(pipe)
    with pytest.raises(ValueError, match="preset fast of mine is for a language model"):
        replace_attention_with_psa(pipe, preset)
    assert snapshot(pipe) == before


def test_refuses_other_models(cogvideox):
    with pytest.raises(TypeError, match="CogVideoX or Wan transformer"):
        replace_attention_with_psa(paddle.nn.Linear(2, 2))
    cogvideox.transformer_2 = cogvideox.transformer
    with pytest.raises(TypeError, match="two transformers"):
        replace_attention_with_psa(cogvideox)
    del cogvideox.transformer_2
    attn = cogvideox.transformer.transformer_blocks[0].attn1
    del attn.to_q
    attn.fused_projections = True
    with pytest.raises(TypeError, match="unfuse_qkv_projections"):
        replace_attention_with_psa(cogvideox)
