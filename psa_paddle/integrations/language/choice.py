"""Which attention each layer of a plugged model prefills with, and the calls that are not PSA's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import numpy as np
import paddle

from ...attention import audit_output, check_scale, dense_attention
from ...budgets import Budgets
from ...config import AttentionConfig
from ...plan import DenseReason, Plan
from ...stats import merge_calls
from ...trianglemix import TriangleMixConfig, TriangleMixMaskGenerator, triangle_attention
from ...trianglemix.masks import DENSE_UP_TO

ATTENTIONS = ("dense", "psa", "trianglemix", "mix")


def wanted_attention(use_psa: bool, attention: str | None) -> str:
    """What the two settings ask for; TypeError, ValueError where one makes no sense or they contradict each other."""
    if not isinstance(use_psa, (bool, np.bool_)):
        raise TypeError(f"use_psa must be True or False, got {use_psa!r}.")
    if use_psa and attention not in (None, "psa"):
        raise ValueError(f"use_psa=True is attention='psa', but attention is {attention!r}; give one of them.")
    return attention or ("psa" if use_psa else "dense")


@dataclass(frozen=True)
class AttentionChoice:
    """``psa`` in every layer, ``trianglemix`` in chosen layers and dense elsewhere, or ``mix``: TriangleMix in chosen
    layers and PSA elsewhere.

    Args:
        attention: ``"psa"``, ``"trianglemix"`` or ``"mix"``.
        psa: an ``AttentionConfig``, the name of one of its presets, or None for the default; ``"trianglemix"`` reads
            its backend and audit_rows alone.
        triangle: the pattern and its layers, ``TriangleMixConfig()`` by default; None with ``"psa"``.
        triangle_layers: the layers, instead of those that ``triangle`` names.
        budgets: what each layer and head may keep; then ``psa`` is by default what they were measured with, and
            ``"mix"`` by default takes TriangleMix in the layers where that was measured to lose no more.

    Raises:
        TypeError: configurations of another class, layers that are not integers. ValueError: an unknown attention,
            settings without effect, no triangle layers, or a configuration that makes no sense for a language model.
    """

    attention: str = "psa"
    psa: AttentionConfig | str | None = None
    triangle: TriangleMixConfig | None = None
    triangle_layers: list[int] | None = None
    budgets: Budgets | None = None
    _layer_configs: tuple[AttentionConfig, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS[1:]:
            raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, got {self.attention!r}.")
        if self.budgets is not None and not isinstance(self.budgets, Budgets):
            raise TypeError(f"budgets must be Budgets, got {type(self.budgets).__name__}.")
        if self.budgets is not None and self.attention == "trianglemix":
            raise ValueError("budgets share out what PSA keeps; use attention 'psa' or 'mix'.")
        measured = None if self.budgets is None else self.budgets.config
        psa = AttentionConfig.of(measured if self.psa is None else self.psa, "psa_config")
        if not psa.causal:
            raise ValueError("a language model's text layers are causal; give an AttentionConfig with causal=True.")
        if psa.warmup_steps:
            raise ValueError("warmup_steps counts denoising steps and has no meaning in a language model; set 0.")
        if self.attention == "trianglemix" and psa != AttentionConfig(backend=psa.backend, audit_rows=psa.audit_rows):
            raise ValueError(
                "attention 'trianglemix' reads psa_config's backend and audit_rows alone; use 'mix' for PSA in other "
                "layers."
            )
        object.__setattr__(self, "psa", psa)
        if self.budgets is not None:
            configs = tuple(self.budgets.config_of(layer, psa) for layer in range(self.budgets.layers))
            object.__setattr__(self, "_layer_configs", configs)
        object.__setattr__(self, "triangle", self._triangle())

    def _triangle(self) -> TriangleMixConfig | None:
        given = self.triangle is not None or self.triangle_layers is not None
        if self.attention == "psa":
            if given:
                raise ValueError("triangle_config and triangle_layers need attention 'trianglemix' or 'mix'.")
            return None
        config = self.triangle
        if config is None:
            config = TriangleMixConfig() if given else self._measured_triangle()
        if not isinstance(config, TriangleMixConfig):
            raise TypeError(f"triangle_config must be a TriangleMixConfig, got {type(config).__name__}.")
        if self.triangle_layers is not None:
            config = replace(config, triangle_layer_indices=self.triangle_layers, num_triangle_layers=None)
        if not config.triangle_layer_indices and not config.num_triangle_layers:
            raise ValueError(
                f"attention '{self.attention}' needs the layers that TriangleMix takes: give triangle_layers, or a "
                "triangle_config that names them."
            )
        return config

    def _measured_triangle(self) -> TriangleMixConfig:
        """The pattern and the layers that the budgets name; no layers where they name none."""
        budgets = self.budgets
        if budgets is None or budgets.triangle is None or budgets.triangle_layers is None:
            return TriangleMixConfig()
        return TriangleMixConfig(**budgets.triangle, triangle_layer_indices=list(budgets.triangle_layers))

    @property
    def config(self) -> AttentionConfig:
        """``psa``, of which the name or the default was looked up."""
        return AttentionConfig.of(self.psa)

    def check_layers(self, layers: int, heads: int) -> None:
        """ValueError when the configuration names layers, or a number of them, that a model of ``layers`` has not, or
        budgets of a model of another shape."""
        if self.budgets is not None:
            self.budgets.check_model(layers, heads)
        if self.triangle is not None:
            self.triangle.check_layers(layers)

    def of_layer(self, layer: int) -> str:
        """``"psa"``, ``"trianglemix"`` or ``"dense"``."""
        if self.triangle is not None and TriangleMixMaskGenerator(self.triangle).should_use_triangle(layer):
            return "trianglemix"
        return "dense" if self.attention == "trianglemix" else "psa"

    def config_of(self, layer: int) -> AttentionConfig:
        """PSA's configuration in a layer."""
        return self._layer_configs[layer] if self._layer_configs else self.config

    def as_dict(self) -> dict:
        """The settings that have an effect, in plain types."""
        config = self.config
        read = {"backend": config.backend, "audit_rows": config.audit_rows}
        psa = config.as_dict() if self.attention in ("psa", "mix") else read
        if self.budgets is not None:
            psa["budgets"] = self.budgets.summary()
            psa["block_means"] = list(self.budgets.block_means)
        if self.triangle is None:
            return psa
        return {**psa, "trianglemix": asdict(self.triangle)}


