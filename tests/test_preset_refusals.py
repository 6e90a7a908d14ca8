"""What a wrong preset file is told: the key at fault, its line, and what would be right."""

import pytest
from shared_presets import CUSTOM

from psa_paddle.presets import PresetError, check_presets, list_presets, load_preset

# name -> (text to replace in CUSTOM, replacement, key at fault, words)
WRONG = {
    "unknown key": ("verbose: false", "verbos: false", "verbos", "unknown key"),
    "unknown block size": ("tile_n: 32", "tile: 32", "block_size.tile", "unknown key"),
    "key twice": ("verbose: false", "type: psa", "type", "comes twice"),
    "level twice": ("2: [0.5, 0.7]", "1: [0.5, 0.7]", "mask_ratios.1", "comes twice"),
    "type": ("type: psa", "type: sparse", "type", "must be psa or prefill or dense, got 'sparse'"),
    "description": ('"my own configuration"', "7", "description", "must be text"),
    "flag": ("verbose: false", "verbose: 3", "verbose", "true or false"),
    "rearrange flag": ("use_rearrange: true", "use_rearrange: maybe", "use_rearrange", "true or false"),
    "no method": ("rearrange_method: Gilbert", "rearrange_method: null", "use_rearrange", "needs a rearrange_method"),
    "method": ("rearrange_method: Gilbert", "rearrange_method: Hilbert", "rearrange_method", "Gilbert, STA"),
    "sim mask": ("use_sim_mask: false", "use_sim_mask: true", "use_sim_mask", "needs attn_impl"),
    "block": ("n: 64", "n: 48", "block_size.n", "32, 64, 128"),
    "tile_n": ("tile_n: 32", "tile_n: 48", "block_size.tile_n", "must divide"),
    "old blocks": ("attn_impl: new_mask_type", "attn_impl: old_mask_type", "block_size.n", "must be 128"),
    "gap": ("4: [0.7, 0.9]", "4: [0.8, 0.9]", "mask_ratios.4", "gap"),
    "bounds": ("2: [0.5, 0.7]", "2: [0.7, 0.5]", "mask_ratios.2", "lo <= hi"),
    "no pair": ("2: [0.5, 0.7]", "2: 0.5", "mask_ratios.2", "pair"),
    "level": ("4: [0.7, 0.9]", "3: [0.7, 0.9]", "mask_ratios.3", "levels are"),
    "mode": ("mask_mode: thresholdbound", "mask_mode: best", "mask_mode", "topk"),
    "tile": ("[2, 8, 8]", "[2, 8]", "tile_size", "three integers"),
    "warm-up": ("warmup_steps: 10", "warmup_steps: 1.5", "warmup_steps", "integer"),
    "threshold": ("x4: 0.65", "x4: 65", "sim_thresholds.x4", "cosine"),
    "tag": ("verbose: false", "verbose: !!python/name:os.system x", "verbose", "constructor"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_preset_names_key_and_line(case, write_preset):
    old, new, key, words = WRONG[case]
    assert CUSTOM.count(old) == 1
    text = CUSTOM.replace(old, new)
    line = 1 + next(i for i, (a, b) in enumerate(zip(text.split("\n"), CUSTOM.split("\n"), strict=True)) if a != b)
    line = {"no method": 9, "old blocks": 13}.get(case, line)  # where two keys disagree, the one that must change
    path = write_preset(text)
    with pytest.raises(PresetError) as refusal:
        load_preset("CogVideo_5b", "my_custom_preset", path)
    where = f"{path}:{line}: CogVideo_5b.attention_configs.my_custom_preset.{key}: "
    assert str(refusal.value).startswith(where) and words in str(refusal.value)
    with pytest.raises(PresetError):
        check_presets(path)


# name -> (file, line, words)
WRONG_FILES = {
    "no YAML": ("a: [1, 2\nb: 3\n", 2, "not YAML"),
    "empty": ("# nothing\n", 1, "empty"),
    "a list": ("- a\n", 1, "must be a mapping"),
    "no presets": ("M:\n  text_length: 3\n", 1, "M: has no attention_configs"),
    "no type": ("M:\n  attention_configs:\n    p:\n      verbose: true\n", 3, "M.attention_configs.p: has no type"),
    "model key": ("M:\n  txt: 3\n  attention_configs: {}\n", 2, "M.txt: unknown key"),
    "text_length": ("M:\n  text_length: -3\n  attention_configs: {p: {type: dense}}\n", 2, "M.text_length: must be an"),
    "causal": ("M:\n  causal: 1\n  attention_configs: {p: {type: dense}}\n", 2, "M.causal: must be true or false"),
    "divisor": (
        "M:\n  video_scale:\n    depth_divisor: 0\n    width_divisor: 1\n    height_divisor: 1\n"
        "  attention_configs: {p: {type: dense}}\n",
        3,
        "depth_divisor: must be an integer of at least 1",
    ),
    "no divisor": (
        "M:\n  video_scale: {width_divisor: 8, depth_divisor: 4}\n  attention_configs: {p: {type: dense}}\n",
        2,
        "M.video_scale: has no height_divisor",
    ),
    "dense with ratios": (
        "M:\n  attention_configs:\n    p:\n      type: dense\n      mask_mode: topk\n",
        5,
        "means nothing",
    ),
    "default": (
        "M:\n  default_attention: q\n  attention_configs: {p: {type: dense}}\n",
        2,
        "no preset 'q'; there are p",
    ),
    "causal rearranged": (
        "M:\n  causal: true\n  attention_configs:\n    p:\n      type: psa\n      rearrange_method: STA\n",
        6,
        "causal attention excludes",
    ),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_names_the_line(case, write_preset):
    text, line, words = WRONG_FILES[case]
    path = write_preset(text)
    with pytest.raises(PresetError) as refusal:
        check_presets(path)
    assert str(refusal.value).startswith(f"{path}:{line}: ") and words in str(refusal.value)


def test_unknown_names_are_told_what_there_is(write_preset, tmp_path):
    with pytest.raises(PresetError, match="no model 'Wan3'; there are Wan2.1_1.3b"):
        load_preset("Wan3")
    with pytest.raises(PresetError, match="no preset of Wan2.1_14b 'fast'; there are baseline, psa_balanced"):
        load_preset("Wan2.1_14b", "fast")
    with pytest.raises(PresetError, match="no model 'Wan3'"):
        list_presets("Wan3")
    with pytest.raises(PresetError, match="M has no default_attention; name one of p"):
        load_preset("M", file=write_preset("M:\n  attention_configs: {p: {type: dense}}\n"))
    with pytest.raises(FileNotFoundError, match="absent.yaml"):
        load_preset("Wan2.1_14b", file=tmp_path / "absent.yaml")
