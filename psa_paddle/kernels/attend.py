"""Step 4: attention over what the lists keep, by ``attend_portable``'s kernel or on Hopper by ``attend_hopper``'s.

Source: PSA (arXiv:2512.04025).
"""

from __future__ import annotations

from .. import bridge
from ..pooled_layout import pooled_rows
from . import tuning
from .attend_portable import attend_kernel
from .common import (
    LOG2E,
    ceil_div,
    check_blocks,
    check_buffer,
    check_inputs,
    check_out,
    next_power_of_2,
    stride_args,
)
from .lists import COUNTS, Selection


def attend_fwd(
    q, k, v, pooled_k, pooled_v, found: Selection, *, scale: float, causal: bool, query_block: int, key_block: int,
    text_length: int = 0, kv_start=None, out=None, heads_last: bool = False, means=None,
):  # fmt: skip
    """Attention over the listed blocks (PSA, arXiv:2512.04025).

    Args:
        q: [B, H, Lq, D]; k, v: [B, Hkv, Lk, D]; one dtype of float32, float16, bfloat16; last dimension contiguous.
        pooled_k, pooled_v: ``pyramid_fwd``'s, or None when no list names a pooled level.
        found: ``select_fwd``'s or ``lists_from_levels``'.
        scale: factor of the logits.
        text_length: last tokens whose query blocks may keep everything: they start first.
        kv_start: int32 [B], first key of each sample, or None.
        out: where to write, any strides with a contiguous last dimension; None allocates it.
        heads_last: ``out`` is [B, Lq, H, D].
        means: ``means_fwd``'s pair, so that blocks which ``found.levels`` skips take part by their means; or None.

    Returns:
        ``out``, [B, H, Lq, D] or [B, Lq, H, D] in q's dtype; rows of padding and rows that see nothing are zeros.

    Raises:
        TypeError, ValueError: unsupported or unequal dtypes, shapes, strides or block sizes.
    """
    check_inputs(q=q, k=k, v=v, kv_start=kv_start, causal=causal)
    check_blocks(query_block, key_block)
    b, h, lq, d = q.shape
    hkv, lk = k.shape[1], k.shape[2]
    n_i, n_j = ceil_div(lq, query_block), ceil_div(lk, key_block)
    _check_found(found, (b, h, n_i, n_j), means is not None, k)
    _check_blocks_of("pooled", (pooled_k, pooled_v), k, pooled_rows(lk // key_block, key_block))
    _check_blocks_of("mean", means or (None, None), k, lk // key_block)
    shape = [b, lq, h, d] if heads_last else [b, h, lq, d]
    if out is None:
        out = bridge.empty(shape, bridge.dtype_name(q), q)
    check_out(out, shape, q)
    mean_k, mean_v = means or (None, None)
    strides = stride_args(q=q, k=k, v=v, o=out)
    if heads_last:
        strides["stride_oh"], strides["stride_ol"] = strides["stride_ol"], strides["stride_oh"]
    arguments = dict(
        q=q, k=k, v=v, pooled_k=pooled_k, pooled_v=pooled_v, mean_k=mean_k, mean_v=mean_v, lists=found.lists,
        counts=found.counts, levels=found.levels if mean_k is not None else None, out=out, kv_start=kv_start,
        **strides, scale=abs(scale) * LOG2E, lq=lq, lk=lk, n_i=n_i,
        n_first=min(n_i, n_i - max(0, lq - text_length) // query_block), n_j=n_j, n_full=lk // key_block, hkv=hkv,
        group=h // hkv, n_rows=n_i * b * h, M=query_block, N=key_block, D=d,
        CAUSAL=causal, POOLED=pooled_k is not None, MEANS=mean_k is not None, FLIP=scale < 0.0,
    )  # fmt: skip
    itemsize = 4 if bridge.dtype_name(q) == "float32" else 2
    arch = bridge.arch(q, attend_kernel)
    if arch == 90 and query_block == 128 and scale != 0.0 and _hopper_takes((q, k, v, out), d, itemsize):
        from .attend_hopper import attend_hopper_kernel, hopper_arguments

        settings = tuning.pick("attend_hopper", d, itemsize, arch)
        arguments = hopper_arguments(arguments, h, settings["TILE"])
        grid = min(n_i * b * h, bridge.multiprocessors(q, attend_hopper_kernel))
        bridge.launch(attend_hopper_kernel, (grid,), like=q, turns=found.turns, **arguments, **settings)
    else:
        settings = tuning.pick("attend", d, itemsize, arch)
        bridge.launch(attend_kernel, (n_i * b * h,), like=q, **arguments, BLOCK_D=next_power_of_2(d), **settings)
    return out


def _check_found(found: Selection, shape, means: bool, like) -> None:
    """Refuse lists of other lengths or blocks."""
    check_buffer("lists", found.lists, "int16", shape, like)
    check_buffer("counts", found.counts, "int32", (*shape[:3], COUNTS), like)
    if means:
        if found.levels is None:
            raise ValueError("means need the levels: choose the blocks with means=True.")
        check_buffer("levels", found.levels, "int8", shape, like)


def _check_blocks_of(name: str, pair, k, rows: int) -> None:
    """Refuse pooled keys and values, or means, that are not those of ``k``."""
    b, hkv, _, d = k.shape
    for x, letter in zip(pair, "kv", strict=True):
        if x is not None:
            check_buffer(f"{name}_{letter}", x, bridge.dtype_name(k), (b, hkv, rows, d), k)


def _hopper_takes(tensors, dim: int, itemsize: int) -> bool:
    """Whether the Hopper kernel can copy these tensors: 16-bit, D of 64 or 128, rows apart and aligned to 16 bytes, and
    a Triton whose Gluon it was run on."""
    strides = [s for x in tensors for s in bridge.strides(x)[:-1]]
    aligned = all(x.data_ptr() % 16 == 0 for x in tensors) and all(s > 0 and s % 16 == 0 for s in strides)
    return dim in (64, 128) and itemsize == 2 and aligned and bridge.has_gluon()
