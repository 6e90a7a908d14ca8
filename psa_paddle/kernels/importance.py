"""Step 2: how much each block of keys matters to each block of queries, from a fraction of the products.

``xattn`` (after XAttention, arXiv:2503.16428): groups of queries against groups of keys, a few tokens of each, in one
pass. Each tile of key groups is summed relative to its own row maximum, which is stored with it, so no score overflows
or vanishes before the row's maximum is known; step 3 joins the tiles. The other method, ``pooling``, is in pooling.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge
from . import tuning
from .common import LOG2E, ceil_div, check_blocks, check_kv_start, check_tensor, sample_span, stride_args


@triton.jit
def _row_max(b_s, b_m):
    """Running row maximum of log2 scores, and a finite reference for rows that saw nothing yet."""
    b_top = tl.maximum(b_m, tl.max(b_s, 1))
    return b_top, tl.where(b_top == -float("inf"), 0.0, b_top)


@triton.jit
def _turn(i_group, SIZE: tl.constexpr, TERMS: tl.constexpr):
    """How far each group's places are turned: by the fraction of g^2 / golden ratio; not at all where all are taken."""
    turn = i_group * 0
    if TERMS < SIZE:
        g = i_group.to(tl.uint32)
        turn = (((g * g * 0x9E3779B1) >> 16) * SIZE >> 16).to(tl.int32)
    return turn


