"""Step 2, the other way: how much a block of keys matters, from every fourth query and every fourth key.

A probability needs its row's normaliser, which is known at the end of the row only. So one pass keeps, of each row, the
running maximum and sum, and the largest product with each key block; then the normalisers turn these into the block
pair's maximum. The products are made once (1 / 16 of dense); programs that stay for many tiles keep the block maxima in
a strip of their own, so memory grows with the length and not with its square.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge
from ..config import SAMPLE_STEP
from ..geometry import ceil_div
from ..plan import Plan
from . import tuning
from .common import LOG2E, check_inputs, sample_span, stride_args


@triton.jit
def _products(b_q, p_k, c, o_b, o_d, last, n_keys, stride_kl, D: tl.constexpr, MASKED: tl.constexpr):
    """Sampled queries times the sampled keys from ``c`` on, -inf for those after each row's ``last``; [A, B]."""
    STEP: tl.constexpr = 4
    BLOCK_D: tl.constexpr = o_d.shape[0]
    p_k += ((c + o_b) * STEP).to(tl.int64)[:, None] * stride_kl + o_d[None, :]
    if MASKED:
        b_k = tl.load(p_k, mask=(o_b < n_keys - c)[:, None] & (o_d < D)[None, :], other=0.0)
    elif BLOCK_D > D:
        b_k = tl.load(p_k, mask=(o_d < D)[None, :], other=0.0)
    else:
        b_k = tl.load(p_k)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision="ieee")
    if MASKED:
        b_s = tl.where(o_b[None, :] <= (last - c)[:, None], b_s, -float("inf"))
    return b_s


