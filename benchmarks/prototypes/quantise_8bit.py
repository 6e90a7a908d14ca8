"""What quantising costs: one pass over the queries, one over keys and values (see attend_8bit.py)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _queries_kernel(q, q8, scales, n_rows, ROWS: tl.constexpr, D: tl.constexpr):
    o_r, o_d = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    m_r = o_r < n_rows
    place = o_r.to(tl.int64)[:, None] * D + o_d[None, :]
    b_q = tl.load(q + place, mask=m_r[:, None], other=0.0).to(tl.float32)
    b_scale = tl.maximum(tl.max(tl.abs(b_q), 1), 1e-12) / 448.0
    tl.store(scales + o_r, b_scale, mask=m_r)
    tl.store(q8 + place, (b_q / b_scale[:, None]).to(q8.dtype.element_ty), mask=m_r[:, None])


@triton.jit
def _kv_kernel(k, v, k_mean, v_scale, k8, v8, k_scale, lk, n_j, N: tl.constexpr, D: tl.constexpr):
    i_j, i_h = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_n, o_d = tl.arange(0, N), tl.arange(0, D)
    row = i_j * N + o_n
    place = (i_h * lk + row)[:, None] * D + o_d[None, :]
    m = (row < lk)[:, None]
    b_k = tl.load(k + place, mask=m, other=0.0).to(tl.float32) - tl.load(k_mean + i_h * D + o_d)[None, :]
    b_scale = tl.maximum(tl.max(tl.max(tl.abs(b_k), 1), 0), 1e-12) / 448.0
    tl.store(k_scale + i_h * n_j + i_j, b_scale)
    tl.store(k8 + place, (b_k / b_scale).to(k8.dtype.element_ty), mask=m)
    # Slot s of 16 holds token 8 (s / 2 % 2) + 2 (s / 4) + s % 2.
    token = o_n // 16 * 16 + o_n // 2 % 2 * 8 + o_n % 16 // 4 * 2 + o_n % 2
    row = i_j * N + token
    place = (i_h * lk + row)[:, None] * D + o_d[None, :]
    b_v = tl.load(v + place, mask=(row < lk)[:, None], other=0.0).to(tl.float32)
    b_v = b_v / tl.load(v_scale + i_h * D + o_d)[None, :]
    p_v = v8 + (i_h * n_j + i_j) * N * D + o_d[:, None] * N + o_n[None, :]
    tl.store(p_v, tl.trans(b_v).to(v8.dtype.element_ty))


def queries(q):
    """q [B, H, L, D] contiguous in e4m3 and a scale a row."""
    q8 = torch.empty_like(q, dtype=torch.float8_e4m3fn)
    scales = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    n_rows, rows = scales.numel(), 64
    _queries_kernel[(triton.cdiv(n_rows, rows),)](q, q8, scales, n_rows, rows, q.shape[3], num_warps=4)
    return q8, scales


def keys_and_values(k, v):
    """k and v [B, H, L, D] contiguous in e4m3, v transposed by block; the mean of the keys and the scales of the values
    taken as known, as the pass before would leave them."""
    b, h, length, d = k.shape
    n_j = triton.cdiv(length, 64)
    k8 = torch.empty_like(k, dtype=torch.float8_e4m3fn)
    v8 = torch.empty(b, h, n_j, d, 64, dtype=torch.float8_e4m3fn, device=k.device)
    k_scale = torch.empty(b, h, n_j, dtype=torch.float32, device=k.device)
    mean, scale = torch.zeros(b, h, d, device=k.device), torch.full((b, h, d), 0.01, device=k.device)
    _kv_kernel[(n_j, b * h)](k, v, mean, scale, k8, v8, k_scale, length, n_j, 64, d, num_warps=8)
    return k8, v8, k_scale
