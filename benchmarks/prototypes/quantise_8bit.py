"""The passes that make attend_8bit.py's e4m3 operands: the largest numbers of each head, then the numbers themselves.

A scale a row of queries, one for all keys of a head and one for each channel of its values: e4m3 is a floating format,
so that finer scales gain nothing until numbers differ by 2^14.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LARGEST = 448.0


@triton.jit
def _largest_kernel(k, v, k_top, v_top, lk, ROWS: tl.constexpr, D: tl.constexpr):
    i_h, o_d = tl.program_id(1).to(tl.int64), tl.arange(0, D)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = (i_h * lk + row)[:, None] * D + o_d[None, :]
    m = (row < lk)[:, None]
    b_k = tl.abs(tl.load(k + place, mask=m, other=0.0).to(tl.float32))
    b_v = tl.abs(tl.load(v + place, mask=m, other=0.0).to(tl.float32))
    tl.atomic_max(k_top + i_h, tl.max(tl.max(b_k, 1), 0))
    tl.atomic_max(v_top + i_h * D + o_d, tl.max(b_v, 0))


@triton.jit
def _queries_kernel(q, k_top, q8, scales, scale, n_rows, lq, group, ROWS: tl.constexpr, D: tl.constexpr):
    o_r, o_d = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    m_r = o_r < n_rows
    place = o_r.to(tl.int64)[:, None] * D + o_d[None, :]
    b_q = tl.load(q + place, mask=m_r[:, None], other=0.0).to(tl.float32)
    b_scale = tl.maximum(tl.max(tl.abs(b_q), 1), 1e-12) / 448.0
    b_k = tl.load(k_top + o_r // lq // group, mask=m_r, other=0.0) / 448.0
    tl.store(scales + o_r, b_scale * b_k * scale, mask=m_r)
    tl.store(q8 + place, (b_q / b_scale[:, None]).to(q8.dtype.element_ty), mask=m_r[:, None])


@triton.jit
def _kv_kernel(k, v, k_top, v_top, k8, v8, lk, n_j, N: tl.constexpr, D: tl.constexpr):
    i_j, i_h = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_n, o_d = tl.arange(0, N), tl.arange(0, D)
    row = i_j * N + o_n
    place = (i_h * lk + row)[:, None] * D + o_d[None, :]
    m = (row < lk)[:, None]
    b_k = tl.load(k + place, mask=m, other=0.0).to(tl.float32) * (448.0 / tl.load(k_top + i_h))
    tl.store(k8 + place, b_k.to(k8.dtype.element_ty), mask=m)
    # Slot s of 16 holds token 8 (s / 2 % 2) + 2 (s / 4) + s % 2.
    row = i_j * N + o_n // 16 * 16 + o_n // 2 % 2 * 8 + o_n % 16 // 4 * 2 + o_n % 2
    place = (i_h * lk + row)[:, None] * D + o_d[None, :]
    b_v = tl.load(v + place, mask=(row < lk)[:, None], other=0.0).to(tl.float32)
    b_v = b_v * (448.0 / tl.maximum(tl.load(v_top + i_h * D + o_d), 1e-12))[None, :]
    p_v = v8 + (i_h * n_j + i_j) * N * D + o_d[:, None] * N + o_n[None, :]
    tl.store(p_v, tl.trans(b_v).to(v8.dtype.element_ty))


def e4m3(q, k, v, scale: float):
    """What ``attend_8bit.quantise`` gives for e4m3 operands and keys that are not centred; tensors contiguous."""
    (b, h, lq, d), (hkv, lk) = q.shape, k.shape[1:3]
    n_j = triton.cdiv(lk, 64)
    tops = torch.zeros(b * hkv * (d + 1), device=q.device)
    k_top, v_top = tops[: b * hkv], tops[b * hkv :]
    _largest_kernel[(triton.cdiv(lk, 256), b * hkv)](k, v, k_top, v_top, lk, 256, d, num_warps=8)
    q8, k8 = (torch.empty_like(x, dtype=torch.float8_e4m3fn) for x in (q, k))
    v8 = torch.empty(b, hkv, n_j, d, 64, dtype=torch.float8_e4m3fn, device=q.device)
    rows = torch.empty(b, h, lq, dtype=torch.float32, device=q.device)
    n_rows = rows.numel()
    _queries_kernel[(triton.cdiv(n_rows, 64),)](q, k_top, q8, rows, scale, n_rows, lq, h // hkv, 64, d, num_warps=4)
    _kv_kernel[(n_j, b * hkv)](k, v, k_top, v_top, k8, v8, lk, n_j, 64, d, num_warps=8)
    v_scale = (v_top / LARGEST).view(b, hkv, d).repeat_interleave(h // hkv, 1)
    return q8, k8, v8, rows, None, v_scale
