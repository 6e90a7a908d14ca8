"""The Hopper attention kernel with 8-bit products, levels 1 and 0 only: a prototype, see docs/lab-notes.md.

The design is that of psa_paddle/kernels/attend_hopper.py: one program a multiprocessor, a producer that fills rings of
tiles, two consumers of half a query block each. What differs:

- Q K^T in e4m3 or int8. The factor of a query row (its scale, that of its head's keys, the softmax's) comes with the
  query block; int8 keys have a scale a block, which the producer leaves beside the tile.
- P V in e4m3 or in bfloat16. The 8-bit product wants both operands with their keys contiguous, so values lie as
  [blocks, D, N]. A thread holds columns 2 q, 2 q + 1 of each 8 of S, and must hold slots 4 q .. 4 q + 3 of each 16 of
  P: so S's column 8 e + 2 q + b is called slot 4 q + 2 e + b, and values are stored in that order. Nothing moves.
- Two levels: the tensor cores, whose 8-bit sums have some 14 bits, add up WINDOW tiles; the sums go to float32 in
  shared memory. WINDOW 0: one level, only for comparison.
"""

from __future__ import annotations

import torch
from loads_8bit import Shared8, Sizes8, producer8
from products_8bit import consumer8
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from psa_paddle.kernels.attend_hopper import Boxes
from psa_paddle.kernels.common import LOG2E
from psa_paddle.kernels.hopper_shared import FIELDS, Ring, barriers, idle


