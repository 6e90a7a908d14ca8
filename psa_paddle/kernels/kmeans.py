"""k-means on the tokens of each head, for token orders; nothing is read back, and every sum has one fixed order.

Source: semantic-aware permutation, Sparse VideoGen2 (arXiv:2505.18875). Each iteration assigns tokens to the nearest
centre, sorts them by cluster, and takes each cluster's mean in that order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge
from ..geometry import ceil_div
from . import tuning
from .common import check_buffer, check_tensor, next_power_of_2, stride_args
from .sort import sort_tokens


@triton.jit
def _store_centre(b_c, p_centre, p_half, o_d, D: tl.constexpr):
    """Round a centre to its dtype, store it and half its squared length."""
    b_c = b_c.to(p_centre.dtype.element_ty)
    tl.store(p_centre + o_d, b_c, mask=o_d < D)
    b_f = b_c.to(tl.float32)
    tl.store(p_half, 0.5 * tl.sum(b_f * b_f, 0))


@triton.jit
def _seed_kernel(
    x, base, centres, half_norms, stride_xb, stride_xh, stride_xl, n, heads, first, n_clusters,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Evenly spaced tokens as the first centres."""
    i_c, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_d = tl.arange(0, BLOCK_D)
    place = (2 * i_c.to(tl.int64) + 1) * n // (2 * n_clusters)
    token = tl.load(base + first + place).to(tl.int64)
    p_x = x + i_bh // heads * stride_xb + i_bh % heads * stride_xh + token * stride_xl
    b_c = tl.load(p_x + o_d, mask=o_d < D, other=0.0).to(tl.float32)
    i_row = i_bh * n_clusters + i_c
    _store_centre(b_c, centres + i_row * D, half_norms + i_row, o_d, D)


@triton.jit
def _assign_kernel(
    x, base, centres, half_norms, labels, stride_xb, stride_xh, stride_xl, n, heads, first, n_clusters,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    i_bh = tl.program_id(1).to(tl.int64)
    o_t, o_d = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_D)
    m_t, m_d = o_t < n, o_d < D
    token = tl.load(base + first + o_t, mask=m_t, other=0).to(tl.int64)
    p_x = x + i_bh // heads * stride_xb + i_bh % heads * stride_xh + token[:, None] * stride_xl + o_d[None, :]
    b_x = tl.load(p_x, mask=m_t[:, None] & m_d[None, :], other=0.0)
    b_best = tl.full([BLOCK_T], -float("inf"), tl.float32)
    b_label = tl.zeros([BLOCK_T], tl.int32)
    for c in range(0, n_clusters, BLOCK_C):
        i_c = c + tl.arange(0, BLOCK_C)
        m_c = i_c < n_clusters
        i_row = i_bh * n_clusters + i_c
        b_c = tl.load(centres + i_row[:, None] * D + o_d[None, :], mask=m_c[:, None] & m_d[None, :], other=0.0)
        b_half = tl.load(half_norms + i_row, mask=m_c, other=float("inf"))
        # |x - c|^2 = |x|^2 - 2 (x . c - |c|^2 / 2)
        b_s = tl.dot(b_x, tl.trans(b_c), input_precision="ieee") - b_half[None, :]
        b_s = tl.where(b_s == b_s, b_s, -float("inf"))  # a token with NaN goes to the first cluster
        b_top, b_at = tl.max(b_s, 1, return_indices=True)
        m_better = b_top > b_best
        b_best = tl.where(m_better, b_top, b_best)
        b_label = tl.where(m_better, c + b_at, b_label)
    tl.store(labels + i_bh * n + o_t, b_label, mask=m_t)


