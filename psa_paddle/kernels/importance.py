"""Step 2: how much each block of keys matters to each block of queries, from a fraction of the products.

``xattn`` (after XAttention, arXiv:2503.16428): groups of queries against groups of keys, a few tokens of each, in one
pass; where one product makes a tile, a program keeps its queries and walks over tiles of keys. Each tile is summed
relative to its own row maximum, which is stored with it, so no score overflows or vanishes before the row's maximum is
known; step 3 joins the tiles. ``peak``: the same products, but of each block the largest logit alone, which needs no
exponential and no maximum beside it. The third method, ``pooling``, is in pooling.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge
from ..geometry import ceil_div
from ..plan import Plan
from . import tuning
from .common import LOG2E, check_inputs, sample_span, stride_args
from .selection_inputs import Scores

LARGEST = tl.constexpr(6e4)  # of a logit that float16 is to hold


@triton.jit
def _rotation(i_group, SIZE: tl.constexpr, TERMS: tl.constexpr):
    """How far each group's places rotate: by the fraction of g^2 / golden ratio; not at all where all are taken."""
    rotation = i_group * 0
    if TERMS < SIZE:
        g = i_group.to(tl.uint32)
        rotation = (((g * g * 0x9E3779B1) >> 16) * SIZE >> 16).to(tl.int32)
    return rotation