@triton.jit
def _take(b_s, b_m, b_z, p_top, scale, TILE_J: tl.constexpr):
    """Take a tile of products into each row's maximum and sum, and store its maximum over each key block."""
    BLOCK_A: tl.constexpr = b_s.shape[0]
    b_s = tl.reshape(b_s, [BLOCK_A, TILE_J, b_s.shape[1] // TILE_J])
    b_top = tl.max(b_s, 2)  # [A, blocks]
    tl.store(p_top, b_top)
    b_new = tl.maximum(b_m, tl.max(b_top, 1))
    b_ref = tl.where(b_new == -float("inf"), 0.0, b_new) * scale
    b_e = tl.exp2(b_s * scale - b_ref[:, None, None])
    b_z = b_z * tl.exp2(b_m * scale - b_ref) + tl.sum(tl.sum(b_e, 1), 1)
    return b_new, b_z


@triton.jit
def _pooling_kernel(
    q, k, importance, strips, kv_start,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl,
    scale, lq_all, lk_all, n_i, n_j, n_strip, tiles_a, n_items, n_programs, hkv, group,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, CAUSAL: tl.constexpr,
    FLIP: tl.constexpr, BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    STEP: tl.constexpr = 4
    PER_I: tl.constexpr = M // STEP
    PER_J: tl.constexpr = N // STEP
    TILE_I: tl.constexpr = BLOCK_A // PER_I
    TILE_J: tl.constexpr = BLOCK_B // PER_J
    o_a, o_b, o_d = tl.arange(0, BLOCK_A), tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_D)
    strip = strips + tl.program_id(0).to(tl.int64) * n_strip * BLOCK_A  # [blocks, A]
    p_first = strip + tl.arange(0, TILE_J)[None, :] * BLOCK_A + o_a[:, None]
    for item in tl.range(tl.program_id(0), n_items, n_programs, disable_licm=True):  # hoisting would spill
        # The heads of one kv head come next to each other: they read the same keys.
        i_g = item % group
        i_ta = tiles_a - 1 - item // group % tiles_a  # longest first
        i_kv = (item // (group * tiles_a)).to(tl.int64)
        i_b = i_kv // hkv
        i_bh = i_kv * group + i_g
        o_q, o_k, lq, lk = sample_span(kv_start, i_b, lq_all, lk_all, CAUSAL)
        first = i_ta * BLOCK_A
        i_a = first + o_a
        m_a = i_a * STEP < lq
        p_q = q + i_b * stride_qb + (i_bh % (hkv * group)) * stride_qh + o_q.to(tl.int64) * stride_ql
        p_q += (i_a * STEP).to(tl.int64)[:, None] * stride_ql + o_d[None, :]
        b_q = tl.load(p_q, mask=m_a[:, None] & (o_d < D)[None, :], other=0.0)
        if FLIP:  # the maxima need a positive scale; a sign is exact
            b_q = -b_q
        p_k = k + i_b * stride_kb + (i_kv % hkv) * stride_kh + o_k.to(tl.int64) * stride_kl
        n_keys = (lk + STEP - 1) // STEP
        n_seen, last = n_keys, tl.full([BLOCK_A], 0, tl.int32) + n_keys - 1  # number of each row's last key
        n_plain = n_keys // BLOCK_B * BLOCK_B  # keys that every row of the tile sees, in whole tiles
        if CAUSAL:
            last = tl.minimum(last, i_a + (lk - lq) // STEP)
            n_seen = tl.minimum(n_seen, first + BLOCK_A + (lk - lq + STEP - 1) // STEP)  # to the last valid block
            n_plain = tl.minimum(n_plain, (first + (lk - lq) // STEP + 1) // BLOCK_B * BLOCK_B)
        n_seen = tl.where(first * STEP < lq, n_seen, 0)
        n_plain = tl.minimum(n_plain, n_seen)

        b_m = tl.full([BLOCK_A], -float("inf"), tl.float32)
        b_z = tl.zeros([BLOCK_A], tl.float32)
        for c in range(0, n_plain, BLOCK_B):
            b_s = _products(b_q, p_k, c, o_b, o_d, last, n_keys, stride_kl, D, False)
            b_m, b_z = _take(b_s, b_m, b_z, p_first + c // PER_J * BLOCK_A, scale, TILE_J)
        for c in tl.range(n_plain, n_seen, BLOCK_B, num_stages=1, disable_licm=True):
            b_s = _products(b_q, p_k, c, o_b, o_d, last, n_keys, stride_kl, D, True)
            b_m, b_z = _take(b_s, b_m, b_z, p_first + c // PER_J * BLOCK_A, scale, TILE_J)

        # log2 of the normaliser; +inf makes the probabilities of rows past the end zero.
        b_z = tl.where(m_a & (b_z > 0.0), tl.where(b_m == -float("inf"), 0.0, b_m) * scale + tl.log2(b_z), float("inf"))
        tl.debug_barrier()  # the strip is read by other threads than wrote it
        i_i = i_ta * TILE_I + tl.arange(0, TILE_I)
        p_o = importance + (i_bh * n_i + i_i.to(tl.int64)[None, :]) * n_j
        for j in range(0, (n_seen + PER_J - 1) // PER_J, CHUNK):
            i_j = j + tl.arange(0, CHUNK)
            b_t = tl.load(strip + i_j[:, None] * BLOCK_A + o_a[None, :], mask=(i_j < n_j)[:, None], other=0.0)
            b_t = tl.reshape(b_t * scale - b_z[None, :], [CHUNK, TILE_I, PER_I])
            b_p = tl.exp2(tl.max(b_t, 2))  # [blocks, query blocks]
            tl.store(p_o + i_j[:, None], b_p, mask=(i_i < n_i)[None, :] & (i_j < n_j)[:, None])
        tl.debug_barrier()


def pooling_fwd(q, k, plan: Plan, *, kv_start=None):
    """Maximum probability of each block pair among every fourth token, float32 [B, H, nI, nJ], not normalised.

    Source: the importance of PSA's published implementation (arXiv:2512.04025), with evenly spaced samples.

    Arguments and errors as in ``xattn_fwd``; pairs that no token may see are left unwritten.
    """
    check_inputs(q=q, k=k, kv_start=kv_start, causal=plan.causal)
    return run_pooling(q, k, plan, kv_start)


def run_pooling(q, k, plan: Plan, kv_start):
    """``pooling_fwd`` of checked tensors."""
    b, h, lq, d = q.shape
    query_block, key_block, scale = plan.query_block, plan.key_block, plan.scale
    hkv, lk = k.shape[1], k.shape[2]
    n_i, n_j = ceil_div(lq, query_block), ceil_div(lk, key_block)
    itemsize = 4 if bridge.dtype_name(q) == "float32" else 2
    settings = dict(tuning.pick("pooling", d, itemsize, bridge.arch(q, _pooling_kernel)))
    for name, block in (("BLOCK_A", query_block), ("BLOCK_B", key_block)):  # tiles hold whole blocks
        settings[name] = max(settings[name], block // SAMPLE_STEP)
    resident = settings.pop("RESIDENT") * bridge.multiprocessors(q, _pooling_kernel)
    tiles_a = ceil_div(ceil_div(lq, SAMPLE_STEP), settings["BLOCK_A"])
    programs = min(tiles_a * b * h, resident)
    tile_j = settings["BLOCK_B"] * SAMPLE_STEP // key_block
    n_strip = ceil_div(n_j, tile_j) * tile_j
    importance = bridge.empty((b, h, n_i, n_j), "float32", q)
    strips = bridge.empty((programs, n_strip, settings["BLOCK_A"]), "float32", q)
    bridge.launch(
        _pooling_kernel, (programs,), like=q,
        q=q, k=k, importance=importance, strips=strips, kv_start=kv_start, **stride_args(q=q, k=k),
        # 0 would turn a hidden key's -inf into NaN; the smallest float32 makes every visible product 0 as well
        scale=max(abs(scale) * LOG2E, 1e-37), lq_all=lq, lk_all=lk, n_i=n_i, n_j=n_j, n_strip=n_strip,
        tiles_a=tiles_a, n_items=tiles_a * b * h, n_programs=programs, hkv=hkv, group=h // hkv,
        M=query_block, N=key_block, D=d, BLOCK_D=128 if d > 64 else d, CAUSAL=plan.causal, FLIP=scale < 0, **settings,
    )  # fmt: skip
    return importance