@triton.jit
def _mean_kernel(
    x, order, starts, centres, half_norms, stride_xb, stride_xh, stride_xl, n, length, heads, first, n_clusters, chunks,
    D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    i_c, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_row = i_bh * n_clusters + i_c
    o_r, o_d = tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    start = tl.load(starts + i_row * chunks)
    end = tl.load(starts + (i_row + 1) * chunks, mask=i_c + 1 < n_clusters, other=n)
    p_x = x + i_bh // heads * stride_xb + i_bh % heads * stride_xh
    p_order = order + i_bh * length + first
    b_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for r in range(start, end, ROWS):
        m_r = r + o_r < end
        token = tl.load(p_order + r + o_r, mask=m_r, other=0).to(tl.int64)
        mask = m_r[:, None] & (o_d < D)[None, :]
        b_sum += tl.load(p_x + token[:, None] * stride_xl + o_d[None, :], mask=mask, other=0.0).to(tl.float32)
    if end > start:  # a cluster without tokens keeps its centre
        b_c = tl.sum(b_sum, 0) / (end - start).to(tl.float32)
        _store_centre(b_c, centres + i_row * D, half_norms + i_row, o_d, D)


def assign_tokens(x, base, centres, half_norms, *, first: int, n: int):
    """Nearest centre of each token of ``base[first : first + n]``, int32 [B, H, n]; among equals the first.

    x: [B, H, L, D]; base: int32 [L]; centres: x's dtype [B, H, C, D]; half_norms: float32 [B, H, C], |c|^2 / 2.
    """
    b, h, _, d = x.shape
    itemsize = 4 if bridge.dtype_name(x) == "float32" else 2
    settings = tuning.pick("assign", d, itemsize, bridge.arch(x, _assign_kernel))
    labels = bridge.empty((b, h, n), "int32", x)
    bridge.launch(
        _assign_kernel, (ceil_div(n, settings["BLOCK_T"]), b * h), like=x,
        x=x, base=base, centres=centres, half_norms=half_norms, labels=labels, **stride_args(x=x), n=n, heads=h,
        first=first, n_clusters=centres.shape[2], D=d, BLOCK_D=next_power_of_2(d), **settings,
    )  # fmt: skip
    return labels


def update_centres(x, order, starts, chunks: int, centres, half_norms, *, first: int, n: int) -> None:
    """Overwrite ``centres`` and ``half_norms`` with the means of the clusters; ``sort_tokens`` gives the rest."""
    b, h, length, d = x.shape
    n_clusters = centres.shape[2]
    bridge.launch(
        _mean_kernel, (n_clusters, b * h), like=x,
        x=x, order=order, starts=starts, centres=centres, half_norms=half_norms, **stride_args(x=x), n=n,
        length=length, heads=h, first=first, n_clusters=n_clusters, chunks=chunks, D=d, BLOCK_D=next_power_of_2(d),
        ROWS=tuning.MEAN_ROWS,
    )  # fmt: skip


def seed_centres(x, base, *, first: int, n: int, n_clusters: int):
    """``(centres, half_norms)`` of evenly spaced tokens of ``base[first : first + n]``; shapes as ``assign_tokens``."""
    b, h, _, d = x.shape
    centres = bridge.empty((b, h, n_clusters, d), bridge.dtype_name(x), x)
    half_norms = bridge.empty((b, h, n_clusters), "float32", x)
    bridge.launch(
        _seed_kernel, (n_clusters, b * h), like=x,
        x=x, base=base, centres=centres, half_norms=half_norms, **stride_args(x=x), n=n, heads=h, first=first,
        n_clusters=n_clusters, D=d, BLOCK_D=next_power_of_2(d),
    )  # fmt: skip
    return centres, half_norms


def _check(x, base, first: int, n: int, n_clusters: int, state) -> None:
    check_tensor("x", x)
    b, h, length, d = x.shape
    check_buffer("base", base, "int32", [length], x)
    if not (0 <= first < first + n <= length and 1 <= n_clusters <= n):
        raise ValueError(
            f"{n} tokens from {first} on in {n_clusters} clusters: there must be 1 to n clusters, of tokens in [0, "
            f"{length})."
        )
    if state is not None:
        centres, half_norms = state
        check_buffer("centres", centres, bridge.dtype_name(x), [b, h, n_clusters, d], x)
        check_buffer("half_norms", half_norms, "float32", [b, h, n_clusters], x)


def cluster_tokens(x, base, *, first: int, n: int, n_clusters: int, iterations: int, state=None):
    """Tokens cluster after cluster, in the order of ``base`` within each.

    Args:
        x: [B, H, L, D], float32, float16 or bfloat16, last dimension contiguous, other strides free.
        base: int32 [L] on x's device, a permutation of all tokens; the n from place ``first`` on are clustered, the
            others keep their place.
        n_clusters: clusters of a head, at most n.
        iterations: of assignment and means, before the last assignment.
        state: what the last call returned, to start from its centres (they are overwritten); None: from evenly
            spaced tokens.

    Returns:
        ``(order, state)``: int32 [B, H, L], and the centres.

    Raises:
        TypeError, ValueError: unsupported dtypes, shapes or strides, tokens that x does not have, or a state of other
            sizes.
    """
    _check(x, base, first, n, n_clusters, state)
    span = dict(first=first, n=n)
    centres, half_norms = state or seed_centres(x, base, **span, n_clusters=n_clusters)
    for step in range(iterations + 1):
        labels = assign_tokens(x, base, centres, half_norms, **span)
        order, starts, chunks = sort_tokens(labels, base, n_clusters=n_clusters, first=first)
        if step < iterations:
            update_centres(x, order, starts, chunks, centres, half_norms, **span)
    return order, (centres, half_norms)
