"""A stable counting sort of tokens by cluster: integers only, so every run gives the same order.

Three launches: each chunk of tokens counts its labels; the counts, cluster after cluster and chunk after chunk, are
summed up to places; each chunk puts its tokens there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge
from ..geometry import ceil_div
from . import tuning
from .common import next_power_of_2


@triton.jit
def _count_kernel(
    labels, counts, n, n_clusters, chunks, CHUNK: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_T: tl.constexpr
):  # fmt: skip
    i_t, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    for c in range(0, n_clusters, BLOCK_C):
        i_c = c + tl.arange(0, BLOCK_C)
        b_count = tl.zeros([BLOCK_C], tl.int32)
        for t in range(0, CHUNK, BLOCK_T):
            o_t = i_t * CHUNK + t + tl.arange(0, BLOCK_T)
            b_label = tl.load(labels + i_bh * n + o_t, mask=o_t < n, other=-1)
            b_count += tl.sum((b_label[None, :] == i_c[:, None]).to(tl.int32), 1)
        tl.store(counts + (i_bh * n_clusters + i_c) * chunks + i_t, b_count, mask=i_c < n_clusters)


@triton.jit
def _scan_kernel(counts, size, BLOCK: tl.constexpr):
    """Exclusive sums of each head's counts, in place."""
    p = counts + tl.program_id(0).to(tl.int64) * size
    before = tl.full([], 0, tl.int32)
    for first in range(0, size, BLOCK):
        o = first + tl.arange(0, BLOCK)
        b_count = tl.load(p + o, mask=o < size, other=0)
        tl.store(p + o, before + tl.cumsum(b_count, 0) - b_count, mask=o < size)
        before += tl.sum(b_count, 0)


@triton.jit
def _place_kernel(
    labels, places, base, order, n, length, first, n_clusters, chunks, CHUNK: tl.constexpr, BLOCK_T: tl.constexpr
):  # fmt: skip
    i_t, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if i_t < chunks:
        o_t = i_t * CHUNK + tl.arange(0, CHUNK)
        m_t = o_t < n
        b_label = tl.load(labels + i_bh * n + o_t, mask=m_t, other=0)
        b_rank = tl.zeros([CHUNK], tl.int32)  # tokens of the chunk before this one with its label
        for t in range(0, CHUNK, BLOCK_T):
            o_u = i_t * CHUNK + t + tl.arange(0, BLOCK_T)
            b_other = tl.load(labels + i_bh * n + o_u, mask=o_u < n, other=-1)
            m_before = (b_other[None, :] == b_label[:, None]) & (o_u[None, :] < o_t[:, None])
            b_rank += tl.sum(m_before.to(tl.int32), 1)
        b_place = tl.load(places + (i_bh * n_clusters + b_label) * chunks + i_t, mask=m_t, other=0) + b_rank
        b_token = tl.load(base + first + o_t, mask=m_t, other=0)
        tl.store(order + i_bh * length + first + b_place, b_token, mask=m_t)
    else:  # tokens that are not sorted stand where base has them
        o_t = (i_t - chunks) * CHUNK + tl.arange(0, CHUNK)
        m_t = o_t < length - n
        o_t += tl.where(o_t < first, 0, n)
        tl.store(order + i_bh * length + o_t, tl.load(base + o_t, mask=m_t, other=0), mask=m_t)


def sort_tokens(labels, base, *, n_clusters: int, first: int = 0):
    """Tokens sorted by label, those of one label in the order of ``base``.

    Args:
        labels: int32 [B, H, n], contiguous, each in [0, n_clusters).
        base: int32 [L], L >= n: a permutation of all tokens. ``labels`` are those of the n tokens from place ``first``
            on; the others keep their place.

    Returns:
        ``(order, starts, chunks)``. order: int32 [B, H, L]. starts: int32 [B, H, n_clusters, chunks]; [..., c, 0] is
        the place after ``first`` where cluster c begins.
    """
    b, h, n = labels.shape
    length = base.shape[0]
    chunk = max(tuning.SORT_CHUNK, next_power_of_2(ceil_div(n, tuning.SORT_CHUNKS)))
    chunks = ceil_div(n, chunk)
    places = bridge.empty((b, h, n_clusters, chunks), "int32", labels)
    order = bridge.empty((b, h, length), "int32", labels)
    shared = dict(n=n, n_clusters=n_clusters, chunks=chunks, CHUNK=chunk)
    bridge.launch(
        _count_kernel, (chunks, b * h), like=labels,
        labels=labels, counts=places, **shared, BLOCK_C=tuning.SORT_CLUSTERS, BLOCK_T=tuning.SORT_TOKENS,
    )  # fmt: skip
    bridge.launch(
        _scan_kernel, (b * h,), like=labels,
        counts=places, size=n_clusters * chunks, BLOCK=tuning.SCAN_BLOCK, num_warps=tuning.SCAN_WARPS,
    )  # fmt: skip
    bridge.launch(
        _place_kernel, (chunks + ceil_div(length - n, chunk), b * h), like=labels,
        labels=labels, places=places, base=base, order=order, length=length, first=first, **shared,
        BLOCK_T=tuning.SORT_TOKENS,
    )  # fmt: skip
    return order, places, chunks