@gluon.jit
def attend_8bit_kernel(
    q_desc, k_desc, v_desc, o_desc, row_scale, k_scale, v_scale, lists, counts, turns,
    lq, lk, n_i, n_first, n_j, hkv, group, heads, n_places,
    M: gl.constexpr, N: gl.constexpr, D: gl.constexpr, T: gl.constexpr, STAGES_K: gl.constexpr, STAGES_V: gl.constexpr,
    CAUSAL: gl.constexpr, INT: gl.constexpr, PV8: gl.constexpr, WINDOW: gl.constexpr,
):  # fmt: skip
    line: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    dtype: gl.constexpr = o_desc.dtype
    q_s = gl.allocate_shared_memory(q_desc.dtype, [4, M // 2, D], gl.NVMMASharedLayout(128, 8, 2))
    if WINDOW:
        o_s = gl.allocate_shared_memory(gl.float32, [2, M // 2, D], gl.SwizzledSharedLayout(4, 1, 8, [1, 0]))
    else:
        o_s = gl.allocate_shared_memory(dtype, [2, M // 2, D], gl.NVMMASharedLayout(128, 16, 2))
    k_s = gl.allocate_shared_memory(k_desc.dtype, [STAGES_K, T, D], gl.NVMMASharedLayout(128, 8, 2))
    if PV8:
        v_s = gl.allocate_shared_memory(v_desc.dtype, [STAGES_V * (T // N), D, N], gl.NVMMASharedLayout(64, 8, 2))
    else:
        v_s = gl.allocate_shared_memory(v_desc.dtype, [STAGES_V * (T // N), N, D], gl.NVMMASharedLayout(128, 16, 2))
    position_s = gl.allocate_shared_memory(gl.int32, [STAGES_K, T], line)
    scale_s = gl.allocate_shared_memory(gl.float32, [STAGES_K if INT else 1, T], line)
    ticket_s = gl.allocate_shared_memory(gl.int32, [2, FIELDS], line)
    full_k = barriers(STAGES_K, 128)
    full_v = barriers(STAGES_V, 128)
    empty_k = barriers(STAGES_K, 2)
    empty_v = barriers(STAGES_V, 2)
    full_t = barriers(2, 1)
    empty_t = barriers(2, 2)
    shared = Shared8(
        queries=q_s, out=o_s, k=Ring(tiles=k_s, full=full_k, empty=empty_k),
        v=Ring(tiles=v_s, full=full_v, empty=empty_v), positions=position_s, scales=scale_s, tickets=ticket_s,
        full=full_t, empty=empty_t,
    )  # fmt: skip
    sizes = Sizes8(lq=lq, lk=lk, n_i=n_i, n_first=n_first, n_j=n_j, hkv=hkv, group=group, n_places=n_places)
    gl.warp_specialize(
        [
            (idle, ()),
            (consumer8, (o_desc, row_scale, v_scale, shared, lq, heads, 0, M, D, T, INT, PV8, WINDOW)),
            (consumer8, (o_desc, row_scale, v_scale, shared, lq, heads, 1, M, D, T, INT, PV8, WINDOW)),
            (producer8, (
                q_desc, k_desc, v_desc, k_scale, lists, counts, turns, shared, sizes, M, N, D, T, CAUSAL, PV8, INT,
            )),
        ],
        [4, 4, 4],
        [208, 208, 72],
    )  # fmt: skip


SLOT_OF_TOKEN = [4 * (c % 8 // 2) + 2 * (c // 8) + c % 2 for c in range(16)]  # within 16 tokens


def quantise(q, k, v, scale: float, qk: str, pv: str, key_block: int = 64, smooth: bool = True):
    """8-bit operands in torch, as slow as it is clear. qk: "e4m3" or "int8"; pv: "e4m3" or "bf16"."""
    b, h, lq, d = q.shape
    hkv, lk = k.shape[1:3]
    n_j = -(-lk // key_block)
    k = k.float() - (k.float().mean(2, keepdim=True) if smooth else 0.0)
    top = 448.0 if qk == "e4m3" else 127.0
    q_scale = q.float().abs().amax(3, keepdim=True).clamp_min(1e-12) / top
    q8 = q.float() / q_scale
    rows = q_scale[..., 0] * (scale * LOG2E)
    if qk == "e4m3":
        k_head = k.abs().amax((2, 3), keepdim=True).clamp_min(1e-12) / top  # [B, Hkv, 1, 1]
        rows = rows * k_head[..., 0].repeat_interleave(h // hkv, 1)
        q8, k8, k_scale = q8.to(torch.float8_e4m3fn), (k / k_head).to(torch.float8_e4m3fn), None
    else:
        padded = torch.nn.functional.pad(k, (0, 0, 0, n_j * key_block - lk)).view(b, hkv, n_j, key_block, d)
        k_scale = padded.abs().amax((3, 4)).clamp_min(1e-12) / top
        k8 = (padded / k_scale[..., None, None]).round().clamp(-top, top).to(torch.int8).view(b, hkv, -1, d)[:, :, :lk]
        q8 = q8.round().clamp(-top, top).to(torch.int8)
    v8, v_scale = v, None
    if pv == "e4m3":
        v_scale = v.float().abs().amax(2).clamp_min(1e-12) / 448.0  # [B, Hkv, D]
        padded = torch.nn.functional.pad(v.float() / v_scale[:, :, None], (0, 0, 0, n_j * key_block - lk))
        tokens = padded.view(b, hkv, n_j, key_block // 16, 16, d)
        slots = torch.empty_like(tokens)
        slots[:, :, :, :, SLOT_OF_TOKEN] = tokens
        v8 = slots.view(b, hkv, n_j, key_block, d).transpose(3, 4).contiguous().to(torch.float8_e4m3fn)
        v_scale = v_scale.repeat_interleave(h // hkv, 1).contiguous()
    return q8.contiguous(), k8.contiguous(), v8, rows.contiguous(), k_scale, v_scale


SETTINGS = dict(M=128, N=64, D=128, T=128)


def attend_8bit(operands, found, shape, causal: bool, n_first: int, programs: int, launch, **options):
    """Attention over level 1 of ``found``; operands as ``quantise`` gives them, shape: (B, H, Hkv, Lq, Lk). ``launch``
    takes the kernel's arguments. Returns what ``launch`` does and the output."""
    q8, k8, v8, rows, k_scale, v_scale = operands
    b, h, hkv, lq, lk = shape
    d, n = SETTINGS["D"], SETTINGS["N"]
    n_i, n_j = -(-lq // 128), -(-lk // n)
    out = torch.empty(b, h, lq, d, dtype=torch.bfloat16, device=q8.device)

    def boxes(x, length, rows, rank4=True):
        heads = x.shape[1]
        return Boxes(
            x,
            [b, heads, length, d],
            [heads * length * d, length * d, d, 1],
            [1, 1, rows, d],
            gl.NVMMASharedLayout(128, 8, 4),
        )

    def boxes16(x, length, rows, columns):
        heads = x.shape[1]
        strides = [heads * length * d, length * d, 64, d, 1]
        layout = gl.NVMMASharedLayout(128, 16, 5)
        return Boxes(x, [b, heads, d // 64, length, 64], strides, [1, 1, columns // 64, rows, 64], layout)

    pv8 = v_scale is not None
    if pv8:
        strides = [hkv * n_j * d * n, n_j * d * n, d * n, n, 1]
        v_desc = Boxes(v8, [b, hkv, n_j, d, n], strides, [1, 1, 1, d, n], gl.NVMMASharedLayout(64, 8, 5))
    else:
        v_desc = boxes16(v8, lk, n, 64)
    arguments = dict(
        q_desc=boxes(q8, lq, 64), k_desc=boxes(k8, lk, n), v_desc=v_desc, o_desc=boxes16(out, lq, 64, d),
        row_scale=rows, k_scale=k_scale if k_scale is not None else rows, v_scale=v_scale if pv8 else rows,
        lists=found.lists, counts=found.counts, turns=found.turns, lq=lq, lk=lk, n_i=n_i, n_first=n_first, n_j=n_j,
        hkv=hkv, group=h // hkv, heads=h, n_places=n_i * b * h, **SETTINGS, CAUSAL=causal, INT=k_scale is not None,
        PV8=pv8, num_warps=4, maxnreg=128, **options,
    )  # fmt: skip
    return launch(attend_8bit_kernel, (min(n_i * b * h, programs),), arguments), out
