"""Budgets: how a model's layers and heads share out what attention may keep, in a small file that people can read.

``psa_paddle.integrations.calibration`` measures them; reading and applying them needs neither Paddle nor a model.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .config import AttentionConfig, check_budgets
from .utils.files import write_text

VERSION = 1
KIND = "psa_paddle budgets"


@dataclass(frozen=True)
class Budgets:
    """What each layer and head of one model may keep.

    Args:
        model: name of the model, for people.
        config: what was measured with, with shares by rank (``"topk"``, ``"topk_sqrt"``); its mask_ratios give about
            the wanted density where every factor is 1.
        factors: a tuple a layer, a number a head: what the ends of mask_ratios are multiplied by.
        block_means: of each layer, whether skipped blocks take part by their means there.
        triangle_layers: layers that lose no more with TriangleMix than with their share; None: not measured.
        triangle: the pattern that was measured: a ``TriangleMixConfig``'s bounds by name.
        target: what was asked for, ``{"density": 0.12}`` or ``{"loss": 0.01}`` (nats).
        measured: on what, and what came out: plain types, for people.
        curves: loss by share of the layers and heads, see ``budget_solver.share_out``.

    Raises:
        TypeError, ValueError: in one sentence.
    """

    model: str
    config: AttentionConfig
    factors: tuple[tuple[float, ...], ...]
    block_means: tuple[bool, ...]
    triangle_layers: tuple[int, ...] | None = None
    triangle: Mapping | None = field(default=None, hash=False)
    target: Mapping = field(default_factory=dict, hash=False)
    measured: Mapping = field(default_factory=dict, hash=False)
    curves: Mapping = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.config, AttentionConfig):
            raise TypeError(f"config must be an AttentionConfig, got {type(self.config).__name__}.")
        object.__setattr__(self, "config", self.config.replace(budgets=None, block_means=False))
        if not isinstance(self.factors, (list, tuple)) or not self.factors:
            raise ValueError("factors must hold a list of factors for each layer.")
        checked = [check_budgets(layer, self.config.mask_mode) for layer in self.factors]
        factors = tuple(layer for layer in checked if layer is not None)
        if len(factors) < len(checked) or len({len(layer) for layer in factors}) > 1:
            raise ValueError("factors must hold as many factors in each layer as it has query heads.")
        means = self.block_means
        if not isinstance(means, (list, tuple)) or not all(isinstance(x, bool) for x in means):
            raise TypeError(f"block_means must hold true or false for each layer, got {means!r}.")
        if len(means) != len(factors):
            raise ValueError(f"block_means must name each of the {len(factors)} layers, got {len(means)}.")
        layers = self.triangle_layers
        if layers is not None:
            fit = isinstance(layers, (list, tuple)) and all(type(x) is int and 0 <= x < len(factors) for x in layers)
            if not fit or self.triangle is None:
                raise ValueError(f"triangle_layers must be layers below {len(factors)}, with a triangle pattern.")
            object.__setattr__(self, "triangle_layers", tuple(layers))
        object.__setattr__(self, "factors", factors)
        object.__setattr__(self, "block_means", tuple(means))

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.factors)

    @property
    def heads(self) -> int:
        """Query heads of a layer."""
        return len(self.factors[0])

    def config_of(self, layer: int, config: AttentionConfig | None = None) -> AttentionConfig:
        """A layer's configuration: ``config`` (by default the one that was measured with), with the layer's factors and
        its choice of means."""
        base = self.config if config is None else config
        return base.replace(budgets=self.factors[layer], block_means=self.block_means[layer])

    def check_model(self, layers: int, heads: int) -> None:
        """ValueError for a model of another shape."""
        if (layers, heads) != (self.layers, self.heads):
            raise ValueError(
                f"the budgets are for {self.layers} layers of {self.heads} query heads ({self.model}), but this model "
                f"has {layers} of {heads}; calibrate it."
            )

    def summary(self) -> dict:
        """Whose, what for, and what they multiply, in plain types."""
        return {"model": self.model, "target": dict(self.target), "factors": [list(layer) for layer in self.factors]}

    def as_dict(self) -> dict:
        """Plain types, for JSON."""
        config = self.config.as_dict()
        del config["budgets"], config["block_means"]
        return {
            "kind": KIND,
            "version": VERSION,
            "model": self.model,
            "layers": self.layers,
            "heads": self.heads,
            "target": dict(self.target),
            "measured": dict(self.measured),
            "config": config,
            "factors": [[float(f"{x:.4g}") for x in layer] for layer in self.factors],
            "block_means": list(self.block_means),
            "triangle_layers": None if self.triangle_layers is None else list(self.triangle_layers),
            "triangle": None if self.triangle is None else dict(self.triangle),
            "curves": dict(self.curves),
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        write_text(path, _readable(self.as_dict()) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> Budgets:
        """Read a file that ``save`` wrote.

        Raises:
            FileNotFoundError, ValueError: there is none, or it is not such a file; the message names it.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"budgets file '{path}' does not exist; 'psa-paddle calibrate' makes one.")
        try:
            return cls._from_dict(json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise ValueError(f"budgets file '{path}' cannot be used: {reason}.") from error

    @classmethod
    def _from_dict(cls, values) -> Budgets:
        if not isinstance(values, dict) or values.get("kind") != KIND:
            raise ValueError("it is not one that 'psa-paddle calibrate' wrote")
        if values["version"] != VERSION:
            raise ValueError(f"it is of version {values['version']!r}, this program reads version {VERSION}")
        settings = dict(values["config"])
        settings["mask_ratios"] = {int(level): bounds for level, bounds in settings["mask_ratios"].items()}
        rest = ("model", "factors", "block_means", "triangle_layers", "triangle", "target", "measured", "curves")
        config = AttentionConfig(**settings, block_means=False)
        found = cls(config=config, **{name: values[name] for name in rest})
        shape = values["layers"], values["heads"]
        if (found.layers, found.heads) != shape:
            raise ValueError(f"it says {shape[0]} layers of {shape[1]} heads, but its factors are others")
        return found


def load_budgets(budgets: Budgets | str | os.PathLike) -> Budgets:
    """The budgets themselves, or those of a file.

    Raises:
        TypeError: neither. FileNotFoundError, ValueError: see ``Budgets.load``.
    """
    if isinstance(budgets, (str, os.PathLike)):
        return Budgets.load(budgets)
    if not isinstance(budgets, Budgets):
        raise TypeError(f"budgets must be Budgets or the path of a file, got {type(budgets).__name__}.")
    return budgets


def _refuse(word: str):
    raise ValueError(f"it holds the number {word}")


def _readable(value, indent: int = 0) -> str:
    """JSON with lists of plain values on one line."""
    pad = "  " * (indent + 1)
    if isinstance(value, Mapping) and value:
        lines = [f"{pad}{json.dumps(str(key))}: {_readable(x, indent + 1)}" for key, x in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + "  " * indent + "}"
    if isinstance(value, (list, tuple)) and any(isinstance(x, (list, tuple, Mapping)) for x in value):
        return "[\n" + ",\n".join(f"{pad}{_readable(x, indent + 1)}" for x in value) + "\n" + "  " * indent + "]"
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"budgets cannot hold {value}.")
    return json.dumps(value, ensure_ascii=False)
