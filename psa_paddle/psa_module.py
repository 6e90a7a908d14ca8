"""The plug-in module: ``out = PSAAttention()(q, k, v)``, with ``PSAConfig`` for everything that can be chosen.

Source: PSA (arXiv:2512.04025). All of it runs on one operator, ``pyramid_attention``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import paddle

from .attention import check_qkv, pyramid_attention
from .config import AttentionConfig
from .layers import WarmupSteps
from .rearrange import METHODS, Rearrangement
from .rearrange.curves import check_triple
from .rearrange.methods import DEFAULT_TILE, TextOnly, check_text
from .stats import CallStats

ATTN_IMPLS = ("new_mask_type", "old_mask_type")
MASK_MODES = ("topk", "thresholdbound")
BLOCK_M = (64, 128)
BLOCK_N = (32, 64, 128)
DEFAULT_RATIOS = {1: (0.0, 0.1), 2: (0.1, 0.15), 4: (0.15, 0.15), 8: (0.15, 0.35), 0: (0.35, 1.0)}


def _one_of(name: str, value, allowed) -> None:
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}.")


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
        mask_mode: ``"topk"``, a fixed share of the blocks for each level, or ``"thresholdbound"``, by the share of
            importance that the more important blocks hold.
        attn_impl: ``"new_mask_type"`` or ``"old_mask_type"``. They name sets of rules for one operator: the new one
            takes every block size and no ``use_sim_mask``; the old one takes ``use_sim_mask`` and blocks of 128.
        use_sim_mask: cap the level of each key block by the similarity of neighbouring keys.
        sim_2x_threshold, sim_4x_threshold, sim_8x_threshold: mean cosine above which that pooling is allowed; read
            with ``use_sim_mask`` only.
        rearrange_method: ``"Gilbert"``, ``"STA"``, ``"SemanticAware"``, ``"Hybrid"`` or None.
        tile_size: (depth, height, width) of ``"STA"``'s tiles, in tokens; read by that method only.
        warmup_steps: first denoising steps that run dense; the call then needs ``timestep``.
        backend, dense_below: as in ``AttentionConfig``.

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

    def __post_init__(self) -> None:
        _one_of("block_m", self.block_m, BLOCK_M)
        _one_of("block_n", self.block_n, BLOCK_N)
        if isinstance(self.tile_n, bool) or not isinstance(self.tile_n, int):
            raise TypeError(f"tile_n must be an integer, got {self.tile_n!r}.")
        if self.tile_n < 1 or self.block_n % self.tile_n:
            raise ValueError(f"tile_n must divide block_n ({self.block_n}), got {self.tile_n}.")
        _one_of("mask_mode", self.mask_mode, MASK_MODES)
        _one_of("attn_impl", self.attn_impl, ATTN_IMPLS)
        if self.rearrange_method is not None:
            _one_of("rearrange_method", self.rearrange_method, tuple(METHODS))
        object.__setattr__(self, "tile_size", check_triple("tile_size", self.tile_size))
        checked = self.to_attention_config()
        object.__setattr__(self, "mask_ratios", checked.mask_ratios)
        if self.attn_impl == "new_mask_type" and self.use_sim_mask:
            raise ValueError(
                "use_sim_mask=True needs attn_impl='old_mask_type' with block_m=128 and block_n=128; "
                "attn_impl='new_mask_type' takes use_sim_mask=False only."
            )
        if self.attn_impl == "old_mask_type":
            for name in ("block_m", "block_n"):
                if getattr(self, name) != 128:
                    raise ValueError(f"{name} must be 128 with attn_impl='old_mask_type', got {getattr(self, name)}.")

    def to_attention_config(self, causal: bool = False, text_length: int = 0) -> AttentionConfig:
        """The operator's configuration; text_length: last tokens that stay at full resolution.

        Raises:
            ValueError: causal with a rearrangement, whose token order the triangle would not fit.
        """
        if causal and self.rearrange_method is not None:
            raise ValueError(
                f"causal attention excludes rearrange_method ({self.rearrange_method!r}): in the new token order the "
                "lower triangle is not the past. Set rearrange_method=None."
            )
        return AttentionConfig(
            query_block=self.block_m,
            key_block=self.block_n,
            mask_mode=self.mask_mode,
            mask_ratios=self.mask_ratios,
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
        )

    def replace(self, **changes) -> PSAConfig:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def __reduce__(self):
        values = [getattr(self, f.name) for f in dataclasses.fields(self)]  # a mappingproxy does not pickle
        return PSAConfig, tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)


class PSAAttention(paddle.nn.Layer):
    """Pyramid Sparse Attention (arXiv:2512.04025) for any attention that has q, k and v.

    Args:
        config: ``PSAConfig()`` by default.

    ``last_call`` holds the ``CallStats`` of the latest call. ``"SemanticAware"`` and ``"Hybrid"`` keep their clusters
    from call to call: give each layer of a model its own instance, and call ``reset()`` before another video.

    Example:
        >>> psa = PSAAttention(PSAConfig(rearrange_method="Gilbert"))
        >>> out = psa(q, k, v, grid=(13, 30, 45), text_length=226)  # [B, H, 226 + 13 * 30 * 45, D]
    """

    def __init__(self, config: PSAConfig | None = None) -> None:
        super().__init__()
        if config is not None and not isinstance(config, PSAConfig):
            raise TypeError(f"config must be a PSAConfig, got {type(config).__name__}.")
        self.config = config or PSAConfig()
        self.last_call: CallStats | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the clusters and the denoising steps of earlier calls."""
        self._warmup = WarmupSteps(self.config.warmup_steps)
        self._made: tuple = (None, None)

    def forward(
        self,
        q,
        k,
        v,
        *,
        causal: bool = False,
        grid: tuple[int, int, int] | None = None,
        text_length: int = 0,
        text_first: bool = True,
        timestep=None,
        scale: float | None = None,
    ):
        """Attention of q over k and v.

        Args:
            q: [B, H, Lq, D], float32, float16 or bfloat16; D in 32, 64, 80, 96, 128.
            k, v: [B, Hkv, Lk, D]; query head h reads kv head h // (H / Hkv).
            causal: bottom-right aligned causal attention; excludes a rearrangement.
            grid: (depth, height, width) of the vision tokens; ``"Gilbert"``, ``"STA"`` and ``"Hybrid"`` need it.
            text_length: text tokens in the sequence. They stay at full resolution, and out of the rearrangement.
            text_first: whether text stands before the vision tokens (CogVideoX) or after them. Causal attention can
                keep only text that comes last.
            timestep: the denoising timestep, needed when ``warmup_steps`` is set.
            scale: factor of the logits, 1 / sqrt(D) by default.

        Returns:
            [B, H, Lq, D] in q's dtype and in the order of q's tokens.

        Raises:
            TypeError, ValueError: as ``pyramid_attention``; a grid or text that does not fit the tokens; causal with a
                rearrangement or with text first; no timestep where warm-up steps are counted.
        """
        if not isinstance(causal, bool):
            raise TypeError(f"causal must be True or False, got {causal!r}.")
        check_text(text_length, text_first)
        config = self.config.to_attention_config(causal, text_length)
        check_qkv(q, k, v, config)
        if text_length > min(q.shape[2], k.shape[2]):
            raise ValueError(f"text_length {text_length} exceeds {q.shape[2]} queries or {k.shape[2]} keys.")
        order = self._rearrangement(grid, text_length, text_first, causal)
        warming_up = self._warmup.warming_up(timestep)
        if warming_up:
            order, config = None, config.replace(dense_below=k.shape[2] + 1)
        if order is None:
            out, call = pyramid_attention(q, k, v, config, scale=scale, return_stats=True)
        else:
            plan = order.plan(q, k)
            moved = (plan.permute(q), plan.permute_kv(k), plan.permute_kv(v))
            out, call = pyramid_attention(*moved, config, scale=scale, return_stats=True)
            out = plan.restore(out)
        if warming_up:
            call.reason = "warm-up step"
        self.last_call = call
        return out

    def _rearrangement(self, grid, text_length: int, text_first: bool, causal: bool) -> Rearrangement | None:
        """The token order of this call; text goes last in it, where the operator keeps it at full resolution."""
        method = self.config.rearrange_method
        grid = None if grid is None else check_triple("grid", grid)
        moves_text = text_length > 0 and text_first
        if causal and moves_text:
            raise ValueError(
                "causal attention keeps text at full resolution only when it comes last: text_first=False."
            )
        if method is None and not moves_text:
            return None
        key = (grid, text_length, text_first)
        if self._made[0] != key:
            extra = {"tile_size": self.config.tile_size} if method == "STA" else {}
            kind = TextOnly if method is None else METHODS[method]
            self._made = (key, kind(grid, text_length, text_first, text_to_end=True, **extra))
        return self._made[1]


def psa_attention(
    q,
    k,
    v,
    config: PSAConfig | None = None,
    *,
    causal: bool = False,
    grid: tuple[int, int, int] | None = None,
    text_length: int = 0,
    text_first: bool = True,
    scale: float | None = None,
    **changes,
):
    """``PSAAttention`` in one call; ``changes`` are fields of ``PSAConfig`` that differ from ``config``.

    Shapes, dtypes and errors as ``PSAAttention.forward``. Nothing is kept between calls.

    Raises:
        TypeError: a keyword that is no field of ``PSAConfig``.
    """
    unknown = sorted(set(changes) - {f.name for f in dataclasses.fields(PSAConfig)})
    if unknown:
        raise TypeError(f"psa_attention got {', '.join(unknown)}, which PSAConfig does not have.")
    config = (config or PSAConfig()).replace(**changes)
    keywords = {"causal": causal, "grid": grid, "text_length": text_length, "text_first": text_first, "scale": scale}
    return PSAAttention(config)(q, k, v, **keywords)
