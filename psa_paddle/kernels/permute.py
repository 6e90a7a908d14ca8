"""Token orders on the device: rows gathered into a new order, and scattered back. Each number is read and written once.

Bytes of one call: 2 B H L D of the dtype, and the indices, 4 L or 4 B H L.
"""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl

from .. import bridge
from ..geometry import ceil_div
from . import tuning
from .common import check_device, check_tensor, next_power_of_2, stride_args


@triton.jit
def _permute_kernel(
    x, y, order,
    stride_xb, stride_xh, stride_xl, stride_yb, stride_yh, stride_yl, stride_ob, stride_oh,
    length, heads,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, SCATTER: tl.constexpr,
):  # fmt: skip
    i_bh = tl.program_id(1).to(tl.int64)
    i_b, i_h = i_bh // heads, i_bh % heads
    o_l, o_d = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    m_l = o_l < length
    source = tl.load(order + i_b * stride_ob + i_h * stride_oh + o_l, mask=m_l, other=0)
    target = o_l
    if SCATTER:
        source, target = target, source
    mask = m_l[:, None] & (o_d < D)[None, :]
    p_x = x + i_b * stride_xb + i_h * stride_xh + source.to(tl.int64)[:, None] * stride_xl + o_d[None, :]
    p_y = y + i_b * stride_yb + i_h * stride_yh + target.to(tl.int64)[:, None] * stride_yl + o_d[None, :]
    tl.store(p_y, tl.load(p_x, mask=mask), mask=mask)


def token_index(order: np.ndarray, like):
    """An order of tokens, int32 [L], on ``like``'s device; the host waits for the copy."""
    return bridge.from_host(order.astype(np.int32), like)


def check_order(order, x) -> None:
    """Refuse an order that is not int32, [L] or [B, H, L] of x's sizes, with the last dimension contiguous.

    Raises:
        TypeError, ValueError
    """
    if bridge.dtype_name(order) != "int32":
        raise TypeError(f"order must be int32, got {bridge.dtype_name(order)}.")
    shape = list(order.shape)
    if shape not in ([x.shape[2]], list(x.shape[:3])) or bridge.strides(order)[-1] != 1:
        raise ValueError(f"order must be [L] or [B, H, L], contiguous, for x {list(x.shape)}, got shape {shape}.")
    check_device("order", order, x)


def _move(x, y, y_strides: dict, order, scatter: bool):
    check_order(order, x)
    b, h, length, d = x.shape
    per_head = bridge.strides(order) if len(order.shape) == 3 else (0, 0, 1)
    bridge.launch(
        _permute_kernel, (ceil_div(length, tuning.PERMUTE_ROWS), b * h), like=x,
        x=x, y=y, order=order, **stride_args(x=x), **y_strides, stride_ob=per_head[0], stride_oh=per_head[1],
        length=length, heads=h, D=d, BLOCK_D=next_power_of_2(d), ROWS=tuning.PERMUTE_ROWS, SCATTER=scatter,
    )  # fmt: skip
    return y


def permute_tokens(x, order):
    """Token ``order[i]`` of x at place i.

    Args:
        x: [B, H, L, D], float32, float16 or bfloat16, last dimension contiguous, other strides free.
        order: int32, on x's device: a permutation of 0 .. L - 1, [L] for all heads or [B, H, L]. Its values are not
            checked.

    Returns:
        x's dtype, contiguous [B, H, L, D].

    Raises:
        TypeError, ValueError: unsupported dtypes, shapes or strides.
    """
    check_tensor("x", x)
    y = bridge.empty(tuple(x.shape), bridge.dtype_name(x), x)
    return _move(x, y, stride_args(y=y), order, False)


def restore_tokens(y, order, *, heads_last: bool = False):
    """Undo ``permute_tokens``, bitwise: [B, H, L, D], or [B, L, H, D] with ``heads_last``; arguments as there."""
    check_tensor("y", y)
    b, h, length, d = y.shape
    out = bridge.empty((b, length, h, d) if heads_last else (b, h, length, d), bridge.dtype_name(y), y)
    strides = stride_args(y=out)
    if heads_last:
        strides["stride_yh"], strides["stride_yl"] = strides["stride_yl"], strides["stride_yh"]
    return _move(y, out, strides, order, True)
