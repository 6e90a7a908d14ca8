"""Presets: named configurations for each model, from YAML files that are checked line by line.

The bundled file is configs/attention_config.yaml, installed with the package; the values for the video models are those
published with PSA (arXiv:2512.04025, github.com/ziplab/Pyramid-Sparse-Attention), those for language models come from
``psa_paddle.config.PRESETS``.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import DEFAULT_PRESET, PRESET_USES, PRESETS, AttentionConfig
from .preset_file import Node, PresetError, read
from .psa_config import PSAConfig

PRESET_FILE = Path(__file__).resolve().parent / "configs" / "attention_config.yaml"
DEFAULT_REARRANGEMENT = "Gilbert"  # with use_rearrange: true and no method, as upstream
DIVISORS = ("width_divisor", "height_divisor", "depth_divisor")
# Where the fields of PSAConfig stand in a preset; the rest have their own name.
PLACES = {
    "block_m": ("block_size", "m"),
    "block_n": ("block_size", "n"),
    "tile_n": ("block_size", "tile_n"),
    "sim_2x_threshold": ("sim_thresholds", "x2"),
    "sim_4x_threshold": ("sim_thresholds", "x4"),
    "sim_8x_threshold": ("sim_thresholds", "x8"),
}
SAME_NAME = (
    "use_sim_mask",
    "mask_ratios",
    "mask_mode",
    "attn_impl",
    "tile_size",
    "warmup_steps",
    "rearrange_method",
)
# What a preset for a language model's prefill may change; the section says whether attention is causal.
PREFILL = tuple(f.name for f in dataclasses.fields(AttentionConfig) if f.name not in ("causal", "warmup_steps"))


@dataclass(frozen=True)
class Preset:
    """One preset of one model.

    model, name, description: as in the file; config: a ``PSAConfig`` for ``PSAAttention`` (type psa), an
    ``AttentionConfig`` for a language model's prefill (type prefill), or None for the dense baseline;
    text_length: text tokens before the vision tokens; video_scale: (depth, height, width) divisors, or None;
    causal: whether the model's attention is causal; verbose: whether video generation logs each denoising step.
    """

    model: str
    name: str
    description: str
    config: PSAConfig | AttentionConfig | None
    text_length: int
    video_scale: tuple[int, int, int] | None
    causal: bool
    verbose: bool

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(depth, height, width) in tokens of a video of so many frames and pixels; a last partial step counts.

        Raises:
            ValueError: a size below 1, pixels that the divisors do not divide, or a model without ``video_scale``.
        """
        if self.video_scale is None:
            raise ValueError(f"{self.model} has no video_scale, so its grid is not known.")
        depth, *divisors = self.video_scale
        if frames < 1:
            raise ValueError(f"frames must be at least 1, got {frames}.")
        for name, pixels, divisor in zip(("height", "width"), (height, width), divisors, strict=True):
            if pixels < divisor or pixels % divisor:
                raise ValueError(f"{name} must be a multiple of {divisor} for {self.model}, got {pixels}.")
        return (frames - 1) // depth + 1, height // divisors[0], width // divisors[1]


def _check_model(model: Node) -> tuple[dict[str, Node], dict[str, Node]]:
    """Keys of a model's section, and its presets."""
    keys = model.items(
        ("default_attention", "video_scale", "text_length", "causal", "named_presets", "attention_configs")
    )
    if "attention_configs" not in keys:
        raise model.error("has no attention_configs.")
    presets = keys["attention_configs"].items()
    if "default_attention" in keys:
        keys["default_attention"].text()
    return keys, presets


def _scale(node: Node) -> tuple[int, int, int]:
    divisors = node.items(DIVISORS)
    for name in DIVISORS:
        if name not in divisors:
            raise node.error(f"has no {name}.")
    width, height, depth = (divisors[name].count(1) for name in DIVISORS)
    return depth, height, width


def _config(preset: Node, keys: dict[str, Node], causal: bool) -> PSAConfig:
    """The configuration that a preset's keys describe."""
    nodes = {name: keys[name] for name in SAME_NAME if name in keys}
    for group in ("block_size", "sim_thresholds"):
        places = {place[1]: name for name, place in PLACES.items() if place[0] == group}
        if group in keys:
            nodes.update((places[key], node) for key, node in keys[group].items(tuple(places)).items())
    values = _values(nodes)
    if "rearrange_method" not in keys and "use_rearrange" in keys and keys["use_rearrange"].flag():
        values["rearrange_method"] = DEFAULT_REARRANGEMENT
    rearrange = values.get("rearrange_method") is not None
    if "use_rearrange" in keys and keys["use_rearrange"].flag() != rearrange:
        if not rearrange:
            raise keys["use_rearrange"].error("true needs a rearrange_method.")
        rearrange = False
    try:
        config = PSAConfig(**values)  # checks the method even where it is switched off
        config = config if rearrange else config.replace(rearrange_method=None)
        config.check_causal(causal)
    except (TypeError, ValueError) as error:
        raise _at_fault(str(error), nodes, preset).error(str(error)) from None
    return config


def _prefill_config(preset: Node, keys: dict[str, Node], causal: bool) -> AttentionConfig:
    """One of ``config.PRESETS`` by name, with the fields that the preset's keys change."""
    base = keys["preset"].one_of(*PRESETS) if "preset" in keys else DEFAULT_PRESET
    nodes = {name: keys[name] for name in PREFILL if name in keys}
    try:
        return AttentionConfig.preset(base, causal=causal, **_values(nodes))
    except (TypeError, ValueError) as error:
        raise _at_fault(str(error), nodes, preset).error(str(error)) from None


