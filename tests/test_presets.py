"""Presets: what the bundled file says, and files of a user's own."""

import numpy as np
import paddle
import pytest
import yaml
from shared import smooth_qkv
from shared_presets import CUSTOM

from psa_paddle.config import PRESET_USES, PRESETS, AttentionConfig
from psa_paddle.presets import PresetError, check_presets, list_presets, load_preset
from psa_paddle.psa_config import PSAConfig
from psa_paddle.psa_module import PSAAttention

STRUCTURE = """
ModelName:
  default_attention: preset_name     # the preset used by default
  video_scale:                       # divisors of the video's dimensions
    width_divisor: 16
    height_divisor: 16
    depth_divisor: 4
  text_length: 226                   # text tokens
  attention_configs:
    preset_name:                     # name of the preset
      type: psa                      # "psa" or "dense"
      description: "..."
      # further parameters...
"""
THRESHOLDBOUND = """
mask_ratios:
  1: [0.0, 0.4]
  2: [0.4, 0.5]
  4: [0.5, 0.6]
  8: [0.6, 0.8]
  0: [0.8, 1.0]
"""
TOPK = """
mask_ratios:
  1: [0.0, 0.1]
  2: [0.1, 0.15]
  4: [0.15, 0.15]
  8: [0.15, 0.35]
  0: [0.35, 1.0]
"""


def test_the_structure_as_printed_loads_with_the_defaults(write_preset):
    preset = load_preset("ModelName", file=write_preset(STRUCTURE))
    assert preset.config == PSAConfig() and (preset.name, preset.description) == ("preset_name", "...")
    assert preset.text_length == 226 and preset.grid(49, 480, 720) == (13, 30, 45)


def test_the_custom_preset_as_printed_loads(write_preset):
    path = write_preset(CUSTOM)
    preset = load_preset("CogVideo_5b", "my_custom_preset", path)
    assert preset.config == PSAConfig(
        mask_ratios={1: (0.0, 0.5), 2: (0.5, 0.7), 4: (0.7, 0.9), 0: (0.9, 1.0)},
        mask_mode="thresholdbound",
        warmup_steps=10,
        rearrange_method="Gilbert",
        sim_2x_threshold=0.7,
        sim_4x_threshold=0.65,
        sim_8x_threshold=0.6,
    )
    assert preset.text_length == 226 and preset.video_scale == (4, 16, 16)  # from the bundled section
    assert list_presets("CogVideo_5b", path)["CogVideo_5b"][-1] == "my_custom_preset"
    assert load_preset("CogVideo_5b", file=path) == load_preset("CogVideo_5b")


PUBLISHED_CUSTOM = """
CogVideo_5b:
  attention_configs:
    my_custom_preset:
      type: psa
      description: "我的自定义PSA配置"
      use_rearrange: true
      block_size:
        m: 128
        n: 64
        tile_n: 32
      mask_ratios:
        1: [0.0, 0.5]
        2: [0.5, 0.7]
        4: [0.7, 0.9]
        0: [0.9, 1.0]
      mask_mode: thresholdbound
      warmup_steps: 10
"""


def test_a_rearrangement_without_a_method_is_gilberts_as_upstream(write_preset):
    preset = load_preset("CogVideo_5b", "my_custom_preset", write_preset(PUBLISHED_CUSTOM))
    assert preset.config == PSAConfig(
        mask_ratios={1: (0.0, 0.5), 2: (0.5, 0.7), 4: (0.7, 0.9), 0: (0.9, 1.0)},
        mask_mode="thresholdbound",
        warmup_steps=10,
        rearrange_method="Gilbert",
    )
    assert preset.description == "我的自定义PSA配置"
    off = write_preset(PUBLISHED_CUSTOM.replace("use_rearrange: true", "use_rearrange: false"))
    assert load_preset("CogVideo_5b", "my_custom_preset", off).config.rearrange_method is None


NOT_TEXT = {
    "GBK": (PUBLISHED_CUSTOM.encode("gbk"), r":6: not UTF-8 .*save it as UTF-8"),
    "UTF-16": (PUBLISHED_CUSTOM.encode("utf-16"), ":1: not UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n", ":1: not UTF-8"),
    "control characters": (b"M:\n  a: \x00\x07\n", "not YAML: .*not allowed"),
}