def wanted_choice(attention: str, settings: tuple, log_dir) -> AttentionChoice | None:
    """The choice of ``attention`` with ``AttentionChoice``'s other settings, in its order; None for ``"dense"``.

    Raises:
        TypeError, ValueError: see ``AttentionChoice``; settings or a log_dir that dense attention has no use for.
    """
    if attention != "dense":
        return AttentionChoice(attention, *settings)
    if log_dir is not None or any(x is not None for x in settings):
        raise ValueError("psa_config, triangle_*, budgets and log_dir do nothing without use_psa=True or attention=...")
    return None


def triangle_prefill(query, key, value, config: TriangleMixConfig, backend: str, scale: float, starts, audit_rows: int):
    """``([B, Lq, H, D], CallStats)`` of a triangle layer; samples of at most 2048 keys run dense, as in the masks.
    Where a prompt comes in chunks, the last rows of each chunk see every key so far. audit_rows: as in
    ``AttentionConfig``."""
    batch = query.shape[0]
    starts = [0] * batch if starts is None else starts
    short = [key.shape[2] - start <= DENSE_UP_TO for start in starts]
    if len(set(short)) == 1:
        return _triangle_call(query, key, value, config, backend, scale, starts, short[0], audit_rows)
    settings = config, backend, scale
    parts = [
        _triangle_call(query[x], key[x], value[x], *settings, starts[x], short[x.start], audit_rows)
        for x in (slice(i, i + 1) for i in range(batch))
    ]
    return paddle.concat([out for out, _ in parts]), merge_calls([call for _, call in parts])


def _triangle_call(query, key, value, config, backend: str, scale: float, starts, short: bool, audit_rows: int):
    if short:
        reason = DenseReason.SHORT_FOR_TRIANGLE.text(DENSE_UP_TO)
        return dense_prefill(query, key, value, backend, scale, starts, reason)
    out, call = triangle_attention(
        query,
        key,
        value,
        num_sink_tokens=config.num_sink_tokens,
        sliding_window_size=config.sliding_window_size,
        num_last_tokens=config.num_last_tokens,
        scale=scale,
        kv_start=starts,
        backend=backend,
        heads_last=True,
        return_stats=True,
    )
    if audit_rows:
        scale = check_scale(scale, query.shape[3])
        plan = Plan.of(AttentionConfig(), scale, call.backend, heads_last=True, audit_rows=audit_rows)
        call.audits = audit_output(query, key, value, out, starts, plan)
    return out, call


def dense_prefill(query, key, value, backend: str, scale: float, starts, reason=DenseReason.NOT_A_TRIANGLE_LAYER):
    """``([B, Lq, H, D], CallStats)`` of a layer that TriangleMix leaves dense; knows left padding."""
    config = AttentionConfig(backend=backend)
    return dense_attention(query, key, value, config, reason, scale=scale, kv_start=starts, heads_last=True)
