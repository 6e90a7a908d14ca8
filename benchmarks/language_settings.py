"""What bench_language.py compares: which attention each layer reads with. Needs no framework."""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from psa_paddle.budgets import Budgets
from psa_paddle.config import ALL_LEVEL_ONE, DEFAULT_PRESET, PRESETS, AttentionConfig

DENSE, TRIANGLE = "dense", "triangle"
LayerChoice = AttentionConfig | str  # a configuration of the operator, DENSE or TRIANGLE
CLOSE_ENOUGH, GUESSES, SMALLEST = 0.01, 5, 1e-4  # of level 1's share at a wanted density: error, tries, least share


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    of_layer: layer number -> what it reads with. level1_of: for a row of level 1 only at another row's density, that
    row's configuration; the share of level 1 is then found by measuring, and of_layer is that of a first guess.
    """

    name: str
    about: str
    of_layer: Callable[[int], LayerChoice]
    level1_of: AttentionConfig | None = None


def everywhere(name: str, about: str, config: AttentionConfig, level1_of: AttentionConfig | None = None) -> Setting:
    return Setting(name, about, lambda layer: config, level1_of)


def with_triangle(name: str, about: str, layers: Iterable[int], elsewhere: LayerChoice) -> Setting:
    """TriangleMix's pattern in some layers."""
    chosen = frozenset(layers)
    return Setting(name, about, lambda layer: TRIANGLE if layer in chosen else elsewhere)


def describe(config: AttentionConfig) -> str:
    """What a configuration keeps and how it chooses, in a few words."""
    levels = ", ".join(f"{level}: {lo:g}-{hi:g}" for level, lo, hi in config.intervals)
    estimate = f"{config.importance_method} ({config.xattn_query_stride}, {config.xattn_stride})"
    return f"{config.mask_mode} {levels}{', means' if config.uses_means else ''}; {estimate}"


def level_one(config: AttentionConfig, end: float) -> AttentionConfig:
    """The same fields with level 1 up to ``end`` and nothing else."""
    ratios = {1: (0.0, end), 0: (end, 1.0)} if end < 1 else ALL_LEVEL_ONE
    return config.replace(mask_ratios=ratios, block_means=False)


def same_density(density_of: Callable[[float], float], want: float) -> float:
    """The share of level 1 whose density is ``want``, within 1 %, or the nearest that five tries found: each measures,
    and the next follows the line through the last two, share over density, both in logarithms."""
    tried = []  # (log share, log density)
    share = min(1.0, max(SMALLEST, want))
    for _ in range(GUESSES):
        tried.append((math.log(share), math.log(density_of(share))))
        error = math.log(want) - tried[-1][1]
        if abs(error) < CLOSE_ENOUGH:
            break
        slope = 1.0
        if len(tried) > 1 and tried[-1][1] != tried[-2][1]:
            slope = (tried[-1][0] - tried[-2][0]) / (tried[-1][1] - tried[-2][1])
        step = min(2.0, max(-2.0, slope * error))
        share = min(1.0, max(SMALLEST, math.exp(tried[-1][0] + step)))
    return math.exp(min(tried, key=lambda x: abs(math.log(want) - x[1]))[0])


def settings(mix_layers: Iterable[int] = ()) -> list[Setting]:
    """The rows that one command gives: every block kept (what rounding alone costs), each preset, with block means
    where it has none, level 1 only at its density where it has means or pools, TriangleMix in all layers, and in
    ``mix_layers`` with the default preset in the others. A row of level 1 only follows the row whose density it has.
    """
    mix = sorted(mix_layers)
    full = AttentionConfig(mask_ratios=ALL_LEVEL_ONE, block_means=False)
    found = [everywhere("every-block", "the operator with every block at level 1", full)]
    for name in PRESETS:
        config = AttentionConfig.preset(name)
        levels = {level for level, _, _ in config.intervals}
        found.append(everywhere(name, describe(config), config))
        if config.uses_means or levels - {0, 1}:
            guess = level_one(config, 0.5)
            found.append(everywhere(f"{name}-level1", f"level 1 only at {name}'s density", guess, config))
        if 0 in levels and not config.block_means:
            means = config.replace(block_means=True)
            found.append(everywhere(f"{name}-means", describe(means), means))
    every = Setting("trianglemix", "TriangleMix's pattern in all layers", lambda layer: TRIANGLE)
    where = f"layers {', '.join(map(str, mix))}" if mix else "half of the layers"
    about = f"TriangleMix's pattern in {where}, {DEFAULT_PRESET} elsewhere"
    return [*found, every, with_triangle("mix", about, mix, AttentionConfig.preset(DEFAULT_PRESET))]


def choose(found: list[Setting], patterns: list[str]) -> list[Setting]:
    """Those whose names match a pattern such as ``balanced*``, in their own order.

    Raises:
        ValueError: a pattern that matches nothing.
    """
    names = [s.name for s in found]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"no setting matches '{pattern}'; there are {', '.join(names)}.")
    return [s for s in found if any(fnmatch.fnmatch(s.name, pattern) for pattern in patterns)]


def _config(fields, text: str) -> AttentionConfig:
    if not isinstance(fields, dict):
        raise ValueError(f"--config wants an object of AttentionConfig's fields, or a list of one a layer, got {text}.")
    changes = dict(fields)
    if isinstance(changes.get("mask_ratios"), dict):
        ratios = changes["mask_ratios"].items()  # JSON's keys are text
        changes["mask_ratios"] = {int(level) if level.isdecimal() else level: ends for level, ends in ratios}
    try:
        return AttentionConfig.preset(changes.pop("preset", DEFAULT_PRESET), **changes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--config {text}: {error}") from None


def parse_config(text: str, layers: int) -> Setting:
    """A setting from ``[NAME=]JSON``: an object of ``AttentionConfig``'s fields, which change the preset that "preset"
    names (the default one without it), or a list of such objects, one for each of the model's layers.

    Raises:
        ValueError: no JSON, no such field, a value that the configuration refuses, or another number of layers.
    """
    name, content = re.fullmatch(r"(?:([^=\[{\"]+)=)?(.*)", text, re.DOTALL).groups()
    try:
        read = json.loads(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"--config is not JSON ({error}): {text}") from None
    name = name or content.replace('"', "")
    if isinstance(read, list):
        if len(read) != layers:
            raise ValueError(f"--config lists {len(read)} layers where the model has {layers}.")
        configs = [_config(fields, text) for fields in read]
        return Setting(name, content, lambda layer: configs[layer])
    config = _config(read, text)
    return everywhere(name, describe(config), config)


def budget_setting(file, layers: int, heads: int) -> Setting:
    """The configurations of a budgets file, one a layer, by the name ``budgets <file>``.

    Raises:
        FileNotFoundError, ValueError: no such file, or the budgets of another model.
    """
    found = Budgets.load(file)
    found.check_model(layers, heads)
    return Setting(f"budgets {Path(file).stem}", f"{describe(found.config)}; {dict(found.target)}", found.config_of)
