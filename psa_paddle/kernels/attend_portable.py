"""Step 4 on any GPU: the attention kernel in Triton. ``attend_hopper`` does the same on Hopper."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import block_at, row_span, sample_span
from .online_softmax import load_rows, softmax_step
from .pooled import level_start, pooled_head


@triton.jit
def attend_kernel(
    q, k, v, pooled_k, pooled_v, mean_k, mean_v, lists, counts, levels, out, kv_start,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
    stride_ob, stride_oh, stride_ol,
    scale, lq, lk, n_i, n_first, n_j, n_full, hkv, group, n_places,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
    CAUSAL: tl.constexpr, POOLED: tl.constexpr, MEANS: tl.constexpr, FLIP: tl.constexpr,
):  # fmt: skip
    """One program: the attention of one query block of one head, M rows, over what its list keeps.

    The grid has one axis of n_places = B H nI programs; ``block_at`` says which query block a program takes. Its list
    names key blocks of N keys, those of level 1 first, then 2, 4 and 8, each level ascending; its counts say how many
    there are of each, and which blocks of the tail are kept. Keys and values are read in tiles of TILE rows, once,
    in this order:

    1. Level 1: whole blocks, in tiles of consecutive rows where N >= TILE, else several blocks a tile.
    2. POOLED: levels 2, 4 and 8. A block has N / p pooled rows at level p; a level is walked as one run of rows, so
       that tiles are full however few rows a block has. One log2 p on the logits of a tile.
    3. POOLED: the rows that fill no tile, of all three levels as one run, each with its own log2 p.
    4. The tail: the blocks which the diagonal crosses, or a ragged last one, consecutive rows with a mask.
    5. MEANS: the mean key and value of every listed block, of which those that ``levels`` skips count, with log2 N.

    The online softmax (``softmax_step``) carries b_o [M, BLOCK_D], b_l [M] and b_m [M] in float32 from tile to tile;
    out is written once, in the end. Programs share nothing: no barrier, no atomic, and one order of additions.

    q, k, v, out, pooled_*, mean_*: one dtype; pooled_* None but for POOLED, mean_* and levels (int8) but for MEANS;
    lists int16, counts int32, kv_start int32 or None. scale: in base 2, positive; FLIP: it was negative.
    """
    # The query block, and where its keys begin.
    i_i, i_kv, i_g = block_at(tl.program_id(0), n_places, n_first, n_i, group)
    i_b = i_kv // hkv
    i_bh = i_kv * group + i_g
    i_h = i_bh % (hkv * group)
    o_q, o_k, lq, lk = sample_span(kv_start, i_b, lq, lk, CAUSAL)
    n_list, n_valid = row_span(i_i, lq, lk, M, N, CAUSAL)

    EVEN_D: tl.constexpr = D == BLOCK_D
    R2: tl.constexpr = N // 2  # rows of a block at level 2
    o_m, o_n, o_d = tl.arange(0, M), tl.arange(0, TILE), tl.arange(0, BLOCK_D)
    m_d = (o_d < D)[None, :]
    m_m = i_i * M + o_m < lq
    row = (o_q + i_i * M).to(tl.int64)
    p_q = q + i_b * stride_qb + i_h * stride_qh + row * stride_ql + o_m[:, None] * stride_ql + o_d[None, :]
    b_q = tl.load(p_q, mask=m_m[:, None] & m_d, other=0.0)  # [M, BLOCK_D]
    if FLIP:  # the unmasked step needs a positive scale; a sign is exact
        b_q = -b_q
    p_k = k + i_b * stride_kb + i_kv % hkv * stride_kh + o_k.to(tl.int64) * stride_kl + o_d[None, :]  # [1, BLOCK_D]
    p_v = v + i_b * stride_vb + i_kv % hkv * stride_vh + o_k.to(tl.int64) * stride_vl + o_d[None, :]
    p_list = lists + (i_bh * n_i + i_i) * n_j
    p_count = counts + (i_bh * n_i + i_i) * 5
    n1 = tl.load(p_count)
    b_o = tl.zeros([M, BLOCK_D], tl.float32)
    b_l = tl.zeros([M], tl.float32)
    b_m = tl.full([M], -float("inf"), tl.float32)

    # 1. Level 1.
    if N >= TILE:  # a tile is part of a block
        PER_J: tl.constexpr = N // TILE
        for t in range(0, n1 * PER_J):
            i_j = tl.load(p_list + t // PER_J).to(tl.int64)
            row = i_j * N + t % PER_J * TILE
            b_k = load_rows(p_k + row * stride_kl + o_n[:, None] * stride_kl, m_d, EVEN_D)  # [TILE, BLOCK_D]
            b_v = load_rows(p_v + row * stride_vl + o_n[:, None] * stride_vl, m_d, EVEN_D)
            b_o, b_l, b_m = softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, 0.0, None, False)
    else:  # a tile gathers several blocks
        for t in range(0, n1 * N, TILE):
            o_r = t + o_n
            m_r = o_r < n1 * N
            rows = tl.load(p_list + o_r // N, mask=m_r, other=0).to(tl.int64) * N + o_r % N  # [TILE]
            b_k = load_rows(p_k + rows[:, None] * stride_kl, m_d, EVEN_D)  # [TILE, BLOCK_D]
            b_v = load_rows(p_v + rows[:, None] * stride_vl, m_d, EVEN_D)
            b_o, b_l, b_m = softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, 0.0, m_r[None, :], True)

    if POOLED:
        # 2. Full tiles of levels 2, 4 and 8.
        o_kv = pooled_head(i_kv, n_full, N, D)
        p_pk = pooled_k + o_kv + o_d[None, :]  # [1, BLOCK_D]
        p_pv = pooled_v + o_kv + o_d[None, :]
        n2 = tl.load(p_count + 1)
        n4 = tl.load(p_count + 2)
        n8 = tl.load(p_count + 3)
        full2 = n2 * R2 // TILE
        full4 = n4 * (R2 // 2) // TILE
        full8 = n8 * (R2 // 4) // TILE
        for t in range(0, full2 + full4 + full8):
            past2 = (t >= full2).to(tl.int32)
            past4 = (t >= full2 + full4).to(tl.int32)
            rank = past2 + past4  # 0, 1, 2: level 2, 4, 8
            per_block = R2 >> rank
            o_r = (t - past2 * full2 - past4 * full4) * TILE + o_n  # rows of the level's run
            i_j = tl.load(p_list + n1 + past2 * n2 + past4 * n4 + o_r // per_block).to(tl.int32)  # [TILE]
            rows = n_full * level_start(past2, past4, R2 // 2) + i_j * per_block + o_r % per_block
            b_k = load_rows(p_pk + rows[:, None] * D, m_d, EVEN_D)  # [TILE, BLOCK_D]
            b_v = load_rows(p_pv + rows[:, None] * D, m_d, EVEN_D)
            bias = (rank + 1).to(tl.float32)
            b_o, b_l, b_m = softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, bias, None, False)

        # 3. What is left over of the three runs.
        rest2 = n2 * R2 - full2 * TILE
        rest4 = n4 * (R2 // 2) - full4 * TILE
        rest = rest2 + rest4 + n8 * (R2 // 4) - full8 * TILE
        for t in range(0, rest, TILE):
            o_r = t + o_n
            m_r = o_r < rest
            past2 = (o_r >= rest2).to(tl.int32)  # [TILE], as everything that was a scalar above
            past4 = (o_r >= rest2 + rest4).to(tl.int32)
            rank = past2 + past4
            per_block = R2 >> rank
            o_r += full2 * TILE + past2 * ((full4 - full2) * TILE - rest2) + past4 * ((full8 - full4) * TILE - rest4)
            o_list = n1 + past2 * n2 + past4 * n4 + o_r // per_block
            i_j = tl.load(p_list + o_list, mask=m_r, other=0).to(tl.int32)  # [TILE]
            rows = n_full * level_start(past2, past4, R2 // 2) + i_j * per_block + o_r % per_block
            b_k = load_rows(p_pk + rows[:, None] * D, m_d, EVEN_D)  # [TILE, BLOCK_D]
            b_v = load_rows(p_pv + rows[:, None] * D, m_d, EVEN_D)
            bias = (rank + 1).to(tl.float32)[None, :]
            b_o, b_l, b_m = softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, bias, m_r[None, :], True)

    # 4. The tail.
    kept = tl.load(p_count + 4)
    end = tl.minimum(n_valid * N, lk)
    for first in range(n_list * N, end, TILE):
        i_c = first + o_n
        m_c = i_c < end
        m_s = (m_c & (((kept >> (i_c // N - n_list)) & 1) != 0))[None, :]
        if CAUSAL:
            m_s &= i_c[None, :] <= (i_i * M + o_m + lk - lq)[:, None]
        rows = i_c.to(tl.int64)[:, None]
        b_k = tl.load(p_k + rows * stride_kl, mask=m_c[:, None] & m_d, other=0.0)  # [TILE, BLOCK_D]
        b_v = tl.load(p_v + rows * stride_vl, mask=m_c[:, None] & m_d, other=0.0)
        b_o, b_l, b_m = softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, 0.0, m_s, True)

    # 5. The means of the blocks that are not listed.
    if MEANS:
        LOG2_N: tl.constexpr = 5.0 if N == 32 else 6.0 if N == 64 else 7.0
        for first in range(0, n_list, TILE):
            i_j = first + o_n
            m_j = i_j < n_list
            b_level = tl.load(levels + (i_bh * n_i + i_i) * n_j + i_j, mask=m_j, other=1)  # [TILE], int8
            rows = (i_kv * n_full + i_j)[:, None] * D + o_d[None, :]
            b_k = tl.load(mean_k + rows, mask=m_j[:, None] & m_d, other=0.0)  # [TILE, BLOCK_D]
            b_v = tl.load(mean_v + rows, mask=m_j[:, None] & m_d, other=0.0)
            b_o, b_l, b_m = softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, LOG2_N, (b_level == 0)[None, :], True)

    # The rows of out [M, BLOCK_D]; a row that saw nothing is zeros.
    b_o = b_o / tl.where(b_l == 0.0, 1.0, b_l)[:, None]
    p_o = out + i_b * stride_ob + i_h * stride_oh + o_m.to(tl.int64)[:, None] * stride_ol + o_d[None, :]
    p_row = p_o + (o_q + i_i * M).to(tl.int64) * stride_ol
    tl.store(p_row, b_o.to(out.dtype.element_ty), mask=m_m[:, None] & m_d)
    if kv_start is not None and CAUSAL:  # rows of padding, spread over the programs by their place
        p_row = p_o + (i_i * M).to(tl.int64) * stride_ol
        tl.store(p_row, tl.zeros([M, BLOCK_D], out.dtype.element_ty), mask=(i_i * M + o_m < o_q)[:, None] & m_d)
