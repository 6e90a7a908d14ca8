"""Tiles of flat rows, for the kernels of TriangleMix and of the audit: row r of the query heads that share a kv head,
heads fastest, is row r // GROUP of head r % GROUP, so that no key is read once a head."""

from __future__ import annotations

import triton
import triton.language as tl

from .online_softmax import load_rows, softmax_step


@triton.jit
def split_place(n_i, n_s, hkv):
    """``(i_i, i_s, i_kv, i_b, i_h)``: the program's tile of rows, chunk of keys, kv head of all samples, sample and kv
    head. The tiles of one chunk of keys come next to each other (shared keys in L2), the longest rows first."""
    pid = tl.program_id(0)
    i_i = n_i - 1 - pid % n_i
    i_s = pid // n_i % n_s
    i_kv = (pid // (n_i * n_s)).to(tl.int64)
    return i_i, i_s, i_kv, i_kv // hkv, i_kv % hkv


@triton.jit
def open_tile(
    q, k, v, i_b, i_h, o_r, o_d, stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_vb, stride_vh,
    GROUP: tl.constexpr, D: tl.constexpr, FLIP: tl.constexpr,
):  # fmt: skip
    """Flat rows ``o_r`` [M] and columns ``o_d`` [BLOCK_D] of q, [M, BLOCK_D]; pointers to the first key and value of
    the kv head, [1, BLOCK_D]; which columns exist, bool [1, BLOCK_D]."""
    m_d = (o_d < D)[None, :]
    p_q = q + i_b * stride_qb + i_h * GROUP * stride_qh + o_d[None, :]
    rows = (o_r // GROUP).to(tl.int64)[:, None] * stride_ql + (o_r % GROUP).to(tl.int64)[:, None] * stride_qh
    b_q = load_rows(p_q + rows, m_d, D == o_d.shape[0])
    if FLIP:  # the unmasked step needs a positive scale; a sign is exact
        b_q = -b_q
    p_k = k + i_b * stride_kb + i_h * stride_kh + o_d[None, :]
    p_v = v + i_b * stride_vb + i_h * stride_vh + o_d[None, :]
    return b_q, p_k, p_v, m_d


@triton.jit
def attend_run(
    b_q, p_k, p_v, stride_kl, stride_vl, i_q, first, begin, end, scale, m_d,
    M: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Attention of b_q [M, BLOCK_D] over keys [begin, end), a row at position i_q [M] up to its own; ``first`` is the
    lowest. Returns the sums b_o [M, BLOCK_D] and b_l [M], and b_m [M], log2 of what they were divided by."""
    EVEN_D: tl.constexpr = D == BLOCK_D
    o_n = tl.arange(0, TILE)
    b_o = tl.zeros([M, BLOCK_D], tl.float32)
    b_l = tl.zeros([M], tl.float32)
    b_m = tl.full([M], -float("inf"), tl.float32)
    tiles = tl.maximum(tl.minimum(end, first + 1) - begin, 0) // TILE
    for t in range(0, tiles):
        row = (begin + t * TILE).to(tl.int64)
        b_k = load_rows(p_k + row * stride_kl + o_n[:, None] * stride_kl, m_d, EVEN_D)  # [TILE, BLOCK_D]
        b_v = load_rows(p_v + row * stride_vl + o_n[:, None] * stride_vl, m_d, EVEN_D)
        b_o, b_l, b_m = softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, 0.0, None, False)
    for t in range(begin + tiles * TILE, end, TILE):
        i_c = t + o_n
        m_c = i_c < end
        m_s = m_c[None, :] & (i_c[None, :] <= i_q[:, None])
        rows = i_c.to(tl.int64)[:, None]
        b_k = tl.load(p_k + rows * stride_kl, mask=m_c[:, None] & m_d, other=0.0)  # [TILE, BLOCK_D]
        b_v = tl.load(p_v + rows * stride_vl, mask=m_c[:, None] & m_d, other=0.0)
        b_o, b_l, b_m = softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, 0.0, m_s, True)
    return b_o, b_l, b_m


@triton.jit
def store_rows(p_o, b_o, o_r, stride_oh, stride_ol, m, GROUP: tl.constexpr, EVEN: tl.constexpr):
    """Write b_o [M, BLOCK_D] as flat rows ``o_r`` [M]; p_o [1, BLOCK_D] points at the first row of the first head."""
    rows = (o_r // GROUP).to(tl.int64)[:, None] * stride_ol + (o_r % GROUP).to(tl.int64)[:, None] * stride_oh
    if EVEN:
        tl.store(p_o + rows, b_o.to(p_o.dtype.element_ty))
    else:
        tl.store(p_o + rows, b_o.to(p_o.dtype.element_ty), mask=m)