def _values(nodes: dict[str, Node]) -> dict:
    """The nodes' values; the levels of mask_ratios get nodes of their own, for ``_at_fault``."""
    values = {name: node.value() for name, node in nodes.items()}
    if "mask_ratios" in nodes:
        nodes.update((f"mask_ratios.{level}", node) for level, node in nodes["mask_ratios"].items().items())
    return values


def _at_fault(words: str, nodes: dict[str, Node], preset: Node) -> Node:
    """The node that a refusal is about: the field that it names first, or the level of mask_ratios."""
    named = [name for name in nodes if name in words]
    if not named:
        return preset
    name = min(named, key=words.index)
    level = re.search(r"(?:mask_ratios\[|level )'?(\w+)", words) if name == "mask_ratios" else None
    return nodes.get(f"mask_ratios.{level.group(1)}" if level else name, nodes[name])


def _preset(model: str, node: Node, name: str, keys: dict[str, Node]) -> Preset:
    """The preset that a node describes; the node of ``named_presets`` stands for the one of ``config.PRESETS``."""
    causal = keys["causal"].flag() if "causal" in keys else False
    shared: dict[str, Any] = {
        "model": model,
        "name": name,
        "text_length": keys["text_length"].count(0) if "text_length" in keys else 0,
        "video_scale": _scale(keys["video_scale"]) if "video_scale" in keys else None,
        "causal": causal,
    }
    if node is keys.get("named_presets"):
        config = AttentionConfig.preset(name, causal=causal)
        return Preset(description=f"{PRESET_USES[name].capitalize()}.", config=config, verbose=False, **shared)
    own = {
        "psa": ("use_rearrange", "block_size", "sim_thresholds", *SAME_NAME),
        "prefill": ("preset", *PREFILL),
        "dense": (),
    }
    every = ("type", "description", "verbose")
    found = node.items((*every, *dict.fromkeys(key for keys_ in own.values() for key in keys_)))
    if "type" not in found:
        raise node.error("has no type; use psa, prefill or dense.")
    kind = found["type"].one_of(*own)
    for key in found:
        if key not in (*every, *own[kind]):
            raise found[key].error(f"means nothing in a {kind} preset.")
    make: Callable | None = {"psa": _config, "prefill": _prefill_config}.get(kind)
    return Preset(
        description=found["description"].text() if "description" in found else "",
        config=None if make is None else make(node, found, causal),
        verbose=found["verbose"].flag() if "verbose" in found else False,
        **shared,
    )


def _load(file: str | os.PathLike | None) -> dict[str, tuple[dict[str, Node], dict[str, Node]]]:
    """Model -> (its keys, its presets): the bundled file, and over it the user's, key by key and preset by preset."""
    models = {name: _check_model(node) for name, node in read(PRESET_FILE).items()}
    for name, node in (read(file) if file is not None else {}).items():
        keys, presets = _check_model(node)
        old_keys, old_presets = models.get(name, ({}, {}))
        models[name] = ({**old_keys, **keys}, {**old_presets, **presets})
    for keys, presets in models.values():
        if "named_presets" in keys and keys["named_presets"].flag():
            presets.update({name: keys["named_presets"] for name in PRESETS if name not in presets})
    return models


def _named(what: str, name: str, known) -> str:
    return f"no {what} {name!r}; there are {', '.join(known)}."


def load_preset(model: str, preset: str | None = None, file: str | os.PathLike | None = None) -> Preset:
    """The preset of a model by name, or the model's default.

    Args:
        model: a section of the file, for example ``"Wan2.1_14b"``.
        preset: its name; None: the section's ``default_attention``.
        file: a YAML file of the same structure as the bundled one. Its models and presets are added to the bundled
            ones, and what it says about a bundled model replaces what that says.

    Raises:
        FileNotFoundError: no such file.
        PresetError: no such model or preset, or a wrong file; then the message names file, line and key.
    """
    models = _load(file)
    if model not in models:
        raise PresetError(_named("model", model, models))
    keys, presets = models[model]
    if preset is None:
        if "default_attention" not in keys:
            raise PresetError(f"{model} has no default_attention; name one of {', '.join(presets)}.")
        preset = keys["default_attention"].text()
        if preset not in presets:
            raise keys["default_attention"].error(_named("preset", preset, presets))
    if preset not in presets:
        raise PresetError(_named(f"preset of {model}", preset, presets))
    return _preset(model, presets[preset], preset, keys)


def video_config(config: PSAConfig | str | None) -> PSAConfig:
    """The configuration itself, the default preset of the video model of that name, or ``PSAConfig()`` for None.

    Raises:
        TypeError: anything else. PresetError: no such model, or a language model.
    """
    if config is None:
        return PSAConfig()
    if isinstance(config, PSAConfig):
        return config
    if not isinstance(config, str):
        raise TypeError(f"config must be a PSAConfig, the name of a video model or None, got {type(config).__name__}.")
    found = load_preset(config).config
    if not isinstance(found, PSAConfig):
        raise PresetError(f"{config} is a language model, whose presets are for pyramid_attention; name a video model.")
    return found


def list_presets(model: str | None = None, file: str | os.PathLike | None = None) -> dict[str, list[str]]:
    """Model -> names of its presets, of one model or of all; arguments and errors as ``load_preset``."""
    models = _load(file)
    if model is not None and model not in models:
        raise PresetError(_named("model", model, models))
    return {name: list(presets) for name, (_, presets) in models.items() if model in (None, name)}


def check_presets(file: str | os.PathLike | None = None) -> None:
    """Check every preset of the bundled file and of ``file``; errors as ``load_preset``."""
    for model, (keys, presets) in _load(file).items():
        for name, node in presets.items():
            _preset(model, node, name, keys)
        if "default_attention" in keys:
            load_preset(model, file=file)
