"""TriangleMix for Ascend NPUs: Paddle ops only, so it runs on every device. Source: arXiv:2507.21526."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F

from ..attention import DTYPES, check_scale
from .attention import Pattern, attend, take
from .config import TriangleMixConfig, check_int
from .masks import DENSE_UP_TO, TriangleMixAttention, TriangleMixMaskGenerator, additive_mask

NPU_MASKED = -1e6
# bfloat16 rounds -1e6 up, so the bound that tells masked from allowed lies above it.
MASKED_BELOW = -5e5


def _check_heads_last(query, key, value) -> tuple[int, int, int, int, int]:
    """(B, Lq, H, D, Lk) of [B, Lq, H, D] and [B, Lk, Hkv, D]; refuses what does not fit."""
    for name, x in (("query", query), ("key", key), ("value", value)):
        if not isinstance(x, paddle.Tensor):
            raise TypeError(f"{name} must be a paddle.Tensor, got {type(x).__name__}.")
        if x.dtype not in DTYPES or x.dtype != query.dtype:
            raise TypeError(f"{name} must be float32, float16 or bfloat16 and as the query, got {x.dtype}.")
        if x.ndim != 4 or x.size == 0:
            raise ValueError(f"{name} must have 4 dimensions [B, L, H, D], none empty, got shape {x.shape}.")
    (b, lq, h, d), lk = query.shape, key.shape[1]
    if key.shape != value.shape or key.shape[0] != b or key.shape[3] != d or h % key.shape[2]:
        raise ValueError(f"query {query.shape}, key {key.shape} and value {value.shape} do not fit together.")
    return b, lq, h, d, lk


class AscendTriangleMixAttention(paddle.nn.Layer):
    """Causal attention of one layer: the triangle pattern where the configuration asks for it, dense elsewhere.

    The pattern applies to layers that ``trianglemix_config`` names and to more than 2048 keys. No L x L tensor is
    built either way.

    Args:
        num_heads: query heads.
        head_dim: dimension of a head.
        scale: factor of the logits, usually 1 / sqrt(head_dim).
        trianglemix_config: None is dense attention.
        layer_idx: this layer; needed with a configuration.
        num_layers: layers of the model; checks ``layer_idx`` and the configuration when given.

    Raises:
        TypeError: not integers, or not a ``TriangleMixConfig``. ValueError: heads or dimensions below 1, a scale that
            is not finite, a configuration without ``layer_idx``, or a layer outside [0, num_layers).

    Source: TriangleMix (arXiv:2507.21526).
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        scale: float,
        trianglemix_config: TriangleMixConfig | None = None,
        layer_idx: int | None = None,
        num_layers: int | None = None,
    ):
        super().__init__()
        self.num_heads = check_int("num_heads", num_heads, 1)
        self.head_dim = check_int("head_dim", head_dim, 1)
        self.scale = check_scale(scale, head_dim)
        self.trianglemix_config = trianglemix_config
        self.layer_idx = layer_idx
        self.num_layers = num_layers
        if layer_idx is not None:
            check_int("layer_idx", layer_idx)
        if num_layers is not None and (layer_idx or 0) >= check_int("num_layers", num_layers, 1):
            raise ValueError(f"layer_idx must lie in [0, {num_layers}), got {layer_idx}.")
        self.uses_triangle = False
        if trianglemix_config is not None:
            if layer_idx is None:
                raise ValueError("trianglemix_config needs layer_idx, or nothing says whether this layer uses it.")
            chooser = (
                TriangleMixMaskGenerator(trianglemix_config)
                if num_layers is None
                else TriangleMixAttention(trianglemix_config, num_layers)
            )
            self.uses_triangle = chooser.should_use_triangle(layer_idx)

    def forward(self, query, key, value, attn_mask=None):
        """Attention output [B, Lq, H, D] in the query's dtype.

        Args:
            query: [B, Lq, H, D], float32, float16 or bfloat16.
            key, value: [B, Lk, Hkv, D], Lq <= Lk aligned bottom-right; Hkv divides H.
            attn_mask: bool (True: visible) or floating point (added to the logits), [Lq, Lk] or broadcastable to
                [B, H, Lq, Lk]. A key must be visible in it, be causal, and belong to the pattern; a query that sees
                no key gets zeros.

        Raises:
            TypeError: not tensors, or dtypes that do not fit. ValueError: shapes that do not fit, or Lq > Lk.
        """
        b, lq, h, d, lk = _check_heads_last(query, key, value)
        if (h, d) != (self.num_heads, self.head_dim):
            raise ValueError(f"this layer has {self.num_heads} heads of {self.head_dim}, the query {h} of {d}.")
        if lq > lk:
            raise ValueError(f"causal attention needs as many keys as queries; got {lq} queries and {lk} keys.")
        bias = None if attn_mask is None else additive_mask(attn_mask, b, h, lq, lk)
        pattern = Pattern(0, 0, lk + 1)  # every row is among the last: dense
        if self.uses_triangle and lk > DENSE_UP_TO:
            config = self.trianglemix_config
            pattern = Pattern(config.num_sink_tokens, config.sliding_window_size, config.num_last_tokens)
        q, k, v = (x.transpose([0, 2, 1, 3]) for x in (query, key, value))
        return attend(q, k, v, pattern, self.scale, bias).transpose([0, 2, 1, 3])