@triton.jit
def _place(i_group, first, t, shift, SIZE: tl.constexpr, TERMS: tl.constexpr):
    """Place in its group of the ``t``-th token that each group takes part with."""
    STEP: tl.constexpr = SIZE // TERMS
    return (t * STEP + STEP // 2 + _rotation(first + i_group + shift, SIZE, TERMS)) & (SIZE - 1)


@triton.jit
def _xattn_kernel(
    q, k, scores, tops, kv_start,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
    scale, lq, lk, n_a, n_j, tiles_a, tiles_b, hkv, group,
    R: tl.constexpr, S: tl.constexpr, TERMS: tl.constexpr, N: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr,
    FLIP: tl.constexpr, PEAK: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    KEEP: tl.constexpr = TERMS * D == BLOCK_K  # one product per tile: the queries stay
    PER_J: tl.constexpr = N // S
    TILE_J: tl.constexpr = BLOCK_B // PER_J
    # The heads of one kv head come next to each other: they read the same keys.
    pid = tl.program_id(0)
    chunks = (tiles_b + CHUNK - 1) // CHUNK
    i_g = pid % group
    i_chunk = pid // group % chunks
    i_ta = pid // (group * chunks) % tiles_a
    i_kv = (pid // (group * chunks * tiles_a)).to(tl.int64)
    i_b = i_kv // hkv
    i_bh = i_kv * group + i_g
    o_q, o_k, lq, lk = sample_span(kv_start, i_b, lq, lk, CAUSAL)
    first_a = i_ta * BLOCK_A
    n_seen, n_full = lk, lk  # keys that some row sees; keys whose whole tiles need no mask
    if CAUSAL:
        n_seen = tl.minimum(lk, tl.minimum((first_a + BLOCK_A) * R, lq) + lk - lq)
        n_full = tl.minimum(lk, first_a * R + R - 1 + S + lk - lq)
    begin = i_chunk * CHUNK
    end = tl.minimum(begin + CHUNK, (n_seen + BLOCK_B * S - 1) // (BLOCK_B * S))
    if (first_a * R >= lq) | (begin >= end):  # step 3 does not look here
        return

    o_a, o_b, o_d = tl.arange(0, BLOCK_A), tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_K)
    i_a = first_a + o_a
    m_a = i_a * R < lq
    shift = (lk - lq) // R if CAUSAL else 0  # a chunk's groups of queries take the places that they have in the whole
    p_q = q + i_b * stride_qb + (i_bh % (hkv * group)) * stride_qh + (o_q + first_a * R).to(tl.int64) * stride_ql
    p_k = k + i_b * stride_kb + (i_kv % hkv) * stride_kh
    p_e = scores + i_bh * n_a * n_j + i_a.to(tl.int64) * n_j
    if not PEAK:
        p_t = tops + i_bh * tiles_b * n_a + i_a
    lim_q = lq - first_a * R
    if KEEP:
        o_r = o_a * R + R - 1 - _place(o_a, first_a, 0, shift, R, TERMS)
        if PEAK:  # a last group that is not full gives its last token, as a zero could be a peak
            o_r = tl.minimum(o_r, lim_q - 1)
        b_q = tl.load(p_q + o_r[:, None] * stride_ql + o_d[None, :], mask=(o_r < lim_q)[:, None], other=0.0)
        if FLIP:  # the maxima need a positive scale; a sign is exact
            b_q = -b_q
    middle = tl.minimum(tl.maximum(n_full // (BLOCK_B * S), begin), end) if KEEP else begin
    for MASKED in tl.static_range(0 if KEEP else 1, 2):
        for i_tb in range(middle if MASKED else begin, end if MASKED else middle):
            first_b = i_tb * BLOCK_B
            lim_k = lk - first_b * S
            p_tile = p_k + (o_k + first_b * S).to(tl.int64) * stride_kl
            b_s = tl.zeros([BLOCK_A, BLOCK_B], tl.float32)
            if KEEP:
                o_c = o_b * S + _place(o_b, first_b, 0, 0, S, TERMS)
                if PEAK and MASKED:
                    o_c = tl.minimum(o_c, lim_k - 1)
                p_c = p_tile + o_c[:, None] * stride_kl + o_d[None, :]
                if MASKED:
                    b_k = tl.load(p_c, mask=(o_c < lim_k)[:, None], other=0.0)
                else:
                    b_k = tl.load(p_c)
                b_s = tl.dot(b_q, tl.trans(b_k), b_s, input_precision="ieee")  # [A, B]
            else:
                for x in range(0, TERMS * (D // BLOCK_K)):
                    t = x // (D // BLOCK_K)
                    d = x % (D // BLOCK_K) * BLOCK_K
                    o_r = o_a * R + R - 1 - _place(o_a, first_a, t, shift, R, TERMS)
                    o_c = o_b * S + _place(o_b, first_b, t, 0, S, TERMS)
                    if PEAK:
                        o_r, o_c = tl.minimum(o_r, lim_q - 1), tl.minimum(o_c, lim_k - 1)
                    p_r, p_c = p_q + d + o_r[:, None] * stride_ql, p_tile + d + o_c[:, None] * stride_kl
                    b_r = tl.load(p_r + o_d[None, :], mask=(o_r < lim_q)[:, None], other=0.0)
                    b_k = tl.load(p_c + o_d[None, :], mask=(o_c < lim_k)[:, None], other=0.0)
                    b_s = tl.dot(b_r, tl.trans(b_k), b_s, input_precision="ieee")
                if FLIP:
                    b_s = -b_s
            if MASKED:
                i_c = (first_b + o_b) * S
                m_s = (i_c < lk)[None, :]
                if CAUSAL:  # a ragged last group ends at the last key at least
                    m_s &= i_c[None, :] <= (i_a * R + R - 1 + lk - lq)[:, None]
                b_s = tl.where(m_s, b_s, -float("inf"))
            if PEAK:
                b_e = tl.max(tl.reshape(b_s, [BLOCK_A, TILE_J, PER_J]), 2) * scale  # [A, blocks]
                b_e = tl.where(b_e > LARGEST, LARGEST, b_e)
            else:
                b_top = tl.max(b_s, 1) * scale
                b_ref = tl.where(b_top == -float("inf"), 0.0, b_top)  # finite for rows that see nothing
                b_e = tl.exp2(b_s * scale - b_ref[:, None])
                b_e = tl.sum(tl.reshape(b_e, [BLOCK_A, TILE_J, PER_J]), 2)  # [A, blocks]
                tl.store(p_t + i_tb * n_a, b_top, mask=m_a)
            i_j = i_tb * TILE_J + tl.arange(0, TILE_J)
            m_e = m_a[:, None] & (i_j < n_j)[None, :]
            tl.store(p_e[:, None] + i_j[None, :], b_e.to(scores.dtype.element_ty), mask=m_e)


def _settings(name: str, kernel, q, **minimum) -> dict:
    """The tuned settings, tiles widened so that they cover whole blocks."""
    itemsize = 4 if bridge.dtype_name(q) == "float32" else 2
    settings = dict(tuning.pick(name, q.shape[3], itemsize, bridge.arch(q, kernel)))
    return {key: max(value, minimum.get(key, 0)) for key, value in settings.items()}


def xattn_fwd(q, k, plan: Plan, *, kv_start=None) -> Scores:
    """Importance by groups of tokens (after XAttention, arXiv:2503.16428), not yet normalised; ``reference`` has it in
    full.

    Args:
        q: [B, H, Lq, D]; k: [B, Hkv, Lk, D]; float32, float16 or bfloat16, last dimension contiguous.
        plan: its strides r, of queries, and s, of keys, its terms, and whether its method is ``"peak"``: of a key block
            take the largest logit, not the sum of the exponentials.
        kv_start: int32 [B], first key of each sample, or None.

    Returns:
        ``Scores``. scores: [B, H, ceil(Lq / r), ceil(Lk / N)], sums over the groups of a key block of
        2^(logit - top), bfloat16 for 16-bit inputs on a GPU, else float32. tops: float32 [B, H, tiles, ceil(Lq / r)],
        the row maxima, base-2 logits, of each tile of ``tile`` key blocks. Of ``"peak"`` scores are base-2 logits,
        float16 in place of bfloat16, and tops is None. Pairs that no token may see are left unwritten.

    Raises:
        TypeError, ValueError: unsupported or unequal dtypes, shapes or strides.
    """
    check_inputs(q=q, k=k, kv_start=kv_start, causal=plan.causal)
    return run_xattn(q, k, plan, kv_start)


def run_xattn(q, k, plan: Plan, kv_start) -> Scores:
    """``xattn_fwd`` of checked tensors."""
    query_stride, key_stride, key_block, terms = plan.query_stride, plan.key_stride, plan.key_block, plan.terms
    peak, scale = plan.importance_method == "peak", plan.scale
    b, h, lq, d = q.shape
    hkv, lk = k.shape[1], k.shape[2]
    n_a, n_b, n_j = ceil_div(lq, query_stride), ceil_div(lk, key_stride), ceil_div(lk, key_block)
    settings = _settings(
        "peak" if peak else "xattn", _xattn_kernel, q, BLOCK_A=plan.query_block // query_stride,
        BLOCK_B=key_block // key_stride,
    )  # fmt: skip
    tiles_a, tiles_b = ceil_div(n_a, settings["BLOCK_A"]), ceil_div(n_b, settings["BLOCK_B"])
    chunk = settings.pop("CHUNK")
    keep = chunk > 1 and terms == 1 and d & (d - 1) == 0
    chunk = chunk if keep else 1
    wide = bridge.dtype_name(q) == "float32" or bridge.interpreting(_xattn_kernel)
    scores = bridge.empty((b, h, n_a, n_j), "float32" if wide else "float16" if peak else "bfloat16", q)
    tops = None if peak else bridge.empty((b, h, tiles_b, n_a), "float32", q)
    bridge.launch(
        _xattn_kernel, (tiles_a * ceil_div(tiles_b, chunk) * b * h,), like=q,
        q=q, k=k, scores=scores, tops=tops, kv_start=kv_start, **stride_args(q=q, k=k),
        scale=max(abs(scale) / terms * LOG2E, 1e-30), lq=lq, lk=lk, n_a=n_a, n_j=n_j, tiles_a=tiles_a, tiles_b=tiles_b,
        hkv=hkv, group=h // hkv, R=query_stride, S=key_stride, TERMS=terms, N=key_block, D=d, CAUSAL=plan.causal,
        FLIP=scale < 0, PEAK=peak, BLOCK_K=d if keep else 64 if d % 64 == 0 else d & -d, CHUNK=chunk, **settings,
    )  # fmt: skip
    return Scores(scores, tops, 0 if peak else settings["BLOCK_B"] * key_stride // key_block, query_stride)
