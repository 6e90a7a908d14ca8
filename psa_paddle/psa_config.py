"""Configuration of ``PSAAttention``: the fields of the published module, checked. Needs no Paddle.

Source: PSA (arXiv:2512.04025).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .config import KEY_BLOCKS, QUERY_BLOCKS, AttentionConfig
from .config_values import integer, word
from .rearrange import METHODS
from .rearrange.curves import check_triple
from .rearrange.methods import DEFAULT_TILE

ATTN_IMPLS = ("new_mask_type", "old_mask_type")
MASK_MODES = ("topk", "topk_sqrt", "thresholdbound")
# Fields that AttentionConfig has too, and checks.
CHECKED_THERE = (
    "mask_ratios", "use_sim_mask", "sim_2x_threshold", "sim_4x_threshold", "sim_8x_threshold", "warmup_steps",
    "backend", "dense_below",
)  # fmt: skip
DEFAULT_RATIOS = {1: (0.0, 0.1), 2: (0.1, 0.15), 4: (0.15, 0.15), 8: (0.15, 0.35), 0: (0.35, 1.0)}


@dataclass(frozen=True)
class PSAConfig:
    """What ``PSAAttention`` does; invalid values are refused, and no two fields contradict each other silently.

    Args:
        block_m: queries of a block, 64 or 128.
        block_n: keys of a block, 32, 64 or 128.
        tile_n: keys that a kernel takes at once; divides block_n. It changes no result: the operator's kernels are
            tuned for each device and take what runs best there. Kept so that configurations of other
            implementations load, and checked so that a wrong one does not pass.
        mask_ratios: level -> (lo, hi); the intervals tile [0, 1]. Level 1 is full resolution, 2/4/8 are pooled that
            many times, 0 is skipped.
        mask_mode: ``"topk"``, a fixed share of the blocks for each level; ``"topk_sqrt"``, that share times
            sqrt(8192 / number of keys); or ``"thresholdbound"``, by the share of importance that the more important
            blocks hold.
        attn_impl: ``"new_mask_type"`` or ``"old_mask_type"``. They name sets of rules for one operator: the new one
            takes every block size and no ``use_sim_mask``; the old one takes ``use_sim_mask`` and blocks of 128.
        use_sim_mask: cap the level of each key block by the similarity of neighbouring keys.
        sim_2x_threshold, sim_4x_threshold, sim_8x_threshold: mean cosine above which that pooling is allowed; read
            with ``use_sim_mask`` only.
        rearrange_method: ``"Gilbert"``, ``"STA"``, ``"SemanticAware"``, ``"Hybrid"`` or None.
        tile_size: (depth, height, width) of ``"STA"``'s tiles, in tokens; read by that method only.
        warmup_steps: first denoising steps that run dense; the call then needs ``timestep``.
        backend, dense_below, audit_rows: as in ``AttentionConfig``.

    Raises:
        TypeError, ValueError: a value that a field does not take, or fields that exclude each other.
    """

    block_m: int = 128
    block_n: int = 64
    tile_n: int = 32
    mask_ratios: Mapping[int, tuple[float, float]] = field(default_factory=lambda: DEFAULT_RATIOS, hash=False)
    mask_mode: str = "topk"
    attn_impl: str = "new_mask_type"
    use_sim_mask: bool = False
    sim_2x_threshold: float = 0.0
    sim_4x_threshold: float = 0.0
    sim_8x_threshold: float = -1.0
    rearrange_method: str | None = None
    tile_size: tuple[int, int, int] = DEFAULT_TILE
    warmup_steps: int = 0
    backend: str = "auto"
    dense_below: int | None = None
    audit_rows: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_m", integer("block_m", self.block_m, QUERY_BLOCKS))
        object.__setattr__(self, "block_n", integer("block_n", self.block_n, KEY_BLOCKS))
        object.__setattr__(self, "tile_n", integer("tile_n", self.tile_n))
        if self.tile_n < 1 or self.block_n % self.tile_n:
            raise ValueError(f"tile_n must divide block_n ({self.block_n}), got {self.tile_n}.")
        word("mask_mode", self.mask_mode, MASK_MODES)
        word("attn_impl", self.attn_impl, ATTN_IMPLS)
        if self.rearrange_method is not None:
            word("rearrange_method", self.rearrange_method, tuple(METHODS))
        object.__setattr__(self, "tile_size", check_triple("tile_size", self.tile_size))
        checked = self.to_attention_config()
        for name in CHECKED_THERE:
            object.__setattr__(self, name, getattr(checked, name))
        if self.attn_impl == "new_mask_type" and self.use_sim_mask:
            raise ValueError(
                "use_sim_mask=True needs attn_impl='old_mask_type' with block_m=128 and block_n=128; "
                "attn_impl='new_mask_type' takes use_sim_mask=False only."
            )
        if self.attn_impl == "old_mask_type":
            for name in ("block_m", "block_n"):
                if getattr(self, name) != 128:
                    raise ValueError(f"{name} must be 128 with attn_impl='old_mask_type', got {getattr(self, name)}.")

    def check_causal(self, causal: bool) -> None:
        """ValueError for causal attention with a rearrangement, whose token order the triangle would not fit."""
        if causal and self.rearrange_method is not None:
            raise ValueError(
                f"causal attention excludes rearrange_method ({self.rearrange_method!r}): in the new token order the "
                "lower triangle is not the past. Set rearrange_method=None."
            )

    def to_attention_config(self, causal: bool = False, text_length: int = 0) -> AttentionConfig:
        """The operator's configuration; text_length: last tokens that stay at full resolution.

        Raises:
            ValueError: see ``check_causal``.
        """
        self.check_causal(causal)
        return AttentionConfig(
            query_block=self.block_m,
            key_block=self.block_n,
            mask_mode=self.mask_mode,
            mask_ratios=self.mask_ratios,
            block_means=False,  # the published algorithm skips a block wholly
            importance_method="pooling",
            text_length=text_length,
            use_sim_mask=self.use_sim_mask,
            sim_2x_threshold=self.sim_2x_threshold,
            sim_4x_threshold=self.sim_4x_threshold,
            sim_8x_threshold=self.sim_8x_threshold,
            warmup_steps=self.warmup_steps,
            causal=causal,
            backend=self.backend,
            dense_below=self.dense_below,
            audit_rows=self.audit_rows,
        )

    def replace(self, **changes) -> PSAConfig:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def __reduce__(self):
        values = [getattr(self, f.name) for f in dataclasses.fields(self)]  # a mappingproxy does not pickle
        return PSAConfig, tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)
