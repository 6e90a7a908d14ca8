"""A configuration, the name of a preset, or neither; NumPy's numbers are numbers; anything else gets one sentence."""

import json

import numpy as np
import paddle
import pytest
from shared import smooth_qkv

from psa_paddle import (
    AttentionConfig,
    PSAAttention,
    PSAConfig,
    PyramidAdaptiveBlockSparseAttn,
    adaptive_block_sparse_attn,
    estimate_block_importance,
    load_preset,
    psa_attention,
    pyramid_attention,
)
from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.stats import PSALogger

CALLS = {
    "pyramid_attention": lambda q, k, v, config: pyramid_attention(q, k, v, config),
    "adaptive_block_sparse_attn": lambda q, k, v, config: adaptive_block_sparse_attn(q, k, v, config)[0],
    "estimate_block_importance": lambda q, k, v, config: estimate_block_importance(q, k, config),
    "PyramidAdaptiveBlockSparseAttn": lambda q, k, v, config: PyramidAdaptiveBlockSparseAttn(config)(q, k, v),
}
PSA_CALLS = {
    "PSAAttention": lambda q, k, v, config: PSAAttention(config)(q, k, v),
    "psa_attention": lambda q, k, v, config: psa_attention(q, k, v, config),
}


@pytest.fixture(scope="module")
def qkv():
    return [paddle.to_tensor(x) for x in smooth_qkv(1100, 1100, 1, 1, 32)]


@pytest.mark.parametrize("call", CALLS)
def test_a_presets_name_is_the_preset(qkv, call):
    found = {name: CALLS[call](*qkv, name).numpy() for name in ("balanced", "seed")}
    for name, out in found.items():
        np.testing.assert_array_equal(out, CALLS[call](*qkv, AttentionConfig.preset(name)).numpy())
    assert not np.array_equal(*found.values())
    np.testing.assert_array_equal(CALLS[call](*qkv, None).numpy(), found["balanced"])


@pytest.mark.parametrize("call", PSA_CALLS)
def test_a_video_models_name_is_its_default_preset(qkv, call):
    out = PSA_CALLS[call](*qkv, "CogVideo_5b").numpy() if call == "psa_attention" else None
    config = load_preset("CogVideo_5b").config.replace(warmup_steps=0)
    if call == "PSAAttention":
        assert PSAAttention("CogVideo_5b").config == load_preset("CogVideo_5b").config
    else:
        np.testing.assert_array_equal(out, psa_attention(*qkv, config).numpy())


def test_the_plugs_choice_takes_a_name():
    assert AttentionChoice(psa="fast").psa == AttentionConfig.preset("fast")


@pytest.mark.parametrize("bad", [{}, {"key_block": 64}, 5, False, [], PSAConfig(), ""], ids=repr)
@pytest.mark.parametrize("call", CALLS)
def test_refuses_what_is_no_configuration(qkv, call, bad):
    error, words = (ValueError, "there is no preset ''; use quality") if bad == "" else (TypeError, "config must be an")
    with pytest.raises(error, match=words):
        CALLS[call](*qkv, bad)


@pytest.mark.parametrize(
    "bad", [{}, 5, AttentionConfig(), "balanced", "Qwen2.5-VL"], ids=["dict", "int", "other", "name", "language"]
)
@pytest.mark.parametrize("call", PSA_CALLS)
def test_refuses_what_is_no_video_configuration(qkv, call, bad):
    words = {"balanced": "no model 'balanced'; there are Wan2.1_1.3b", "Qwen2.5-VL": "Qwen2.5-VL is a language model"}
    error, words = (ValueError, words[bad]) if isinstance(bad, str) else (TypeError, "config must be a PSAConfig")
    with pytest.raises(error, match=words):
        PSA_CALLS[call](*qkv, bad)


def test_the_plugs_choice_refuses_what_is_no_configuration():
    with pytest.raises(TypeError, match="psa_config must be an AttentionConfig, the name of a preset"):
        AttentionChoice(psa={})


NUMPY = dict(
    query_block=np.int64(64), key_block=np.int32(32), importance_method="xattn", xattn_stride=np.uint8(8),
    xattn_terms=np.int16(2), text_length=np.int64(7), warmup_steps=np.int64(0), dense_below=np.int64(0),
    sim_2x_threshold=np.float32(0.5), causal=np.bool_(False), block_means=np.True_,
    mask_ratios={np.int64(1): (np.float32(0), np.float64(0.5)), 0: (0.5, 1)},
)  # fmt: skip


def test_numpys_numbers_are_numbers():
    plain = dict(NUMPY, mask_ratios={1: (0.0, 0.5), 0: (0.5, 1.0)})
    plain = {name: getattr(value, "item", lambda value=value: value)() for name, value in plain.items()}
    config = AttentionConfig(**NUMPY)
    assert config == AttentionConfig(**plain) and hash(config) == hash(AttentionConfig(**plain))
    assert json.loads(json.dumps(config.as_dict())) == config.as_dict()
    psa = PSAConfig(block_m=np.int64(128), block_n=np.int64(32), tile_n=np.int64(16), warmup_steps=np.int64(3))
    assert psa == PSAConfig(block_m=128, block_n=32, tile_n=16, warmup_steps=3)
    assert type(psa.block_m) is type(psa.tile_n) is type(psa.warmup_steps) is int


