"""Step 4 on Hopper: the attention of attend_portable.py with the loads, the two halves of a query block and the tensor
cores running side by side. ``attend_hopper_kernel`` says how.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from .hopper_consumer import consumer
from .hopper_producer import producer
from .hopper_shared import FIELDS, Inputs, Ring, Shared, Sizes, Strides, barriers, idle

BOX = gl.NVMMASharedLayout(128, 16, 5)


@gluon.jit
def attend_hopper_kernel(
    q_desc, k_desc, v_desc, mean_k_desc, mean_v_desc, o_desc, k, v, pooled_k, pooled_v, lists, counts, levels, out,
    kv_start, turns,
    stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
    stride_ob, stride_oh, stride_ol,
    scale, lq, lk, n_i, n_first, n_j, n_full, hkv, group, n_places,
    M: gl.constexpr, N: gl.constexpr, D: gl.constexpr, TILE: gl.constexpr,
    STAGES_K: gl.constexpr, STAGES_V: gl.constexpr,
    CAUSAL: gl.constexpr, POOLED: gl.constexpr, MEANS: gl.constexpr, FLIP: gl.constexpr,
):  # fmt: skip
    """One program, which stays on its multiprocessor: query blocks of M = 128 rows, one after the other.

    Three warpgroups work at a time. The producer takes the next query block from a counter, writes a ticket for it and
    gathers tiles of TILE rows of keys and of values, whatever level and block they come from, into rings of STAGES_K
    and STAGES_V places: whole blocks of level 1, means of blocks and the queries through the tensor memory accelerator,
    the rest row by row. Two consumers of M / 2 query rows each multiply. The producer never waits for a query block to
    end, so that the loads of the next one fill the gap that the last one leaves; a consumer issues the next tile's
    Q K^T before it turns to the softmax of this one (FlashAttention-3, arXiv:2407.08608, section 3.2).

    The order of tiles is level 1, 2, 4, 8, then the masked ones, whose columns have a mask or a bias of their own: what
    is left over of each level, the tail, the means. The producer describes these columns in shared memory.

    Between producer and consumers there are pairs of barriers, ``full`` and ``empty``: one pair a place of a ring, one
    for each of the two places of tickets and queries (see ``Shared``). Programs share the counter ``turns``, no data.

    Arguments: ``hopper_arguments``'; otherwise as ``attend_portable.attend_kernel``'s, in float16 or bfloat16.
    """
    # 1. Shared memory: 16-bit tiles in the swizzle that both the copies and the tensor cores take.
    dtype: gl.constexpr = out.dtype.element_ty
    tile: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    line: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    q_s = gl.allocate_shared_memory(dtype, [4, M // 2, D], tile)
    k_s = gl.allocate_shared_memory(dtype, [STAGES_K, TILE, D], tile)
    v_s = gl.allocate_shared_memory(dtype, [STAGES_V, TILE, D], tile)
    position_s = gl.allocate_shared_memory(gl.int32, [STAGES_K, TILE], line)
    row_s = gl.allocate_shared_memory(gl.int32, [TILE], line)
    ticket_s = gl.allocate_shared_memory(gl.int32, [2, FIELDS], line)

    # 2. Barriers, with their arrivals.
    full_k = barriers(STAGES_K, 128)  # every producer thread
    full_v = barriers(STAGES_V, 128)
    empty_k = barriers(STAGES_K, 2)  # both consumers
    empty_v = barriers(STAGES_V, 2)
    full_t = barriers(2, 1)
    empty_t = barriers(2, 2)

    # 3. The warpgroups, with their registers a thread.
    shared = Shared(
        queries=q_s, k=Ring(tiles=k_s, full=full_k, empty=empty_k), v=Ring(tiles=v_s, full=full_v, empty=empty_v),
        positions=position_s, rows=row_s, tickets=ticket_s, full=full_t, empty=empty_t,
    )  # fmt: skip
    inputs = Inputs(
        q_desc=q_desc, k_desc=k_desc, v_desc=v_desc, mean_k_desc=mean_k_desc, mean_v_desc=mean_v_desc, k=k, v=v,
        pooled_k=pooled_k, pooled_v=pooled_v, lists=lists, counts=counts, levels=levels, kv_start=kv_start, turns=turns,
    )  # fmt: skip
    sizes = Sizes(
        lq=lq, lk=lk, n_i=n_i, n_first=n_first, n_j=n_j, n_full=n_full, hkv=hkv, group=group, n_places=n_places
    )  # fmt: skip
    k_strides = Strides(batch=stride_kb, head=stride_kh, row=stride_kl)
    v_strides = Strides(batch=stride_vb, head=stride_vh, row=stride_vl)
    o_strides = Strides(batch=stride_ob, head=stride_oh, row=stride_ol)
    gl.warp_specialize(
        [
            (idle, ()),
            (consumer, (o_desc, out, kv_start, shared, o_strides, scale, 0, M, D, TILE, CAUSAL, POOLED, FLIP)),
            (consumer, (o_desc, out, kv_start, shared, o_strides, scale, 1, M, D, TILE, CAUSAL, POOLED, FLIP)),
            (producer, (inputs, shared, k_strides, v_strides, sizes, M, N, D, TILE, CAUSAL, POOLED, MEANS)),
        ],
        [4, 4, 4],
        [208, 208, 72],
    )  # fmt: skip


class Boxes(TensorDescriptor):
    """A descriptor without its own checks, which cost the host time: ``attend_fwd`` has checked the tensors."""

    def __post_init__(self) -> None:
        pass


def hopper_arguments(arguments: dict, heads: int, tile: int) -> dict:
    """``attend_fwd``'s arguments as the kernel takes them. ``*_desc``: q, k, v, the means and out as [B, H, D / 64, L,
    64], whose order in memory is in their strides, in boxes of some rows."""
    a = dict(arguments)
    batch, dim = a["out"].shape[0], a["D"]

    def boxes(x, name: str, head_count: int, length: int, rows: int, columns: int):
        b, h, row = (a[f"stride_{name}{axis}"] for axis in "bhl")
        shape = [batch, head_count, dim // 64, length, 64]
        return Boxes(x, shape, [b, h, 64, row, 1], [1, 1, columns // 64, rows, 64], BOX)

    def means(x):
        if x is None:
            return None
        shape = [batch, a["hkv"], dim // 64, a["n_full"], 64]
        strides = [a["hkv"] * a["n_full"] * dim, a["n_full"] * dim, 64, dim, 1]
        return Boxes(x, shape, strides, [1, 1, dim // 64, tile, 64], BOX)

    a["o_desc"] = boxes(a["out"], "o", heads, a["lq"], a["M"] // 2, dim)
    a["q_desc"] = boxes(a.pop("q"), "q", heads, a["lq"], a["M"] // 2, dim)
    a["k_desc"], a["v_desc"] = (boxes(a[x], x, a["hkv"], a["lk"], a["N"], 64) for x in "kv")
    a["mean_k_desc"], a["mean_v_desc"] = means(a.pop("mean_k")), means(a.pop("mean_v"))
    for axis in "bhl":
        del a[f"stride_q{axis}"]
    return a
