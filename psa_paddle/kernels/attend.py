"""Step 4: attention over what the lists keep, by ``attend_portable``'s kernel or on Hopper by ``attend_hopper``'s.

Source: PSA (arXiv:2512.04025).
"""

from __future__ import annotations

from typing import NamedTuple

from .. import bridge
from ..bridge import Tensor
from ..geometry import ceil_div
from ..plan import Plan
from ..pooled_layout import pooled_rows
from . import tuning
from .attend_portable import attend_kernel
from .common import (
    LOG2E,
    check_buffer,
    check_inputs,
    check_out,
    next_power_of_2,
    stride_args,
)
from .lists import COUNTS, Selection


class Pooled(NamedTuple):
    """Step 1's results: ``pyramid_fwd``'s, None when no list names a pooled level; ``means_fwd``'s, so that blocks
    which the levels skip take part by their means, or None."""

    pooled_k: Tensor | None = None
    pooled_v: Tensor | None = None
    mean_k: Tensor | None = None
    mean_v: Tensor | None = None


def attend_fwd(q, k, v, found: Selection, plan: Plan, pooled: Pooled = Pooled(), *, kv_start=None, out=None):  # noqa: B008
    """Attention over the listed blocks (PSA, arXiv:2512.04025).

    Args:
        q: [B, H, Lq, D]; k, v: [B, Hkv, Lk, D]; one dtype of float32, float16, bfloat16; last dimension contiguous.
        found: ``select_fwd``'s or ``lists_from_levels``'.
        plan: its scale, causality and blocks; of its forced text, that query blocks which may keep everything start
            first.
        pooled: the pooled keys and values.
        kv_start: int32 [B], first key of each sample, or None.
        out: where to write, any strides with a contiguous last dimension; None allocates it.

    Returns:
        ``out``, [B, H, Lq, D] or by ``plan.heads_last`` [B, Lq, H, D] in q's dtype; rows of padding and rows that see
        nothing are zeros.

    Raises:
        TypeError, ValueError: unsupported or unequal dtypes, shapes or strides.
    """
    check_inputs(q=q, k=k, v=v, kv_start=kv_start, causal=plan.causal)
    n_j, n_full = ceil_div(k.shape[2], plan.key_block), k.shape[2] // plan.key_block
    _check_found(found, (*q.shape[:2], ceil_div(q.shape[2], plan.query_block), n_j), pooled.mean_k is not None, k)
    _check_blocks_of("pooled", pooled[:2], k, pooled_rows(n_full, plan.key_block))
    _check_blocks_of("mean", pooled[2:], k, n_full)
    check_attend_out(out, q, plan)
    return run_attend(q, k, v, found, plan, pooled, kv_start, out)


def _out_shape(q, plan: Plan) -> tuple[int, ...]:
    b, h, lq, d = q.shape
    return (b, lq, h, d) if plan.heads_last else (b, h, lq, d)


def check_attend_out(out, q, plan: Plan) -> None:
    """Refuse an ``out`` that the attention of ``q`` cannot be written to; None is allocated.

    Raises:
        TypeError, ValueError
    """
    if out is not None:
        check_out(out, _out_shape(q, plan), q)


def run_attend(q, k, v, found: Selection, plan: Plan, pooled: Pooled, kv_start, out):
    """``attend_fwd`` of checked tensors."""
    (b, h, lq, d), (hkv, lk), query_block, key_block = q.shape, k.shape[1:3], plan.query_block, plan.key_block
    n_i, n_j, scale = ceil_div(lq, query_block), ceil_div(lk, key_block), plan.scale
    if out is None:
        out = bridge.empty(_out_shape(q, plan), bridge.dtype_name(q), q)
    strides = stride_args(q=q, k=k, v=v, o=out)
    if plan.heads_last:
        strides["stride_oh"], strides["stride_ol"] = strides["stride_ol"], strides["stride_oh"]
    arguments = dict(
        q=q, k=k, v=v, **pooled._asdict(), lists=found.lists, counts=found.counts,
        levels=found.levels if pooled.mean_k is not None else None, out=out, kv_start=kv_start,
        **strides, scale=abs(scale) * LOG2E, lq=lq, lk=lk, n_i=n_i,
        n_first=min(n_i, n_i - max(0, lq - plan.forced_text) // query_block), n_j=n_j, n_full=lk // key_block, hkv=hkv,
        group=h // hkv, n_places=n_i * b * h, M=query_block, N=key_block, D=d,
        CAUSAL=plan.causal, POOLED=pooled.pooled_k is not None, MEANS=pooled.mean_k is not None, FLIP=scale < 0.0,
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
            raise ValueError("means need the levels: choose the blocks with block_means=True.")
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
