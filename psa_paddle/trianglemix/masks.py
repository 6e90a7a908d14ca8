"""TriangleMix as L x L masks: the definition that ``triangle_attention`` follows without building any."""

from __future__ import annotations

import numpy as np
import paddle

from ..eager.attend import MASKED
from .config import TriangleMixConfig, check_int

DENSE_UP_TO = 2048  # tokens; a shorter prompt gains nothing from sparsity
CACHED_MASKS = 4  # each holds seq_len^2 numbers
FLOATS = ("float16", "bfloat16", "float32", "float64")
DTYPES = (*FLOATS, "bool", "uint8", "int8", "int16", "int32", "int64")


def _dtype_name(dtype, allowed) -> str:
    name = dtype if isinstance(dtype, str) else str(dtype).removeprefix("paddle.")
    if name not in allowed:
        raise ValueError(f"dtype must be one of {', '.join(allowed)}, got {dtype!r}.")
    return name


def _place(device):
    try:
        return paddle.to_tensor([0.0], place=device).place
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"device {device!r} is not one that this Paddle can use.") from error


def additive_mask(mask, b: int, h: int, lq: int, lk: int):
    """A mask as float32 [B or 1, H or 1, Lq or 1, Lk] to add to the logits, never below ``MASKED``.

    Args:
        mask: bool (True: visible) or floating point (0: visible, -inf: masked, other numbers are added); 2 dimensions
            [Lq, Lk] or 4, [B, H, Lq, Lk], each of them possibly 1.
    """
    if not isinstance(mask, paddle.Tensor):
        raise TypeError(f"a mask must be a paddle.Tensor, got {type(mask).__name__}.")
    if mask.dtype != paddle.bool and not paddle.is_floating_point(mask):
        raise TypeError(f"a mask must be bool or floating point, got {mask.dtype}.")
    shape = [1, 1, *mask.shape] if mask.ndim == 2 else list(mask.shape)
    if len(shape) != 4 or any(n not in (1, full) for n, full in zip(shape, (b, h, lq, lk), strict=True)):
        raise ValueError(f"a mask must broadcast to [{b}, {h}, {lq}, {lk}] from 2 or 4 dimensions, got {mask.shape}.")
    if mask.dtype == paddle.bool:
        mask = (1.0 - mask.astype("float32")) * MASKED
    mask = paddle.clip(mask.astype("float32"), min=MASKED).reshape(shape)
    return mask if shape[3] == lk else mask.expand([*shape[:3], lk])


