"""What the kernels share: the part of a batch that a sample owns, checks of shapes, sizes of tiles."""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge

HEAD_DIMS = (32, 64, 80, 96, 128)
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
def place_of(i_row, n_rows, n_first, n_i, group):
    """``(i_i, i_kv, i_g)`` of one row of a launch: the last ``n_first`` query blocks of all heads come first, as they
    may keep everything and nothing should wait for them in the end; then each kv head's heads together, which share
    keys in the L2 cache, the longest rows first."""
    n_kv = n_rows // (n_i * group)
    place = i_row // group
    if place < n_first * n_kv:
        i_i = n_i - 1 - place // n_kv
        i_kv = place % n_kv
    else:
        place -= n_first * n_kv
        i_i = n_i - n_first - 1 - place % (n_i - n_first)
        i_kv = place // (n_i - n_first)
    return i_i, i_kv.to(tl.int64), i_row % group


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def check_tensor(name: str, x, ndim: int = 4) -> None:
    """Refuse a tensor whose last dimension is not contiguous, or of an unsupported dtype or head dimension.

    Raises:
        TypeError, ValueError
    """
    if bridge.dtype_name(x) not in DTYPES:
        raise TypeError(f"{name} must be float32, float16 or bfloat16, got {bridge.dtype_name(x)}.")
    if len(x.shape) != ndim or x.shape[-1] not in HEAD_DIMS:
        raise ValueError(f"{name} must be [B, H, L, D] with D in {HEAD_DIMS}, got {list(x.shape)}.")
    if bridge.strides(x)[-1] != 1:
        raise ValueError(f"{name} must be contiguous in its last dimension, got strides {bridge.strides(x)}.")


def check_blocks(query_block: int, key_block: int) -> None:
    if query_block not in (64, 128) or key_block not in (32, 64, 128):
        raise ValueError(f"query_block must be 64 or 128 and key_block 32, 64 or 128, got {query_block}, {key_block}.")


def check_kv_start(kv_start, batch: int) -> None:
    if kv_start is None:
        return
    if bridge.dtype_name(kv_start) != "int32" or list(kv_start.shape) != [batch]:
        raise ValueError(f"kv_start must be int32 [{batch}] on the device of k, got {kv_start.dtype} {kv_start.shape}.")


def stride_args(**tensors) -> dict:
    """``{"stride_qb": .., "stride_qh": .., "stride_ql": ..}`` for ``q=``: batch, head and row strides in elements."""
    args = {}
    for name, x in tensors.items():
        for axis, stride in zip("bhl", bridge.strides(x)[:3], strict=True):
            args[f"stride_{name}{axis}"] = stride
    return args