class AscendNPUTriangleMixOptimizer:
    """Masks that an NPU can compute with, and attention that skips the blocks that a mask hides."""

    @staticmethod
    def optimize_mask_for_npu(mask, block_size: int = 64):
        """The mask with -1e6 for -inf and every other number as it is.

        Args:
            mask: floating-point tensor of any shape.
            block_size: tokens of a block, at least 1. The numbers do not depend on it.

        Returns:
            A new tensor of the same shape and dtype; float32 for a float16 mask, as float16 cannot hold -1e6.

        Raises:
            TypeError: not a floating-point tensor, or ``block_size`` not an integer. ValueError: ``block_size`` < 1.
        """
        check_int("block_size", block_size, 1)
        if not isinstance(mask, paddle.Tensor) or not paddle.is_floating_point(mask):
            raise TypeError("mask must be a floating-point paddle.Tensor.")
        # Paddle's CPU has no 16-bit where().
        wide = mask if mask.dtype == paddle.float64 else mask.astype("float32")
        wide = paddle.where(wide == float("-inf"), paddle.full_like(wide, NPU_MASKED), wide)
        return wide.astype("bfloat16") if mask.dtype == paddle.bfloat16 else wide

    @staticmethod
    def sparse_attention_kernel(query, key, value, mask, scale: float, block_size: int = 64):
        """softmax(scale q k^T + mask) v, multiplying only the blocks in which the mask shows some pair.

        Args:
            query: [B, Lq, H, D], float32, float16 or bfloat16; key, value: [B, Lk, Hkv, D]; Hkv divides H.
            mask: bool (True: visible) or floating point, [Lq, Lk] or broadcastable to [B, H, Lq, Lk]. Numbers up to
                -5e5, -inf among them, hide a pair; others are added. It alone decides what is causal.
            scale: factor of the logits.
            block_size: rows and columns of a block, in tokens.

        Returns:
            [B, Lq, H, D] in the query's dtype; a query that sees no key gets zeros.

        Raises:
            TypeError: not tensors, or dtypes that do not fit. ValueError: shapes that do not fit, ``block_size`` < 1,
                or a scale that is not finite.
        """
        b, lq, h, d, lk = _check_heads_last(query, key, value)
        block_size, scale = check_int("block_size", block_size, 1), check_scale(scale, d)
        mask = additive_mask(mask, b, h, lq, lk)
        mask = mask if mask.shape[2] == lq else mask.expand([*mask.shape[:2], lq, lk])
        group = h // key.shape[2]
        shared = group if mask.shape[1] == 1 else 1  # query heads with one key head and one mask go together
        q, k, v = (x.astype("float32").transpose([0, 2, 1, 3]) for x in (query, key, value))
        samples = []
        for x in range(b):
            heads, plans = [], {}
            for y in range(0, h, shared):
                own = min(x, mask.shape[0] - 1), min(y, mask.shape[1] - 1)
                if own not in plans:
                    plans = {own: (mask[own], _visible_blocks(mask[own], block_size))}
                kv = y // group
                heads.append(
                    _block_attention(q[x, y : y + shared] * scale, k[x, kv], v[x, kv], *plans[own], block_size)
                )
            samples.append(paddle.concat(heads))
        return paddle.stack(samples).transpose([0, 2, 1, 3]).astype(query.dtype)


def _visible_blocks(mask, size: int) -> np.ndarray:
    """Host bool [nI, nJ]: the blocks of a mask [Lq, Lk] with some visible pair."""
    visible = (mask > MASKED_BELOW).numpy()
    for axis, length in enumerate(visible.shape):
        visible = np.logical_or.reduceat(visible, np.arange(0, length, size), axis=axis)
    return visible


def _runs(kept: np.ndarray, size: int, length: int) -> list[tuple[int, int]]:
    """The columns of ascending block numbers as ranges, neighbours joined."""
    groups = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)
    return [(int(run[0]) * size, min((int(run[-1]) + 1) * size, length)) for run in groups]


def _block_attention(q, k, v, mask, blocks: np.ndarray, size: int):
    """Attention of query heads [g, Lq, D] on one key head [Lk, D] over the visible blocks of a mask [Lq, Lk]."""
    group, lq, d = q.shape
    outputs = []
    for i, row in enumerate(blocks):
        rows = slice(i * size, min((i + 1) * size, lq))
        kept = np.flatnonzero(row)
        if not len(kept):
            outputs.append(paddle.zeros_like(q[:, rows]))
            continue
        runs = _runs(kept, size, k.shape[0])
        shown = take(mask[rows], runs, 1)
        scores = paddle.matmul(q[:, rows].flatten(0, 1), take(k, runs, 0), transpose_y=True)
        scores = scores.reshape([group, -1, shown.shape[1]]) + shown
        out = paddle.matmul(F.softmax(scores, axis=-1).flatten(0, 1), take(v, runs, 0)).reshape([group, -1, d])
        seen = (shown > MASKED_BELOW).any(-1, keepdim=True)
        outputs.append(paddle.where(seen, out, paddle.zeros_like(out)))
    return paddle.concat(outputs, axis=1)