ALLOWED = {
    "query_block": (64, 128), "key_block": (32, 64, 128), "xattn_stride": (1, 2, 4, 8, 16, 32),
    "xattn_query_stride": (4, 8, 16, 32), "xattn_terms": (1, 2, 4, 8, 16, 32), "sim_2x_threshold": (-1.0, 1.0),
    "sim_4x_threshold": (-1.0, 1.0), "sim_8x_threshold": (-1.0, 1.0), "text_length": (0, 1, None),
    "dense_below": (0, 1, None), "warmup_steps": (0, 1), "backend": ("auto", "eager", "triton"),
    "importance_method": ("peak", "xattn", "pooling"), "mask_mode": ("energybound", "topk", "topk_sqrt"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_takes_every_documented_value(name):
    base = {"importance_method": "xattn", "xattn_stride": 32, "xattn_query_stride": 32, "xattn_terms": 1}
    for value in ALLOWED[name]:
        assert getattr(AttentionConfig(**{**base, name: value}), name) == value


WRONG = [
    ({"sim_2x_threshold": 1.01}, ValueError, "cosine"),
    ({"sim_4x_threshold": -1.01}, ValueError, "cosine"),
    ({"xattn_stride": 33}, ValueError, "xattn_stride must be one of 1, 2, 4, 8, 16, 32, got 33"),
    ({"mask_ratios": {1: (0.0,), 0: (0.5, 1.0)}}, TypeError, "pair of numbers"),
    ({"key_block": 64.0}, TypeError, "key_block must be an integer, got 64.0"),
    ({"key_block": np.float64(64)}, TypeError, "key_block must be an integer"),
    ({"key_block": "64"}, TypeError, "key_block must be an integer, got '64'"),
    ({"key_block": np.array([64])}, TypeError, "key_block must be an integer"),
    ({"query_block": 128.0}, TypeError, "query_block must be an integer"),
    ({"query_block": True}, TypeError, "query_block must be an integer"),
    ({"xattn_stride": 4.0}, TypeError, "xattn_stride must be an integer"),
    ({"xattn_terms": 1.0}, TypeError, "xattn_terms must be an integer"),
    ({"dense_below": 0.0}, TypeError, "dense_below must be an integer"),
    ({"warmup_steps": None}, TypeError, "warmup_steps must be an integer"),
    ({"mask_mode": 1}, TypeError, "mask_mode must be text, one of energybound"),
    ({"mask_mode": []}, TypeError, "mask_mode must be text"),
    ({"backend": None}, TypeError, "backend must be text"),
    ({"sim_8x_threshold": float("nan")}, ValueError, "cosine"),
    ({"sim_8x_threshold": 1j}, TypeError, "sim_8x_threshold must be a number"),
    ({"causal": np.int64(1)}, TypeError, "causal must be True or False"),
    ({"mask_ratios": {1.0: (0, 1)}}, ValueError, "names level 1.0"),
    ({"mask_ratios": {1: "01"}}, TypeError, "pair of numbers"),
    ({"mask_ratios": {1: ("0", "1")}}, TypeError, "pair of numbers"),
    ({"mask_ratios": {1: (0, float("nan"))}}, ValueError, "lo <= hi"),
]


@pytest.mark.parametrize("fields,error,words", WRONG, ids=[str(fields) for fields, _, _ in WRONG])
def test_refuses(fields, error, words):
    with pytest.raises(error, match=words):
        AttentionConfig(**fields)


@pytest.mark.parametrize("name", [["balanced"], 5, None])
def test_a_presets_name_is_text(name):
    with pytest.raises(TypeError, match="the name of a preset must be text, got"):
        AttentionConfig.preset(name)


PSA_WRONG = [
    ({"block_m": 128.0}, "block_m must be an integer"),
    ({"block_n": "64"}, "block_n must be an integer"),
    ({"tile_n": 32.0}, "tile_n must be an integer"),
    ({"mask_mode": 3}, "mask_mode must be text"),
    ({"rearrange_method": 1}, "rearrange_method must be text"),
]


@pytest.mark.parametrize("fields,words", PSA_WRONG, ids=[str(fields) for fields, _ in PSA_WRONG])
def test_video_configuration_refuses(fields, words):
    with pytest.raises(TypeError, match=words):
        PSAConfig(**fields)


LOGS = [
    ({"log_dir": 5}, TypeError, "log_dir must be the path of a folder, got 5"),
    ({"log_dir": b"log"}, TypeError, "log_dir must be the path of a folder"),
    ({"log_dir": "log", "session_name": 5}, TypeError, "session_name must be text, got 5"),
    ({"log_dir": "log", "session_name": "a/b"}, ValueError, "session_name must be a file name, got 'a/b'"),
    ({"log_dir": "log", "session_name": ".."}, ValueError, "session_name must be a file name"),
    ({"log_dir": "file"}, NotADirectoryError, "log_dir .*file is not a folder"),
    ({"log_dir": "file/below"}, NotADirectoryError, "log_dir .*below is not a folder"),
    ({"layer_idx": "3"}, TypeError, "layer_idx must be an integer, got '3'"),
    ({"layer_idx": 1.0}, TypeError, "layer_idx must be an integer"),
]


@pytest.mark.parametrize("given,error,words", LOGS, ids=[str(given) for given, _, _ in LOGS])
def test_the_log_refuses(given, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(error, match=words):
        PyramidAdaptiveBlockSparseAttn(**given)
    if "layer_idx" not in given:
        with pytest.raises(error, match=words):
            PSALogger(given["log_dir"], AttentionConfig(), given.get("session_name"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "kept"