class TriangleMixMaskGenerator:
    """The regions of causal attention as masks [seq_len, seq_len], row i a query and column j a key.

    Streaming, Last and Middle do not overlap and together are the causal triangle; Triangle is Streaming and Last.
    ``device``: ``paddle.CPUPlace()``, another place, or a string such as "cpu" or "gpu:0"; ``dtype``: a string such as
    "float32" or ``paddle.float32``.

    Every mask method raises ValueError for seq_len <= 0, a negative layer, or a device or dtype that Paddle cannot use,
    and TypeError for a seq_len or layer that is not an integer.

    Source: TriangleMix (arXiv:2507.21526).
    """

    def __init__(self, config: TriangleMixConfig):
        if not isinstance(config, TriangleMixConfig):
            raise TypeError(f"config must be a TriangleMixConfig, got {type(config).__name__}.")
        self.config = config
        self._mask_cache: dict[tuple, paddle.Tensor] = {}

    def _create_streaming_mask(self, seq_len: int, device, dtype):
        """1 where j <= i and (j <= num_sink_tokens or i - j <= sliding_window_size), else 0."""
        return self._mask(self._streaming, seq_len, device, dtype)

    def _create_last_mask(self, seq_len: int, device, dtype):
        """1 where j <= i, seq_len - i < num_last_tokens and Streaming is 0, else 0."""
        return self._mask(lambda i, j: (j <= i) & self._last(i) & ~self._streaming(i, j), seq_len, device, dtype)

    def _create_middle_mask(self, seq_len: int, device, dtype):
        """1 where j <= i, seq_len - i >= num_last_tokens and Streaming is 0, else 0: what Triangle leaves out."""
        return self._mask(lambda i, j: (j <= i) & ~self._triangle(i, j), seq_len, device, dtype)

    def _create_triangle_mask(self, seq_len: int, device, dtype):
        """1 where Streaming or Last is 1, else 0."""
        return self._mask(self._triangle, seq_len, device, dtype)

    def _create_dense_mask(self, seq_len: int, device, dtype):
        """1 where j <= i, else 0."""
        return self._mask(lambda i, j: j <= i, seq_len, device, dtype)

    def get_attention_mask(self, seq_len: int, layer_idx: int, device, dtype, use_triangle: bool = False):
        """The Triangle mask, or the causal one, as numbers to add to logits: 0 allowed, -inf masked.

        Masks do not depend on the layer. The latest are cached, and a cached tensor is returned as it is: do not
        change it in place. ``dtype`` must be floating point.
        """
        seq_len = check_int("seq_len", seq_len, 1)
        check_int("layer_idx", layer_idx)
        name = _dtype_name(dtype, FLOATS)
        place = _place(device)
        key = seq_len, str(place), name, bool(use_triangle)
        if key not in self._mask_cache:
            i, j = _positions(seq_len)
            allowed = self._triangle(i, j) if use_triangle else j <= i
            numbers = np.where(allowed, np.float32(0.0), np.float32(-np.inf))
            while len(self._mask_cache) >= CACHED_MASKS:
                del self._mask_cache[next(iter(self._mask_cache))]
            self._mask_cache[key] = paddle.to_tensor(numbers, place=place).astype(name)
        return self._mask_cache[key]

    def should_use_triangle(self, layer_idx: int) -> bool:
        """Whether the layer is in ``triangle_layer_indices``, or without those among the first
        ``num_triangle_layers``; False when the configuration names no layers."""
        layer_idx = check_int("layer_idx", layer_idx)
        if self.config.triangle_layer_indices:
            return layer_idx in self.config.triangle_layer_indices
        return layer_idx < (self.config.num_triangle_layers or 0)

    def clear_cache(self) -> None:
        """Forget every cached mask."""
        self._mask_cache.clear()

    def _mask(self, rule, seq_len: int, device, dtype):
        seq_len, name = check_int("seq_len", seq_len, 1), _dtype_name(dtype, DTYPES)
        return paddle.to_tensor(rule(*_positions(seq_len)), place=_place(device)).astype(name)

    def _streaming(self, i, j):
        return (j <= i) & ((j <= self.config.num_sink_tokens) | (j >= i - self.config.sliding_window_size))

    def _last(self, i):
        return len(i) - i < self.config.num_last_tokens

    def _triangle(self, i, j):
        return self._streaming(i, j) | ((j <= i) & self._last(i))


def _positions(seq_len: int):
    """Query positions [seq_len, 1] and key positions [1, seq_len]: only comparisons of them are L x L, as bytes."""
    positions = np.arange(seq_len)
    return positions[:, None], positions[None]


class TriangleMixAttention:
    """Which mask each layer of a model gets.

    Attributes: ``config``, ``num_layers`` and ``mask_generator``.

    Raises:
        TypeError: not a ``TriangleMixConfig``, or ``num_layers`` not an integer. ValueError: ``num_layers`` < 1, or
            the configuration names layers, or a number of them, that the model does not have.
    """

    def __init__(self, config: TriangleMixConfig, num_layers: int):
        self.mask_generator = TriangleMixMaskGenerator(config)
        self.config = config
        self.num_layers = config.check_layers(num_layers)

    def should_use_triangle(self, layer_idx: int) -> bool:
        """Whether the layer uses the triangle pattern; ValueError for a layer outside [0, num_layers)."""
        if check_int("layer_idx", layer_idx) >= self.num_layers:
            raise ValueError(f"layer_idx must lie in [0, {self.num_layers}), got {layer_idx}.")
        return self.mask_generator.should_use_triangle(layer_idx)

    def get_attn_mask(self, seq_len: int, layer_idx: int, device, dtype="float32"):
        """The layer's Triangle mask, 0 / -inf [seq_len, seq_len]; None where attention is dense.

        None for seq_len <= 2048 and for layers that do not use the pattern. Raises what ``TriangleMixMaskGenerator``
        raises, and ValueError for a layer outside [0, num_layers).
        """
        seq_len = check_int("seq_len", seq_len, 1)
        if not self.should_use_triangle(layer_idx) or seq_len <= DENSE_UP_TO:
            return None
        return self.mask_generator.get_attention_mask(seq_len, layer_idx, device, dtype, use_triangle=True)
