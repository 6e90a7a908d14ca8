"""Configuration of TriangleMix: which keys a query sees, and in which layers. Source: arXiv:2507.21526."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# Triangle layers by Qwen3 model: the published recommendation for 14B and 32B, a cautious share for the others.
QWEN3_TRIANGLE_LAYERS = {"0.6B": 8, "1.7B": 8, "4B": 8, "8B": 8, "14B": 12, "32B": 16, "30B-A3B": 8, "235B-A22B": 8}


def check_int(name: str, value, least: int = 0) -> int:
    """``value`` as an int of at least ``least``.

    Raises:
        TypeError: not an integer. ValueError: too small.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    return int(value)


def check_layer_indices(indices) -> list[int]:
    """The layers of a list or tuple, as a new list of ints in the order given."""
    if not isinstance(indices, (list, tuple)):
        raise TypeError(f"triangle_layer_indices must be a list of layer indices, got {indices!r}.")
    layers = [check_int("a layer of triangle_layer_indices", layer) for layer in indices]
    if len(set(layers)) != len(layers):
        raise ValueError(f"triangle_layer_indices names a layer twice: {layers}.")
    return layers


@dataclass(frozen=True)
class TriangleMixConfig:
    """The triangle pattern and its layers; frozen, and invalid values are refused.

    With i a query's position, j a key's, N the number of keys, and always j <= i, a query sees key j if one holds:
    ``j <= num_sink_tokens``, ``i - j <= sliding_window_size``, ``N - i < num_last_tokens``. Counted from zero these are
    ``num_sink_tokens + 1`` keys, ``sliding_window_size + 1`` keys and ``num_last_tokens - 1`` rows.

    Args:
        num_sink_tokens: index of the last sink token.
        sliding_window_size: tokens that a query looks back.
        num_last_tokens: rows at the end that see every key.
        num_triangle_layers: the first n layers use the pattern.
        triangle_layer_indices: these layers use it; takes precedence, and an empty list counts as not given.

    Raises:
        TypeError: not integers. ValueError: negative ones, or a layer named twice.

    Source: TriangleMix (arXiv:2507.21526).
    """

    num_sink_tokens: int = 4
    sliding_window_size: int = 32
    num_last_tokens: int = 64
    num_triangle_layers: int | None = None
    triangle_layer_indices: list[int] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        _check_pattern(self)
        if self.triangle_layer_indices is not None:
            object.__setattr__(self, "triangle_layer_indices", check_layer_indices(self.triangle_layer_indices))

    def check_layers(self, num_layers: int) -> int:
        """``num_layers`` as an int.

        Raises:
            TypeError: not an integer. ValueError: below 1, or the configuration names layers, or a number of them,
                that a model of so many does not have.
        """
        num_layers = check_int("num_layers", num_layers, 1)
        if any(layer >= num_layers for layer in self.triangle_layer_indices or []):
            raise ValueError(f"triangle_layer_indices {self.triangle_layer_indices} exceed {num_layers} layers.")
        if (self.num_triangle_layers or 0) > num_layers:
            raise ValueError(f"num_triangle_layers is {self.num_triangle_layers}, but there are {num_layers} layers.")
        return num_layers


@dataclass(frozen=True)
class TriangleMixInferenceConfig:
    """What an inference program decides about TriangleMix; frozen, and invalid values are refused.

    Args:
        enable_trianglemix: ``to_trianglemix_config`` returns None when False.
        num_triangle_layers, triangle_layer_indices, num_sink_tokens, sliding_window_size, num_last_tokens: see
            ``TriangleMixConfig``.
        use_npu_optimization, npu_block_size: whether the program calls ``AscendNPUTriangleMixOptimizer``, and the
            ``block_size`` in tokens that it passes.
        use_gradient_analysis, analysis_warmup_steps: whether the program chooses the layers with
            ``TriangleMixAnalyzer``, and after how many recorded steps.

    Raises:
        TypeError, ValueError: as ``TriangleMixConfig``; a switch that is not a bool; a block without tokens.
    """

    enable_trianglemix: bool = False
    num_triangle_layers: int | None = None
    triangle_layer_indices: list[int] = field(default_factory=list, hash=False)
    num_sink_tokens: int = 4
    sliding_window_size: int = 32
    num_last_tokens: int = 64
    use_npu_optimization: bool = True
    npu_block_size: int = 64
    use_gradient_analysis: bool = False
    analysis_warmup_steps: int = 100

    def __post_init__(self) -> None:
        for name in ("enable_trianglemix", "use_npu_optimization", "use_gradient_analysis"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        _check_pattern(self)
        check_int("npu_block_size", self.npu_block_size, 1)
        check_int("analysis_warmup_steps", self.analysis_warmup_steps)
        object.__setattr__(self, "triangle_layer_indices", check_layer_indices(self.triangle_layer_indices))

    def to_trianglemix_config(self) -> TriangleMixConfig | None:
        """The pattern and its layers, or None when TriangleMix is not enabled."""
        if not self.enable_trianglemix:
            return None
        return TriangleMixConfig(
            num_sink_tokens=self.num_sink_tokens,
            sliding_window_size=self.sliding_window_size,
            num_last_tokens=self.num_last_tokens,
            num_triangle_layers=self.num_triangle_layers,
            triangle_layer_indices=self.triangle_layer_indices or None,
        )

    @staticmethod
    def for_ascend_npu(
        num_triangle_layers: int = 12, enable_gradient_analysis: bool = False
    ) -> TriangleMixInferenceConfig:
        """Enabled, with the NPU optimisation, in the first ``num_triangle_layers`` layers."""
        return TriangleMixInferenceConfig(
            enable_trianglemix=True,
            num_triangle_layers=num_triangle_layers,
            use_npu_optimization=True,
            use_gradient_analysis=enable_gradient_analysis,
        )

    @staticmethod
    def for_qwen3(model_size: str = "14B", num_triangle_layers: int | None = None) -> TriangleMixInferenceConfig:
        """Enabled for a Qwen3 model: 12 layers for 14B, 16 for 32B, 8 for the other sizes.

        Args:
            model_size: as in the model's name, such as "14B" or "30B-A3B".
            num_triangle_layers: overrides the number of layers; then any ``model_size`` will do.

        Raises:
            ValueError: a size that no Qwen3 model has. TypeError: a size that is not a string.
        """
        if not isinstance(model_size, str):
            raise TypeError(f"model_size must be a string such as '14B', got {model_size!r}.")
        if num_triangle_layers is None:
            sizes = {size.upper(): n for size, n in QWEN3_TRIANGLE_LAYERS.items()}
            if model_size.upper() not in sizes:
                known = ", ".join(QWEN3_TRIANGLE_LAYERS)
                raise ValueError(f"model_size must be one of {known} unless layers are given, got {model_size!r}.")
            num_triangle_layers = sizes[model_size.upper()]
        return TriangleMixInferenceConfig(enable_trianglemix=True, num_triangle_layers=num_triangle_layers)


def _check_pattern(config: TriangleMixConfig | TriangleMixInferenceConfig) -> None:
    for name in ("num_sink_tokens", "sliding_window_size", "num_last_tokens"):
        check_int(name, getattr(config, name))
    if config.num_triangle_layers is not None:
        check_int("num_triangle_layers", config.num_triangle_layers)
