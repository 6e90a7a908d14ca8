"""Configuration of Pyramid Sparse Attention: one frozen dataclass, one place for every default.

Source: PSA (arXiv:2512.04025), sections 3.2 (pyramid levels) and 3.3 (level assignment).
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from .config_values import cosine, flag, integer, word

LEVELS = (0, 1, 2, 4, 8)
POOLED_LEVELS = (2, 4, 8)
HEAD_DIMS = (32, 64, 80, 96, 128)
QUERY_BLOCKS = (64, 128)
KEY_BLOCKS = (32, 64, 128)
XATTN_STRIDES = (1, 2, 4, 8, 16, 32)
XATTN_QUERY_STRIDES = (4, 8, 16, 32)
XATTN_TERMS = (1, 2, 4, 8, 16, 32)
BACKENDS = ("auto", "eager", "triton")
DEFAULT_TEXT_LENGTH = 512
MASK_MODES = {
    "energybound": "energybound",
    "thresholdbound": "energybound",
    "topk": "topk",
    "topk_sqrt": "topk_sqrt",
}
AUDIT_ROWS, MIN_AUDIT_ROWS = 64, 16  # usual and least number of audited rows
SAMPLE_STEP = 4  # "pooling" sees one token of so many
GOLDEN = 0x9E3779B1  # 2^32 over the golden ratio
SQRT_KEYS = 8192  # keys of a row at which topk_sqrt's shares are mask_ratios
IMPORTANCE_METHODS = ("xattn", "peak", "pooling")

# The ratios that the upstream Qwen2.5-VL example runs with.
SEED_RATIOS = {1: (0.0, 0.6), 2: (0.6, 0.8), 4: (0.8, 0.9), 8: (0.9, 0.9), 0: (0.9, 1.0)}
ALL_LEVEL_ONE = {1: (0.0, 1.0)}

# Named settings for the prefill of Qwen2.5-VL; benchmarks/RESULTS.md ("Presets") has what they were chosen by. Shares
# by rank fix what a call costs, whatever its attention looks like.
_BY_RANK = dict(key_block=64, mask_mode="topk_sqrt", importance_method="peak", xattn_stride=2, xattn_query_stride=8,
                xattn_terms=1, block_means=False, use_sim_mask=False)  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "quality": dict(_BY_RANK, mask_ratios={1: (0.0, 0.35), 0: (0.35, 1.0)}),
    "balanced": dict(_BY_RANK, mask_ratios={1: (0.0, 0.16), 0: (0.16, 1.0)}),
    "fast": dict(_BY_RANK, mask_ratios={1: (0.0, 0.07), 0: (0.07, 1.0)}),
    "seed": dict(key_block=64, mask_mode="energybound", importance_method="xattn", xattn_stride=16,
                 xattn_query_stride=16, xattn_terms=4, block_means=False, use_sim_mask=True, mask_ratios=SEED_RATIOS),
}  # fmt: skip
PRESET_USES = {
    "quality": "closest to dense attention",
    "balanced": "what most runs should use: a smaller share of the work the longer the prompt",
    "fast": "the least work; the attention error is the largest",
    "seed": "the ratios of the upstream Qwen2.5-VL example, by share of importance",
}
DEFAULT_PRESET = "balanced"
_DEFAULT = PRESETS[DEFAULT_PRESET]


def check_mask_ratios(ratios: Mapping) -> tuple[tuple[int, float, float], ...]:
    """Return ``((level, lo, hi), ...)`` in ascending order without empty intervals, tiling [0, 1].

    Raises:
        ValueError: an unknown level, a bound outside [0, 1], lo > hi, an overlap, a gap, or nothing at all.
        TypeError: not a mapping of level to a pair of numbers.
    """
    if not isinstance(ratios, Mapping):
        raise TypeError(f"mask_ratios must be a dict such as {{1: (0.0, 0.6), 0: (0.6, 1.0)}}, got {ratios!r}.")
    intervals = []
    for level, bounds in ratios.items():
        if not isinstance(level, numbers.Integral) or level not in LEVELS or isinstance(level, bool):
            raise ValueError(f"mask_ratios names level {level!r}; the levels are 0, 1, 2, 4 and 8.")
        pair = tuple(bounds) if isinstance(bounds, Iterable) else ()
        if len(pair) != 2 or not all(isinstance(x, numbers.Real) for x in pair):
            raise TypeError(f"mask_ratios[{level}] must be a pair of numbers (lo, hi), got {bounds!r}.")
        lo, hi = (float(x) for x in pair)
        if not 0.0 <= lo <= hi <= 1.0:
            raise ValueError(f"mask_ratios[{level}] = ({lo:g}, {hi:g}) must satisfy 0 <= lo <= hi <= 1.")
        if lo < hi:
            intervals.append((lo, hi, int(level)))
    intervals.sort()
    end = 0.0
    for lo, hi, level in intervals:
        if abs(lo - end) > 1e-9:
            word = "leaves a gap" if lo > end else "overlaps its neighbour"
            raise ValueError(f"mask_ratios {word} at level {level}: it starts at {lo:g} where {end:g} is due.")
        end = hi
    if abs(end - 1.0) > 1e-9:
        raise ValueError(f"mask_ratios must reach 1.0; they end at {end:g}. Give the rest to level 0 to skip it.")
    return tuple((level, lo, hi) for lo, hi, level in intervals)


def sqrt_bound(end: float, key_block: int) -> float:
    """``topk_sqrt``: among n blocks, rank r is past an interval's ``end`` where r * r >= this * n, in float64; with a
    budget of f where r * r >= (this * (f * f)) * n."""
    return end * end * SQRT_KEYS / key_block


def check_budgets(budgets, mask_mode: str) -> tuple[float, ...] | None:
    """The factors as floats, or None.

    Raises:
        TypeError: not a sequence of numbers. ValueError: none, one that is not positive and finite, or levels that do
            not go by rank.
    """
    if budgets is None:
        return None
    plain = isinstance(budgets, Sequence) and not isinstance(budgets, str)
    if not plain or not all(isinstance(x, numbers.Real) and not isinstance(x, bool) for x in budgets):
        raise TypeError(f"budgets must be a factor for each query head, such as (0.5, 2.0), got {budgets!r}.")
    factors = tuple(float(x) for x in budgets)
    if not factors or not all(x > 0 and math.isfinite(x) for x in factors):
        raise ValueError(f"budgets must be positive factors, one for each query head, got {factors}.")
    if MASK_MODES[mask_mode] == "energybound":
        raise ValueError(
            f"budgets multiply shares by rank and mean nothing in mask_mode '{mask_mode}'; use 'topk' or 'topk_sqrt'."
        )
    return factors


@dataclass(frozen=True)
class AttentionConfig:
    """What the operator does with each block of keys. Lengths are in tokens; invalid values are refused. The defaults
    are the preset ``balanced``; ``AttentionConfig.preset(name)`` gives the others.

    Args:
        query_block: rows of a query block, 64 or 128.
        key_block: keys of a key block, 32, 64 or 128.
        mask_mode: ``"energybound"`` (alias ``"thresholdbound"``) assigns levels by the share of importance that the
            more important blocks of the row hold; ``"topk"`` by rank; ``"topk_sqrt"`` by rank with every share times
            sqrt(8192 / keys of the row), so that short rows keep a larger part of their blocks and long ones a smaller.
        mask_ratios: level -> (lo, hi); the intervals tile [0, 1]. Level 1 is full resolution, 2/4/8 are pooled that
            many times, 0 is skipped.
        block_means: a skipped block, full and wholly visible, takes part by one key and one value, the means of its
            own; that key stands for key_block keys (ln key_block added to its logit).
        budgets: for ``"topk"`` and ``"topk_sqrt"``, a factor for each query head that multiplies the ends of
            mask_ratios, so that some heads keep more than others; what passes 1 is the whole row. None: all alike.
        importance_method: ``"peak"`` (one of ``xattn_query_stride`` queries against one of ``xattn_stride`` keys; a
            block counts with its largest logit), ``"xattn"`` (sums over blocks, arXiv:2503.16428) or ``"pooling"``
            (sampled tokens).
        xattn_stride, xattn_query_stride: groups of so many keys (1, 2, 4, 8, 16 or 32) and queries (4, 8, 16 or 32) are
            scored against each other.
        xattn_terms: tokens that each group takes part with, at most the smaller stride; 1 with ``"peak"``. Both strides
            and the terms alike is XAttention's antidiagonal sum. Fewer tokens, at places that rotate from group to
            group, cost less and choose better (benchmarks/RESULTS.md).
        text_length: the last tokens, whose key and query blocks stay at level 1. ``None``: 512, or in Qwen2.5-VL
            the tokens after the last vision token.
        use_sim_mask: cap each key block's level by the similarity of neighbouring keys.
        sim_2x_threshold, sim_4x_threshold, sim_8x_threshold: mean cosine above which that pooling is allowed.
        warmup_steps: first denoising steps that run dense (video generation; needs ``timestep`` at the call).
        causal: bottom-right aligned causal attention, or bidirectional.
        backend: ``"auto"`` (Triton on a CUDA tensor, eager elsewhere), ``"triton"`` or ``"eager"``.
        dense_below: key length under which the operator runs dense. ``None``: the backend's measured crossover;
            0: never.
        audit_rows: rows of each sample, spread over the prompt, whose exact attention is computed beside what the
            operator gives, so that the statistics tell its error: 0 (no audit) or at least 16; 64 are usual.
    """

    query_block: int = 128
    key_block: int = _DEFAULT["key_block"]
    mask_mode: str = _DEFAULT["mask_mode"]
    mask_ratios: Mapping[int, tuple[float, float]] = field(default_factory=lambda: _DEFAULT["mask_ratios"], hash=False)
    block_means: bool = _DEFAULT["block_means"]
    budgets: tuple[float, ...] | None = None
    importance_method: str = _DEFAULT["importance_method"]
    xattn_stride: int = _DEFAULT["xattn_stride"]
    xattn_query_stride: int = _DEFAULT["xattn_query_stride"]
    xattn_terms: int = _DEFAULT["xattn_terms"]
    text_length: int | None = None
    use_sim_mask: bool = _DEFAULT["use_sim_mask"]
    sim_2x_threshold: float = 0.75
    sim_4x_threshold: float = 0.7
    sim_8x_threshold: float = 0.7
    warmup_steps: int = 0
    causal: bool = True
    backend: str = "auto"
    dense_below: int | None = None
    audit_rows: int = 0

    def __post_init__(self) -> None:
        self._check("query_block", integer, QUERY_BLOCKS)
        self._check("key_block", integer, KEY_BLOCKS)
        self._check("xattn_stride", integer, XATTN_STRIDES)
        self._check("xattn_query_stride", integer, XATTN_QUERY_STRIDES)
        self._check("xattn_terms", integer, XATTN_TERMS)
        if self.xattn_terms > min(self.xattn_stride, self.xattn_query_stride):
            raise ValueError(
                f"xattn_terms must be at most xattn_stride ({self.xattn_stride}) and xattn_query_stride "
                f"({self.xattn_query_stride}), got {self.xattn_terms}."
            )
        self._check("mask_mode", word, tuple(MASK_MODES))
        self._check("importance_method", word, IMPORTANCE_METHODS)
        if self.importance_method == "peak" and self.xattn_terms != 1:
            raise ValueError(f'importance_method "peak" takes one token of a group: xattn_terms must be 1, '
                             f"got {self.xattn_terms}.")  # fmt: skip
        self._check("backend", word, BACKENDS)
        for name in ("block_means", "use_sim_mask", "causal"):
            self._check(name, flag)
        for name in ("sim_2x_threshold", "sim_4x_threshold", "sim_8x_threshold"):
            self._check(name, cosine)
        self._check("warmup_steps", integer)
        for name in ("text_length", "dense_below"):
            if getattr(self, name) is not None:
                self._check(name, integer)
        self._check("audit_rows", integer)
        if 0 < self.audit_rows < MIN_AUDIT_ROWS:
            raise ValueError(
                f"audit_rows must be 0 or at least {MIN_AUDIT_ROWS}, got {self.audit_rows}: fewer tell too little."
            )
        check_mask_ratios(self.mask_ratios)
        object.__setattr__(self, "mask_mode", MASK_MODES[self.mask_mode])
        object.__setattr__(self, "budgets", check_budgets(self.budgets, self.mask_mode))
        ratios = {int(level): tuple(float(x) for x in bounds) for level, bounds in self.mask_ratios.items()}
        object.__setattr__(self, "mask_ratios", MappingProxyType(ratios))

    def _check(self, name: str, check, *allowed) -> None:
        """Put the plain value in the place of what was given."""
        object.__setattr__(self, name, check(name, getattr(self, name), *allowed))

    @classmethod
    def of(cls, config: AttentionConfig | str | None, name: str = "config") -> AttentionConfig:
        """The configuration itself, the preset of that name, or the default for None; ``name``: the argument's.

        Raises:
            TypeError: anything else. ValueError: no such preset.
        """
        if config is None:
            return cls()
        if isinstance(config, str):
            return cls.preset(config)
        if not isinstance(config, cls):
            raise TypeError(
                f"{name} must be an AttentionConfig, the name of a preset ({', '.join(PRESETS)}) or None, got "
                f"{type(config).__name__}."
            )
        return config

    @classmethod
    def preset(cls, name: str, **changes) -> AttentionConfig:
        """``"quality"``, ``"balanced"`` (the default configuration), ``"fast"`` or ``"seed"`` (the upstream example's
        ratios), with some fields changed.

        Raises:
            TypeError, ValueError: no such preset, or a field's value, as the constructor does.
        """
        if not isinstance(name, str):
            raise TypeError(f"the name of a preset must be text, got {name!r}.")
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name!r}; use {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **changes})

    @property
    def intervals(self) -> tuple[tuple[int, float, float], ...]:
        """``((level, lo, hi), ...)``, ascending, without empty intervals."""
        return check_mask_ratios(self.mask_ratios)

    @property
    def uses_means(self) -> bool:
        """Whether a block may take part by its means."""
        return self.block_means and any(level == 0 for level, _, _ in self.intervals)

    @property
    def forced_text(self) -> int:
        """Number of last tokens that stay at level 1."""
        return DEFAULT_TEXT_LENGTH if self.text_length is None else self.text_length

    def replace(self, **changes) -> AttentionConfig:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def __reduce__(self):
        values = [getattr(self, f.name) for f in dataclasses.fields(self)]  # a mappingproxy does not pickle
        return AttentionConfig, tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)

    def as_dict(self) -> dict:
        """Plain types, for JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["mask_ratios"] = {str(level): list(bounds) for level, bounds in self.mask_ratios.items()}
        return values
