"""Paddle tensors from and to NumPy by ``to_tensor`` and ``numpy`` alone, so that a Paddle whose operations are broken
can still carry the numbers of a check."""

from __future__ import annotations

import numpy as np

EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def stored(x: np.ndarray, dtype: str) -> np.ndarray:
    """The array rounded to a dtype, to the nearest and ties to even; bfloat16 as the uint16 that Paddle takes it in."""
    if dtype != "bfloat16":
        return np.ascontiguousarray(x, dtype)
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def exact(x: np.ndarray) -> np.ndarray:
    """float64 of what ``stored`` or a tensor's ``numpy`` gave; uint16 is bfloat16."""
    if x.dtype == np.uint16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float64)


def on_device(x: np.ndarray):
    """A tensor of what ``stored`` gave, on Paddle's current device."""
    import paddle

    return paddle.to_tensor(x)


def on_host(x) -> np.ndarray:
    """float64 of a tensor."""
    return exact(x.numpy())


def dtypes_here() -> tuple[str, ...]:
    """What is checked on Paddle's current device: float32, and on a GPU what models run in."""
    import paddle

    if not paddle.get_device().startswith("gpu"):
        return ("float32",)
    return ("bfloat16", "float16", "float32") if paddle.amp.is_bfloat16_supported() else ("float16", "float32")


def smooth_qkv(lq: int, lk: int, heads: int, kv_heads: int, dim: int, batch: int = 1):
    """q [B, H, Lq, D], k and v [B, Hkv, Lk, D], float64; neighbouring keys are alike, so that some blocks matter more
    than others and each level is taken somewhere."""
    rng = np.random.default_rng(0)
    base = np.repeat(rng.standard_normal((batch, kv_heads, -(-lk // 16), dim)), 16, 2)[:, :, :lk]
    k = 2 * base + rng.standard_normal((batch, kv_heads, lk, dim))
    q = rng.standard_normal((batch, heads, lq, dim))
    return q, k, rng.standard_normal((batch, kv_heads, lk, dim))