@triton.jit
def _xattn_kernel(
    q, k, scores, tops, kv_start,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
    scale, lq, lk, n_a, n_j, tiles_a, tiles_b, hkv, group,
    R: tl.constexpr, S: tl.constexpr, TERMS: tl.constexpr, N: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr,
    BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # The heads of one kv head come next to each other: they read the same keys.
    pid = tl.program_id(0)
    i_g = pid % group
    i_tb = pid // group % tiles_b
    i_ta = pid // (group * tiles_b) % tiles_a
    i_kv = (pid // (group * tiles_b * tiles_a)).to(tl.int64)
    i_b = i_kv // hkv
    i_bh = i_kv * group + i_g
    o_q, o_k, lq, lk = sample_span(kv_start, i_b, lq, lk, CAUSAL)
    first_a, first_b = i_ta * BLOCK_A, i_tb * BLOCK_B
    dead = (first_a * R >= lq) | (first_b * S >= lk)
    if CAUSAL:
        dead |= first_b * S > tl.minimum((first_a + BLOCK_A) * R, lq) - 1 + lk - lq
    if dead:  # step 3 does not look here
        return

    o_a, o_b, o_d = tl.arange(0, BLOCK_A), tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_K)
    p_q = q + i_b * stride_qb + (i_bh % (hkv * group)) * stride_qh + (o_q + first_a * R).to(tl.int64) * stride_ql
    p_k = k + i_b * stride_kb + (i_kv % hkv) * stride_kh + (o_k + first_b * S).to(tl.int64) * stride_kl
    lim_q, lim_k = lq - first_a * R, lk - first_b * S
    # A chunk's groups of queries take the places that they have in the whole.
    b_turn_a = _turn(first_a + o_a + ((lk - lq) // R if CAUSAL else 0), R, TERMS)
    b_turn_b = _turn(first_b + o_b, S, TERMS)
    b_s = tl.zeros([BLOCK_A, BLOCK_B], tl.float32)
    STEP_R: tl.constexpr = R // TERMS
    STEP_S: tl.constexpr = S // TERMS
    for x in range(0, TERMS * (D // BLOCK_K)):
        t = x // (D // BLOCK_K)
        d = x % (D // BLOCK_K) * BLOCK_K
        o_r = o_a * R + R - 1 - ((t * STEP_R + STEP_R // 2 + b_turn_a) & (R - 1))
        o_c = o_b * S + ((t * STEP_S + STEP_S // 2 + b_turn_b) & (S - 1))
        b_q = tl.load(p_q + d + o_r[:, None] * stride_ql + o_d[None, :], mask=(o_r < lim_q)[:, None], other=0.0)
        b_k = tl.load(p_k + d + o_c[:, None] * stride_kl + o_d[None, :], mask=(o_c < lim_k)[:, None], other=0.0)
        b_s = tl.dot(b_q, tl.trans(b_k), b_s, input_precision="ieee")  # [A, B]

    i_a, i_c = first_a + o_a, first_b + o_b
    m_s = (i_c * S < lk)[None, :]
    if CAUSAL:
        last = i_a * R + R - 1 + lk - lq  # a ragged last group ends at the last key at least
        m_s &= (i_c * S)[None, :] <= last[:, None]
    b_s = tl.where(m_s, b_s * scale, -float("inf"))
    b_top, b_ref = _row_max(b_s, tl.full([BLOCK_A], -float("inf"), tl.float32))
    b_e = tl.exp2(b_s - b_ref[:, None])
    PER_J: tl.constexpr = N // S
    TILE_J: tl.constexpr = BLOCK_B // PER_J
    b_e = tl.sum(tl.reshape(b_e, [BLOCK_A, TILE_J, PER_J]), 2)  # [A, blocks]
    i_j = i_tb * TILE_J + tl.arange(0, TILE_J)
    m_a = i_a * R < lq
    p_e = scores + i_bh * n_a * n_j + i_a.to(tl.int64)[:, None] * n_j + i_j[None, :]
    tl.store(p_e, b_e.to(scores.dtype.element_ty), mask=m_a[:, None] & (i_j < n_j)[None, :])
    tl.store(tops + (i_bh * tiles_b + i_tb) * n_a + i_a, b_top, mask=m_a)


def _check(q, k, query_block, key_block, kv_start):
    check_tensor("q", q)
    check_tensor("k", k)
    check_blocks(query_block, key_block)
    check_kv_start(kv_start, q.shape[0])


def _settings(name: str, kernel, q, **minimum) -> dict:
    """The tuned settings, tiles widened so that they cover whole blocks."""
    itemsize = 4 if bridge.dtype_name(q) == "float32" else 2
    settings = dict(tuning.pick(name, q.shape[3], itemsize, bridge.arch(q, kernel)))
    return {key: max(value, minimum.get(key, 0)) for key, value in settings.items()}


def xattn_fwd(
    q, k, *, scale: float, causal: bool, query_block: int, key_block: int, strides: tuple[int, int], terms: int,
    kv_start=None,
):  # fmt: skip
    """Importance by groups of tokens (after XAttention, arXiv:2503.16428), not yet normalised; ``reference`` has it in
    full.

    Args:
        q: [B, H, Lq, D]; k: [B, Hkv, Lk, D]; float32, float16 or bfloat16, last dimension contiguous.
        scale: factor of the logits.
        strides: (r, s), tokens of a group of queries and of a group of keys: 4, 8, 16 or 32.
        terms: how many tokens of each group take part; divides both.
        kv_start: int32 [B], first key of each sample, or None.

    Returns:
        ``(scores, tops, tile)``. scores: [B, H, ceil(Lq / r), ceil(Lk / N)], sums over the groups of a key block of
        2^(logit - top), bfloat16 for 16-bit inputs on a GPU, else float32. tops: float32 [B, H, tiles, ceil(Lq / r)],
        the row maxima, base-2 logits, of each tile of ``tile`` key blocks. Pairs that no token may see are left
        unwritten.

    Raises:
        TypeError, ValueError: unsupported dtypes, shapes, strides or block sizes.
    """
    _check(q, k, query_block, key_block, kv_start)
    for size in strides:
        if size not in (4, 8, 16, 32):
            raise ValueError(f"strides must be 4, 8, 16 or 32, got {size}.")
        if terms < 1 or size % terms:
            raise ValueError(f"terms must divide both strides, got {terms} and {size}.")
    query_stride, stride = strides
    b, h, lq, d = q.shape
    hkv, lk = k.shape[1], k.shape[2]
    n_a, n_b, n_j = ceil_div(lq, query_stride), ceil_div(lk, stride), ceil_div(lk, key_block)
    settings = _settings("xattn", _xattn_kernel, q, BLOCK_A=query_block // query_stride, BLOCK_B=key_block // stride)
    tiles_a, tiles_b = ceil_div(n_a, settings["BLOCK_A"]), ceil_div(n_b, settings["BLOCK_B"])
    wide = bridge.dtype_name(q) == "float32" or bridge.interpreting(_xattn_kernel)
    scores = bridge.empty((b, h, n_a, n_j), "float32" if wide else "bfloat16", q)
    tops = bridge.empty((b, h, tiles_b, n_a), "float32", q)
    bridge.launch(
        _xattn_kernel, (tiles_a * tiles_b * b * h,), like=q,
        q=q, k=k, scores=scores, tops=tops, kv_start=kv_start, **stride_args(q=q, k=k),
        scale=scale / terms * LOG2E, lq=lq, lk=lk, n_a=n_a, n_j=n_j, tiles_a=tiles_a, tiles_b=tiles_b,
        hkv=hkv, group=h // hkv, R=query_stride, S=stride, TERMS=terms, N=key_block, D=d, CAUSAL=causal,
        BLOCK_K=64 if d % 64 == 0 else d & -d, **settings,
    )  # fmt: skip
    return scores, tops, settings["BLOCK_B"] * stride // key_block
