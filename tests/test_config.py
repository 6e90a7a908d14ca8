"""AttentionConfig refuses what the operator cannot do, with a sentence."""

import copy
import dataclasses
import pickle

import pytest

from psa_paddle import AttentionConfig
from psa_paddle.config import DEFAULT_PRESET, PRESETS, SEED_RATIOS

BAD = [
    ({"query_block": 100}, ValueError, "query_block must be one of 64, 128"),
    ({"key_block": 48}, ValueError, "key_block must be one of 32, 64, 128"),
    ({"xattn_stride": 5}, ValueError, "xattn_stride"),
    ({"xattn_terms": 3}, ValueError, "xattn_terms must be one of"),
    ({"xattn_query_stride": 2}, ValueError, "xattn_query_stride"),
    ({"xattn_terms": 16, "xattn_stride": 8}, ValueError, "xattn_terms must be at most xattn_stride"),
    ({"xattn_terms": 8, "xattn_stride": 8, "xattn_query_stride": 4}, ValueError, "xattn_terms must be at most"),
    ({"mask_mode": "random"}, ValueError, "mask_mode must be one of energybound, thresholdbound, topk, topk_sqrt"),
    ({"importance_method": "magic"}, ValueError, "importance_method"),
    ({"backend": "cuda"}, ValueError, "backend"),
    ({"text_length": -1}, ValueError, "text_length must not be negative"),
    ({"text_length": 1.5}, TypeError, "text_length must be an integer"),
    ({"warmup_steps": True}, TypeError, "warmup_steps must be an integer"),
    ({"causal": 1}, TypeError, "causal must be True or False"),
    ({"block_means": 1}, TypeError, "block_means must be True or False"),
    ({"use_sim_mask": "yes"}, TypeError, "use_sim_mask must be True or False"),
    ({"sim_2x_threshold": 1.5}, ValueError, "cosine"),
    ({"sim_4x_threshold": "high"}, TypeError, "sim_4x_threshold must be a number"),
    ({"dense_below": -5}, ValueError, "dense_below"),
    ({"mask_ratios": [(0, 1)]}, TypeError, "mask_ratios must be a dict"),
    ({"mask_ratios": {}}, ValueError, "must reach 1.0"),
    ({"mask_ratios": {3: (0, 1)}}, ValueError, "level 3"),
    ({"mask_ratios": {1: (0.0, 0.5), 0: (0.6, 1.0)}}, ValueError, "gap at level 0"),
    ({"mask_ratios": {1: (0.0, 0.5), 0: (0.4, 1.0)}}, ValueError, "overlaps its neighbour at level 0"),
    ({"mask_ratios": {1: (0.0, 0.5)}}, ValueError, "must reach 1.0; they end at 0.5"),
    ({"mask_ratios": {1: (0.2, 0.1), 0: (0.1, 1.0)}}, ValueError, "lo <= hi"),
    ({"mask_ratios": {1: (0.0, 1.2)}}, ValueError, "lo <= hi <= 1"),
    ({"mask_ratios": {1: 0.5}}, TypeError, "pair of numbers"),
    ({"budgets": ()}, ValueError, "positive factors, one for each query head"),
    ({"budgets": (1.0, 0.0)}, ValueError, "positive factors"),
    ({"budgets": (1.0, float("inf"))}, ValueError, "positive factors"),
    ({"budgets": "12"}, TypeError, "a factor for each query head"),
    ({"budgets": 2.0}, TypeError, "a factor for each query head"),
    ({"budgets": (1.0, True)}, TypeError, "a factor for each query head"),
    ({"budgets": (1.0,), "mask_mode": "energybound"}, ValueError, "mean nothing in mask_mode 'energybound'"),
]


@pytest.mark.parametrize("fields,error,words", BAD, ids=[str(fields) for fields, _, _ in BAD])
def test_refuses(fields, error, words):
    with pytest.raises(error, match=words.replace(".", r"\.")):
        AttentionConfig(**fields)


def test_upstream_example_is_accepted():
    ratios = {1: (0.0, 0.6), 2: (0.6, 0.8), 4: (0.8, 0.9), 8: (0.9, 0.9), 0: (0.9, 1.0)}
    config = AttentionConfig(
        query_block=128, key_block=32, mask_mode="energybound", mask_ratios=ratios, xattn_stride=16
    )
    assert config.intervals == ((1, 0.0, 0.6), (2, 0.6, 0.8), (4, 0.8, 0.9), (0, 0.9, 1.0))


def test_thresholdbound_is_energybound():
    assert AttentionConfig(mask_mode="thresholdbound") == AttentionConfig(mask_mode="energybound")


def test_is_frozen_all_the_way():
    config = AttentionConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.query_block = 64
    with pytest.raises(TypeError):
        config.mask_ratios[1] = (0.0, 1.0)


def test_copies_equal_the_original():
    config = AttentionConfig(key_block=32, mask_ratios={1: [0, 0.5], 0: [0.5, 1]}, block_means=False)
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), config.replace()):
        assert other == config and hash(other) == hash(config)
    assert config.replace(key_block=64) != config != config.replace(block_means=True)
    assert config.as_dict()["mask_ratios"] == {"1": [0.0, 0.5], "0": [0.5, 1.0]}


def test_the_default_is_the_preset_balanced():
    assert DEFAULT_PRESET == "balanced" and AttentionConfig() == AttentionConfig.preset("balanced")


def test_presets_are_different_and_take_changes():
    found = {name: AttentionConfig.preset(name) for name in PRESETS}
    assert list(found) == ["quality", "balanced", "fast", "seed"] and len(set(map(str, found.values()))) == 4
    assert found["seed"].mask_mode == "energybound" and dict(found["seed"].mask_ratios) == SEED_RATIOS
    assert AttentionConfig.preset("fast", key_block=32) == found["fast"].replace(key_block=32)


def test_means_need_blocks_to_skip():
    assert not any(AttentionConfig.preset(name).uses_means for name in PRESETS)
    assert all(AttentionConfig.preset(name, block_means=True).uses_means for name in PRESETS)
    assert not AttentionConfig(mask_ratios={1: (0.0, 0.5), 8: (0.5, 1.0), 0: (1.0, 1.0)}).uses_means


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="no preset 'turbo'; use quality, balanced, fast, seed"):
        AttentionConfig.preset("turbo")
