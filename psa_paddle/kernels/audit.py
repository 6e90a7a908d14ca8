"""Exact attention for the audited rows of a call beside what the operator gave for them.

A tile holds audited rows of all query heads that share a kv head, heads fastest, so that no key is read once a head;
the keys are split over programs, whose partial softmaxes the second kernel merges and compares with the output.
Source of the split: Flash-Decoding.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge
from ..geometry import ceil_div
from ..plan import Plan
from . import tuning
from .common import LOG2E, check_inputs, check_out, next_power_of_2, sample_span, stride_args
from .flat_rows import attend_run, open_tile, split_place

PROGRAMS = 256  # that have keys to read, about
MIN_CHUNK, MAX_SPLITS = 512, 64  # keys of a split at least, splits at most


@triton.jit
def _audited_row(i_r, n, rows):
    """The ``i_r``-th audited one of ``n`` rows, see ``psa_paddle.stats.audited_rows``."""
    low = i_r.to(tl.int64) * n // rows
    size = (i_r + 1).to(tl.int64) * n // rows - low
    part = (i_r + 1).to(tl.uint32)
    return (low + (size * (part * part * 0x9E3779B1 >> 16).to(tl.int64) >> 16)).to(tl.int32)


@triton.jit
def _audit_kernel(
    q, k, v, part, lse, kv_start,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
    scale, lq_all, lk_all, rows, n_i, n_s, chunk, hkv,
    GROUP: tl.constexpr, M: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
    CAUSAL: tl.constexpr, FLIP: tl.constexpr,
):  # fmt: skip
    i_i, i_s, i_kv, i_b, i_h = split_place(n_i, n_s, hkv)
    o_q, o_k, lq, lk = sample_span(kv_start, i_b, lq_all, lk_all, CAUSAL)

    rows = tl.minimum(rows, lq)
    o_r = tl.minimum(i_i * M + tl.arange(0, M), rows * GROUP - 1)  # flat rows; a ragged tile repeats the last one
    i_r = o_q + _audited_row(o_r // GROUP, lq, rows)  # [M] rows of q
    i_q = tl.full([M], lk_all - 1, tl.int32)  # positions
    if CAUSAL:
        i_q = i_r + lk_all - lq_all
    begin = tl.maximum(i_s * chunk, o_k)
    end = tl.minimum((i_s + 1) * chunk, tl.max(i_q, 0) + 1)
    o_p = ((i_kv * n_i + i_i) * M + tl.arange(0, M)) * n_s + i_s
    if begin < end:
        o_d = tl.arange(0, BLOCK_D)
        b_q, p_k, p_v, m_d = open_tile(
            q, k, v, i_b, i_h, i_r * GROUP + o_r % GROUP, o_d, stride_qb, stride_qh, stride_ql, stride_kb, stride_kh,
            stride_vb, stride_vh, GROUP, D, FLIP,
        )  # fmt: skip
        b_o, b_l, b_m = attend_run(
            b_q, p_k, p_v, stride_kl, stride_vl, i_q, tl.min(i_q, 0), begin, end, scale, m_d, M, D, BLOCK_D, TILE
        )
        blind = b_l == 0.0  # a row that sees nothing of this chunk
        b_o = b_o / tl.where(blind, 1.0, b_l)[:, None]
        tl.store(lse + o_p, b_m + tl.log2(tl.where(blind, 1.0, b_l)))
        tl.store(part + o_p[:, None] * D + o_d[None, :], b_o, mask=m_d)
    else:
        tl.store(lse + o_p, tl.full([M], -float("inf"), tl.float32))


@triton.jit
def _audit_compare_kernel(
    part, lse, out, sums, kv_start, stride_ob, stride_oh, stride_ol, lq_all, lk_all, rows_all, n_flat, n_s, hkv,
    GROUP: tl.constexpr, S: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    i_r, i_bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i_b, i_h, i_kv = i_bh // (hkv * GROUP), i_bh % (hkv * GROUP), i_bh // GROUP
    o_q, _, lq, _ = sample_span(kv_start, i_b, lq_all, lk_all, CAUSAL)
    rows = tl.minimum(rows_all, lq)
    error, size = tl.cast(0.0, tl.float32), tl.cast(0.0, tl.float32)
    if i_r < rows:
        o_s, o_d = tl.arange(0, S), tl.arange(0, BLOCK_D)
        m_d = o_d < D
        o_p = (i_kv * n_flat + i_r * GROUP + i_bh % GROUP) * n_s + o_s
        b_lse = tl.load(lse + o_p, mask=o_s < n_s, other=-float("inf"))
        seen = b_lse != -float("inf")  # no key of the others was read, nor their part written
        top = tl.max(b_lse, 0)
        b_w = tl.exp2(b_lse - tl.where(top == -float("inf"), 0.0, top))
        b_p = tl.load(part + o_p[:, None] * D + o_d[None, :], mask=seen[:, None] & m_d[None, :], other=0.0)
        b_e = tl.sum(b_w[:, None] * b_p, 0) / tl.sum(b_w, 0)
        row = (o_q + _audited_row(i_r, lq, rows)).to(tl.int64)
        b_o = tl.load(out + i_b * stride_ob + i_h * stride_oh + row * stride_ol + o_d, mask=m_d, other=0.0)
        b_x = b_o.to(tl.float32) - b_e
        error, size = tl.sum(b_x * b_x, 0), tl.sum(b_e * b_e, 0)
    p_sums = sums + (i_bh * rows_all + i_r) * 2
    tl.store(p_sums, error)
    tl.store(p_sums + 1, size)


def split_audit(tiles: int, samples: int, lk: int, tile: int, causal: bool) -> tuple[int, int]:
    """``(splits, keys of a split)`` for ``tiles`` tiles of rows of each of ``samples`` kv heads; it depends on shapes
    alone, so that a result does not depend on the GPU."""
    reading = samples * ((tiles + 1) / 2 if causal else tiles)  # of a causal call's tiles, the first read few keys
    splits = max(1, min(int(PROGRAMS / reading), ceil_div(lk, MIN_CHUNK), MAX_SPLITS))
    chunk = ceil_div(ceil_div(lk, splits), tile) * tile
    return ceil_div(lk, chunk), chunk


def audit_fwd(q, k, v, out, plan: Plan, *, kv_start=None):
    """Compare ``out`` with exact attention at the rows that ``psa_paddle.stats.audited_rows`` names, in two launches.

    Args:
        q: [B, H, Lq, D]; k, v: [B, Hkv, Lk, D]; one dtype of float32, float16, bfloat16; D in 32, 64, 80, 96, 128,
            contiguous; other strides are free. Query head h reads kv head h // (H / Hkv). Causal: Lq <= Lk, aligned
            bottom-right.
        out: what the operator gave, [B, H, Lq, D] or by ``plan.heads_last`` [B, Lq, H, D], in q's dtype.
        plan: its scale, causality and audit_rows, the audited rows of a sample; all of them where it has fewer.
        kv_start: int32 [B] on the device, first key of each sample of a left-padded batch, or None. Rows of padding
            are not audited.

    Returns:
        float32 [B, H, min(rows, Lq), 2], see ``psa_paddle.stats.AuditedRows``.

    Raises:
        TypeError, ValueError: unsupported or unequal dtypes, shapes or strides, no rows.
    """
    return bridge.repeat(_audit, (plan,), q, k, v, out, kv_start)


def _audit(q, k, v, out, kv_start, plan: Plan):
    """``audit_fwd``; of its tensors nothing but dtypes, shapes, strides, devices and alignment is asked for."""
    check_inputs(q=q, k=k, v=v, kv_start=kv_start, causal=plan.causal)
    (b, h, lq, d), (hkv, lk), dtype = q.shape, k.shape[1:3], bridge.dtype_name(q)
    check_out(out, [b, lq, h, d] if plan.heads_last else [b, h, lq, d], q)
    if plan.audit_rows < 1:
        raise ValueError(f"audit_rows must be at least 1, got {plan.audit_rows}.")
    strides, to = stride_args(q=q, k=k, v=v), stride_args(o=out)
    if plan.heads_last:
        to["stride_oh"], to["stride_ol"] = to["stride_ol"], to["stride_oh"]

    rows, group = min(plan.audit_rows, lq), h // hkv
    settings = tuning.pick("audit", d, 4 if dtype == "float32" else 2, bridge.arch(q, _audit_kernel))
    n_i = ceil_div(rows * group, settings["M"])
    n_s, chunk = split_audit(n_i, b * hkv, lk, settings["TILE"], plan.causal)
    n_flat = n_i * settings["M"]
    part = bridge.empty([b * hkv, n_flat, n_s, d], "float32", q)
    lse = bridge.empty([b * hkv, n_flat, n_s], "float32", q)
    sums = bridge.empty([b, h, rows, 2], "float32", q)
    shared = dict(
        part=part, lse=lse, kv_start=kv_start, lq_all=lq, lk_all=lk, n_s=n_s, hkv=hkv, GROUP=group, D=d,
        BLOCK_D=next_power_of_2(d), CAUSAL=plan.causal,
    )  # fmt: skip
    bridge.launch(
        _audit_kernel, (n_i * n_s * b * hkv,), like=q, q=q, k=k, v=v, **strides, **shared,
        scale=abs(plan.scale) * LOG2E, rows=rows, n_i=n_i, chunk=chunk, FLIP=plan.scale < 0.0, **settings,
    )  # fmt: skip
    bridge.launch(
        _audit_compare_kernel, (rows, b * h), like=q, out=out, sums=sums, **to, **shared, rows_all=rows, n_flat=n_flat,
        S=next_power_of_2(n_s), num_warps=4,
    )  # fmt: skip
    return sums