@pytest.mark.parametrize("name", NOT_TEXT)
def test_a_file_that_is_no_text_gets_a_sentence(tmp_path, name):
    data, words = NOT_TEXT[name]
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)
    with pytest.raises(PresetError, match=words) as caught:
        check_presets(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(PUBLISHED_CUSTOM.encode("utf-8-sig"))
    assert load_preset("CogVideo_5b", "my_custom_preset", path).config.block_n == 64


@pytest.mark.parametrize("text, mode", [(THRESHOLDBOUND, "thresholdbound"), (TOPK, "topk")], ids=["share", "rank"])
def test_the_ratios_as_printed_load(write_preset, text, mode):
    body = "\n".join("      " + line for line in text.strip().splitlines())
    path = write_preset(f"M:\n  attention_configs:\n    p:\n      type: psa\n      mask_mode: {mode}\n{body}\n")
    config = load_preset("M", "p", path).config
    assert config.mask_mode == mode and config.mask_ratios[8] == tuple(yaml.safe_load(text)["mask_ratios"][8])


def test_every_bundled_preset_is_valid_and_described():
    check_presets()
    for model, names in list_presets().items():
        loaded = [load_preset(model, name) for name in names]
        assert loaded[0].config is None and all(p.description for p in loaded)
        assert load_preset(model).config is not None  # the default is sparse


def test_the_sections_are_those_of_seven_models():
    names = "Wan2.1_1.3b Wan2.1_14b Wan2.2_5B Wan2.2_A14B CogVideo_5b CogVideo1.5_5b Qwen2.5-VL"
    assert list(list_presets()) == names.split()
    assert list_presets("Wan2.1_1.3b") == {"Wan2.1_1.3b": ["baseline", "psa_balanced", "psa_topk"]}


# model, preset -> (block_n, level 1 up to, skipped from, mask_mode, attn_impl, warmup_steps, rearrange_method)
PUBLISHED = {
    ("Wan2.1_1.3b", "psa_balanced"): (128, 0.5, 0.8, "thresholdbound", "old_mask_type", 15, "Gilbert"),
    ("Wan2.1_1.3b", "psa_topk"): (32, 0.05, 0.25, "topk", "new_mask_type", 15, "Gilbert"),
    ("Wan2.1_14b", "psa_balanced"): (128, 0.4, 0.8, "thresholdbound", "new_mask_type", 15, "Gilbert"),
    ("Wan2.2_5B", "psa_balanced"): (32, 0.6, 0.8, "thresholdbound", "new_mask_type", 15, "Gilbert"),
    ("Wan2.2_A14B", "psa_balanced"): (32, 0.5, 0.8, "thresholdbound", "new_mask_type", 12, "Gilbert"),
    ("CogVideo_5b", "psa_balanced"): (128, 0.1, 0.35, "topk", "new_mask_type", 15, None),
    ("CogVideo_5b", "psa_4steps"): (128, 0.05, 0.5, "topk", "old_mask_type", 0, None),
    ("CogVideo1.5_5b", "psa_balanced"): (32, 0.1, 0.35, "topk", "new_mask_type", 15, "Gilbert"),
}


@pytest.mark.parametrize("which", PUBLISHED, ids=["-".join(key) for key in PUBLISHED])
def test_values_are_the_published_ones(which):
    c = load_preset(*which).config
    got = (c.block_n, c.mask_ratios[1][1], c.mask_ratios[0][0], c.mask_mode, c.attn_impl, c.warmup_steps)
    assert (*got, c.rearrange_method) == PUBLISHED[which]
    assert c.use_sim_mask == (which == ("Wan2.1_1.3b", "psa_balanced"))


@pytest.mark.parametrize(
    "model, video, grid",
    [
        ("Wan2.1_14b", (81, 720, 1280), (21, 45, 80)),
        ("Wan2.2_5B", (121, 704, 1280), (31, 22, 40)),
        ("CogVideo1.5_5b", (81, 768, 1360), (11, 48, 85)),
        ("Qwen2.5-VL", (16, 448, 644), (8, 16, 23)),
    ],
)
def test_grid_of_a_video(model, video, grid):
    assert load_preset(model).grid(*video) == grid


def test_grid_refuses(write_preset):
    preset = load_preset("Wan2.1_14b")
    for video, words in (((0, 720, 1280), "frames"), ((81, 721, 1280), "height"), ((81, 720, 8), "width")):
        with pytest.raises(ValueError, match=words):
            preset.grid(*video)
    text = STRUCTURE.replace("  text_length", "  # text_length")
    bare = text[: text.index("  video_scale")] + text[text.index("  # text_length") :]
    with pytest.raises(ValueError, match="no video_scale"):
        load_preset("ModelName", file=write_preset(bare)).grid(81, 720, 1280)


def test_a_preset_drives_the_module():
    preset = load_preset("CogVideo1.5_5b")
    length = preset.text_length + 1080
    q, k, v = (paddle.to_tensor(x) for x in smooth_qkv(length, length, 1, 1, 32))
    psa = PSAAttention(preset.config.replace(warmup_steps=0))
    text = {"grid": (3, 18, 20), "text_length": preset.text_length}
    out = psa(q, k, v, causal=preset.causal, **text)
    assert psa.last_call.sparsity() > 0.05 and np.isfinite(out.numpy()).all()


def test_presets_of_qwen_are_those_of_the_configuration():
    names = list_presets("Qwen2.5-VL")["Qwen2.5-VL"]
    assert names == ["baseline", *PRESETS]
    for name in PRESETS:
        assert load_preset("Qwen2.5-VL", name).config == AttentionConfig.preset(name)
        assert load_preset("Qwen2.5-VL", name).description == f"{PRESET_USES[name].capitalize()}."
    assert load_preset("Qwen2.5-VL").config == AttentionConfig()


def test_the_names_of_presets_stand_in_one_place(monkeypatch, write_preset):
    """A preset added to the configuration's is one of the language models', and of a user's model that says so."""
    monkeypatch.setitem(PRESETS, "mine", {**PRESETS["fast"], "key_block": 32})
    monkeypatch.setitem(PRESET_USES, "mine", "for me")
    found = load_preset("Qwen2.5-VL", "mine")
    assert found.config == AttentionConfig.preset("fast", key_block=32) and found.description == "For me."
    path = write_preset("Other:\n  causal: true\n  named_presets: true\n  attention_configs: {fast: {type: dense}}\n")
    assert list_presets("Other", path)["Other"] == ["fast", *(name for name in PRESETS if name != "fast")]
    assert load_preset("Other", "fast", path).config is None and load_preset("Other", "mine", path).causal
    path = write_preset("Qwen2.5-VL: {named_presets: false, attention_configs: {}, default_attention: baseline}\n")
    assert list_presets("Qwen2.5-VL", path)["Qwen2.5-VL"] == ["baseline"]


PREFILL = """
Qwen2.5-VL:
  attention_configs:
    mine:
      type: prefill
      preset: seed
      key_block: 32
      block_means: true
      mask_ratios: {1: [0.0, 0.2], 0: [0.2, 1.0]}
    plain:
      type: prefill
"""


def test_a_user_file_changes_single_settings_of_a_prefill_preset(write_preset):
    path = write_preset(PREFILL)
    mine = load_preset("Qwen2.5-VL", "mine", path)
    ratios = {1: (0.0, 0.2), 0: (0.2, 1.0)}
    assert (
        mine.config == AttentionConfig.preset("seed", key_block=32, block_means=True, mask_ratios=ratios)
        and mine.causal
    )
    assert load_preset("Qwen2.5-VL", "plain", path).config == AttentionConfig()


PREFILL_REFUSED = {
    "unknown preset": ("preset: seed", "preset: seeds", "preset", "must be quality or balanced or fast or seed"),
    "bad block": ("key_block: 32", "key_block: 48", "key_block", "one of 32, 64, 128"),
    "bad flag": ("block_means: true", "block_means: 1", "block_means", "True or False"),
    "key of a psa preset": ("key_block: 32", "tile_n: 32", "tile_n", "unknown key"),
    "psa key": ("key_block: 32", "attn_impl: new_mask_type", "attn_impl", "means nothing in a prefill preset"),
    "gap": ("0: [0.2, 1.0]", "0: [0.3, 1.0]", "mask_ratios.0", "gap"),
}


@pytest.mark.parametrize("case", PREFILL_REFUSED.values(), ids=list(PREFILL_REFUSED))
def test_a_wrong_prefill_preset_names_key_and_line(write_preset, case):
    old, new, key, words = case
    text = PREFILL.replace(old, new)
    line = next(i for i, x in enumerate(text.splitlines(), 1) if new in x)
    with pytest.raises(PresetError) as refusal:
        check_presets(write_preset(text))
    assert f":{line}: Qwen2.5-VL.attention_configs.mine.{key}: " in str(refusal.value) and words in str(refusal.value)


def test_a_user_file_overrides_a_bundled_section(write_preset):
    path = write_preset("Wan2.1_14b:\n  default_attention: baseline\n  attention_configs: {}\n")
    assert load_preset("Wan2.1_14b", file=path).config is None
    assert load_preset("Wan2.1_14b", "psa_balanced", path) == load_preset("Wan2.1_14b", "psa_balanced")
