"""What the kernels share: the part of a batch that a sample owns, checks of shapes, sizes of tiles."""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge
from ..config import HEAD_DIMS

DTYPES = ("float32", "float16", "bfloat16")
LOG2E = 1.4426950408889634


@triton.jit
def sample_span(kv_start, i_b, lq, lk, CAUSAL: tl.constexpr):
    """First query, first key, number of queries and of keys of sample ``i_b`` of a left-padded batch."""
    o_q, o_k = tl.cast(0, tl.int32), tl.cast(0, tl.int32)
    if kv_start is not None:
        o_k = tl.load(kv_start + i_b).to(tl.int32)
        if CAUSAL:
            o_q = tl.maximum(o_k - (lk - lq), 0)
    return o_q, o_k, lq - o_q, lk - o_k


@triton.jit
def row_span(i_i, lq, lk, M: tl.constexpr, N: tl.constexpr, CAUSAL: tl.constexpr):
    """``(n_list, n_valid)`` of query block ``i_i``: key blocks [0, n_list) are listed by level, [n_list, n_valid) are
    the tail, run at level 1 with a mask: the crossing blocks, or a ragged last block that every query may see."""
    n_list = lk // N
    n_valid = (lk + N - 1) // N
    if CAUSAL:
        n_list = (i_i * M + lk - lq) // N
        n_valid = (tl.minimum((i_i + 1) * M, lq) - 1 + lk - lq) // N + 1
    n_valid = tl.where(i_i * M < lq, n_valid, 0)  # a shorter sample has fewer query blocks
    return tl.minimum(n_list, n_valid), n_valid


@triton.jit
def block_at(i_place, n_places, n_first, n_i, group):
    """``(i_i, i_kv, i_g)`` of the query block at a place of a launch's order: the last ``n_first`` query blocks of all
    heads come first, as they may keep everything and nothing should wait for them in the end; then each kv head's heads
    together, which share keys in the L2 cache, the longest rows first."""
    n_kv = n_places // (n_i * group)
    i_run = i_place // group
    if i_run < n_first * n_kv:
        i_i = n_i - 1 - i_run // n_kv
        i_kv = i_run % n_kv
    else:
        i_run -= n_first * n_kv
        i_i = n_i - n_first - 1 - i_run % (n_i - n_first)
        i_kv = i_run // (n_i - n_first)
    return i_i, i_kv.to(tl.int64), i_place % group


def next_power_of_2(n: int) -> int:
    """The smallest power of 2 that is at least ``n``."""
    return 1 << max(0, n - 1).bit_length()


def check_tensor(name: str, x) -> tuple[str, list[int], str]:
    """Refuse a tensor that is empty, whose last dimension is not contiguous, or of an unsupported dtype or head
    dimension; return its dtype, shape and device, which cost the host time to ask for.

    Raises:
        TypeError, ValueError
    """
    dtype, shape, strides = bridge.dtype_name(x), list(x.shape), bridge.strides(x)
    if dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, float16 or bfloat16, got {dtype}.")
    if len(shape) != 4 or shape[-1] not in HEAD_DIMS or 0 in shape:
        raise ValueError(f"{name} must be [B, H, L, D], not empty, with D in {HEAD_DIMS}, got {shape}.")
    if strides[-1] != 1:
        raise ValueError(f"{name} must be contiguous in its last dimension, got strides {strides}.")
    return dtype, shape, bridge.device(x)


def check_inputs(*, k, q=None, v=None, kv_start=None, causal: bool = False) -> None:
    """Refuse q [B, H, Lq, D], k and v [B, Hkv, Lk, D] and kv_start that a kernel cannot take, alone or together: with
    shapes that disagree it would read past the end of one.

    Raises:
        TypeError, ValueError
    """
    dtype, (batch, heads, length, dim), device = check_tensor("k", k)
    for name, x in (("v", v), ("q", q)):
        if x is None:
            continue
        own_dtype, shape, own_device = check_tensor(name, x)
        if own_dtype != dtype:
            raise TypeError(f"q, k and v must have one dtype, got {own_dtype} ({name}) and {dtype} (k).")
        if own_device != device:
            raise ValueError(f"{name} must be on the device of k, {device}, got {own_device}.")
        if name == "v":
            if shape != [batch, heads, length, dim]:
                raise ValueError(f"k and v must have one shape, got {[batch, heads, length, dim]} and {shape}.")
            continue
        if (shape[0], shape[3]) != (batch, dim):
            raise ValueError(f"q {shape} and k {list(k.shape)} must agree in batch and head dimension.")
        if shape[1] % heads:
            raise ValueError(f"{shape[1]} query heads cannot share {heads} key heads evenly.")
        if causal and shape[2] > length:
            raise ValueError(f"causal attention needs as many keys as queries, got {shape[2]} and {length}.")
    if kv_start is not None:
        check_buffer("kv_start", kv_start, "int32", [batch], k)


def check_buffer(name: str, x, dtype: str, shape, like) -> None:
    """Refuse what is not a contiguous tensor of this dtype and shape on ``like``'s device.

    Raises:
        TypeError, ValueError
    """
    if bridge.dtype_name(x) != dtype or list(x.shape) != list(shape) or not _is_contiguous(x):
        raise ValueError(f"{name} must be {dtype} {list(shape)}, contiguous, got {x.dtype} {list(x.shape)}.")
    check_device(name, x, like)


def _is_contiguous(x) -> bool:
    step = 1
    for size, stride in zip(reversed(x.shape), reversed(bridge.strides(x)), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def check_device(name: str, x, like) -> None:
    """Refuse a tensor on another device than ``like``'s; ValueError."""
    if bridge.device(x) != bridge.device(like):
        raise ValueError(f"{name} must be on the device of the inputs, {bridge.device(like)}, got {bridge.device(x)}.")


def check_out(out, shape, like) -> None:
    """Refuse an ``out`` that is not of this shape and ``like``'s dtype, contiguous in its last dimension.

    Raises:
        TypeError, ValueError
    """
    dtype = bridge.dtype_name(like)
    if list(out.shape) != list(shape) or bridge.dtype_name(out) != dtype:
        raise ValueError(f"out must be {dtype} {list(shape)}, got {out.dtype} {list(out.shape)}.")
    check_tensor("out", out)
    check_device("out", out, like)


def stride_args(**tensors) -> dict:
    """``{"stride_qb": .., "stride_qh": .., "stride_ql": ..}`` for ``q=``: batch, head and row strides in elements."""
    args = {}
    for name, x in tensors.items():
        for axis, stride in zip("bhl", bridge.strides(x)[:3], strict=True):
            args[f"stride_{name}{axis}"] = stride
    return args
