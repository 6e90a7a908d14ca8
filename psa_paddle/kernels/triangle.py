"""TriangleMix's pattern in time linear in the length: sink and window for most rows, every key for the last ones.

A tile holds consecutive rows of all query heads that share a kv head, heads fastest, so that the window of a tile is
hardly wider than that of a row and no key is read once a head. The last rows split their keys over programs; their
partial softmaxes are merged in a fixed order. Sources: TriangleMix (arXiv:2507.21526), FlashAttention (2205.14135) for
the online softmax, Flash-Decoding for the split.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import bridge
from ..geometry import ceil_div
from ..triangle_pattern import Pattern
from . import tuning
from .common import LOG2E, check_inputs, check_out, next_power_of_2, stride_args
from .flat_rows import attend_run, open_tile, split_place, store_rows
from .online_softmax import load_rows, softmax_step

FULL_PROGRAMS = 1024  # programs that the last rows' keys are split over, about
MIN_CHUNK = 512  # keys of a split, at least
COMBINED_ROWS = 8  # flat rows of a program that merges partial softmaxes


@triton.jit
def _first_key(kv_start, i_b):
    start = tl.full([], 0, tl.int32)
    if kv_start is not None:
        start = tl.load(kv_start + i_b).to(tl.int32)
    return start


@triton.jit
def _triangle_band_kernel(
    q, k, v, out, kv_start,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
    stride_ob, stride_oh, stride_ol,
    scale, n_rows, offset, sink, window, n_i, hkv,
    GROUP: tl.constexpr, M: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
    FLIP: tl.constexpr,
):  # fmt: skip
    i_i, _, i_kv, i_b, i_h = split_place(n_i, 1, hkv)
    start = _first_key(kv_start, i_b)

    EVEN_D: tl.constexpr = D == BLOCK_D
    o_n, o_d = tl.arange(0, TILE), tl.arange(0, BLOCK_D)
    o_r = tl.minimum(i_i * M + tl.arange(0, M), n_rows * GROUP - 1)  # flat rows; a ragged tile repeats its last one
    i_q = o_r // GROUP + offset  # [M] positions
    b_q, p_k, p_v, m_d = open_tile(
        q, k, v, i_b, i_h, o_r, o_d, stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_vb, stride_vh,
        GROUP, D, FLIP,
    )  # fmt: skip
    b_o = tl.zeros([M, BLOCK_D], tl.float32)
    b_l = tl.zeros([M], tl.float32)
    b_m = tl.full([M], -float("inf"), tl.float32)

    first = i_i * M // GROUP + offset
    last = tl.minimum((i_i * M + M - 1) // GROUP, n_rows - 1) + offset
    low = tl.maximum(first - window, start)  # the tile's keys: [start, start + n_sink) and [low, last]
    n_sink = tl.minimum(sink + 1, low - start)
    seen = tl.maximum(last - window, low)  # keys [seen, first] are in every row's window
    sink_tiles = n_sink // TILE
    seen_tiles = tl.maximum(first + 1 - seen, 0) // TILE  # none in a tile with rows of padding, which see nothing
    for t in range(0, sink_tiles + seen_tiles):
        row = (start + t * TILE + (t >= sink_tiles).to(tl.int32) * (seen - start - sink_tiles * TILE)).to(tl.int64)
        b_k = load_rows(p_k + row * stride_kl + o_n[:, None] * stride_kl, m_d, EVEN_D)  # [TILE, BLOCK_D]
        b_v = load_rows(p_v + row * stride_vl + o_n[:, None] * stride_vl, m_d, EVEN_D)
        b_o, b_l, b_m = softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, 0.0, None, False)

    # The rest is one run for the mask: what is left of the sink, the window's ragged edge, the diagonal.
    rest_sink = n_sink - sink_tiles * TILE
    rest_edge = rest_sink + seen - low
    rest = rest_edge + last + 1 - seen - seen_tiles * TILE
    for t in range(0, rest, TILE):
        o_c = t + o_n
        shift = tl.where(o_c < rest_sink, start + sink_tiles * TILE, low - rest_sink)
        i_c = o_c + tl.where(o_c < rest_edge, shift, seen + seen_tiles * TILE - rest_edge)
        m_s = (i_c <= start + sink)[None, :] | (i_c[None, :] >= i_q[:, None] - window)
        m_s = m_s & (i_c[None, :] <= i_q[:, None])
        rows = tl.minimum(i_c, last).to(tl.int64)[:, None]  # past the run are keys that no row sees
        b_k = load_rows(p_k + rows * stride_kl, m_d, EVEN_D)  # [TILE, BLOCK_D]
        b_v = load_rows(p_v + rows * stride_vl, m_d, EVEN_D)
        b_o, b_l, b_m = softmax_step(b_o, b_l, b_m, b_q, b_k, b_v, scale, 0.0, m_s, True)

    b_o = b_o / tl.where(b_l == 0.0, 1.0, b_l)[:, None]
    p_o = out + i_b * stride_ob + i_h * GROUP * stride_oh + o_d[None, :]
    store_rows(p_o, b_o, o_r, stride_oh, stride_ol, m_d, GROUP, EVEN_D)


@triton.jit
def _triangle_full_kernel(
    q, k, v, out, part, lse, kv_start,
    stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl,
    stride_ob, stride_oh, stride_ol,
    scale, first_row, n_rows, offset, n_i, n_s, chunk, hkv,
    GROUP: tl.constexpr, M: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr,
    FLIP: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    i_i, i_s, i_kv, i_b, i_h = split_place(n_i, n_s, hkv)
    start = _first_key(kv_start, i_b)

    o_d = tl.arange(0, BLOCK_D)
    o_r = first_row * GROUP + tl.minimum(i_i * M + tl.arange(0, M), n_rows * GROUP - 1)  # as above
    i_q = o_r // GROUP + offset  # [M] positions
    b_q, p_k, p_v, m_d = open_tile(
        q, k, v, i_b, i_h, o_r, o_d, stride_qb, stride_qh, stride_ql, stride_kb, stride_kh, stride_vb, stride_vh,
        GROUP, D, FLIP,
    )  # fmt: skip
    first = i_i * M // GROUP + first_row + offset
    last = tl.minimum((i_i * M + M - 1) // GROUP, n_rows - 1) + first_row + offset
    begin = tl.maximum(i_s * chunk, start)
    end = tl.minimum((i_s + 1) * chunk, last + 1)
    b_o, b_l, b_m = attend_run(
        b_q, p_k, p_v, stride_kl, stride_vl, i_q, first, begin, end, scale, m_d, M, D, BLOCK_D, TILE
    )

    blind = b_l == 0.0  # a row that sees nothing of this chunk
    b_o = b_o / tl.where(blind, 1.0, b_l)[:, None]
    if SPLIT:
        o_p = ((i_kv * n_s + i_s) * n_i + i_i) * M + tl.arange(0, M)
        tl.store(lse + o_p, b_m + tl.log2(tl.where(blind, 1.0, b_l)))
        tl.store(part + o_p[:, None] * D + o_d[None, :], b_o, mask=m_d)
    else:
        p_o = out + i_b * stride_ob + i_h * GROUP * stride_oh + o_d[None, :]
        store_rows(p_o, b_o, o_r, stride_oh, stride_ol, m_d, GROUP, D == BLOCK_D)


@triton.jit
def _triangle_combine_kernel(
    part, lse, out, stride_ob, stride_oh, stride_ol, first_row, n_rows, n_r, n_s, n_flat, hkv,
    GROUP: tl.constexpr, R: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    i_kv = (pid // n_r).to(tl.int64)
    i_b, i_h = i_kv // hkv, i_kv % hkv
    o_t = pid % n_r * R + tl.arange(0, R)
    o_r = first_row * GROUP + o_t
    o_d = tl.arange(0, BLOCK_D)
    m_t = o_t < n_rows * GROUP
    m_o = m_t[:, None] & (o_d < D)[None, :]
    b_o = tl.zeros([R, BLOCK_D], tl.float32)
    b_l = tl.zeros([R], tl.float32)
    b_m = tl.full([R], -float("inf"), tl.float32)
    for i_s in range(0, n_s):
        o_p = (i_kv * n_s + i_s) * n_flat + o_t
        b_lse = tl.load(lse + o_p, mask=m_t, other=-float("inf"))
        b_p = tl.load(part + o_p[:, None] * D + o_d[None, :], mask=m_o, other=0.0)
        b_top = tl.maximum(b_m, b_lse)
        b_ref = tl.where(b_top == -float("inf"), 0.0, b_top)
        b_old, b_new = tl.exp2(b_m - b_ref), tl.exp2(b_lse - b_ref)
        b_o = b_o * b_old[:, None] + b_p * b_new[:, None]
        b_l = b_l * b_old + b_new
        b_m = b_top
    b_o = b_o / tl.where(b_l == 0.0, 1.0, b_l)[:, None]
    p_o = out + i_b * stride_ob + i_h * GROUP * stride_oh + o_d[None, :]
    store_rows(p_o, b_o, o_r, stride_oh, stride_ol, m_o, GROUP, False)


def split_keys(tiles: int, lk: int, tile: int) -> tuple[int, int]:
    """``(splits, keys of a split)`` of the last rows' keys, for ``tiles`` tiles of rows; it depends on shapes alone,
    so that a result does not depend on the GPU."""
    splits = max(1, min(ceil_div(FULL_PROGRAMS, tiles), ceil_div(lk, MIN_CHUNK)))
    chunk = ceil_div(ceil_div(lk, splits), tile) * tile
    return ceil_div(lk, chunk), chunk


def triangle_fwd(q, k, v, pattern: Pattern, scale: float, *, kv_start=None, out=None, heads_last: bool = False):
    """Causal attention over TriangleMix's pattern (arXiv:2507.21526), in at most three launches.

    With N keys a query at position i (the last Lq of them) sees key j <= i if ``j <= sink``, ``i - j <= window`` or
    ``N - i < last``; positions count from the sample's first key.

    Args:
        q: [B, H, Lq, D]; k, v: [B, Hkv, Lk, D]; one dtype of float32, float16, bfloat16; D in 32, 64, 80, 96, 128,
            contiguous; other strides are free. Lq <= Lk; query head h reads kv head h // (H / Hkv).
        pattern: sink, window and last, in tokens, not negative.
        scale: factor of the logits.
        kv_start: int32 [B] on the device, first key of each sample of a left-padded batch, or None. A sample is
            computed as if it came alone; rows of its padding are zeros.
        out: where to write, strides free but for the last, or None; heads_last: it is [B, Lq, H, D].

    Returns:
        ``out``, [B, H, Lq, D] or [B, Lq, H, D] in q's dtype.

    Raises:
        TypeError, ValueError: unsupported or unequal dtypes, shapes or strides, a negative number of tokens.
    """
    return bridge.repeat(_triangle, (pattern, scale, heads_last), q, k, v, kv_start, out)


def _triangle(q, k, v, kv_start, out, pattern: Pattern, scale: float, heads_last: bool):
    """``triangle_fwd``; of its tensors nothing but dtypes, shapes, strides, devices and alignment is asked for."""
    check_inputs(q=q, k=k, v=v, kv_start=kv_start, causal=True)
    (b, h, lq, d), (hkv, lk), dtype = q.shape, k.shape[1:3], bridge.dtype_name(q)
    if min(pattern.sink, pattern.window, pattern.last) < 0:
        raise ValueError(f"sink, window and last must not be negative, got {pattern}.")
    shape = [b, lq, h, d] if heads_last else [b, h, lq, d]
    if out is None:
        out = bridge.empty(shape, dtype, q)
    else:
        check_out(out, shape, q)
    strides = stride_args(q=q, k=k, v=v, o=out)
    if heads_last:
        strides["stride_oh"], strides["stride_ol"] = strides["stride_ol"], strides["stride_oh"]

    group, full = h // hkv, min(max(pattern.last - 1, 0), lq)
    shared = dict(
        q=q, k=k, v=v, out=out, kv_start=kv_start, **strides, scale=abs(scale) * LOG2E, offset=lk - lq, hkv=hkv,
        GROUP=group, D=d, BLOCK_D=next_power_of_2(d), FLIP=scale < 0.0,
    )  # fmt: skip
    itemsize = 4 if dtype == "float32" else 2
    settings = tuning.pick("triangle", d, itemsize, bridge.arch(q, _triangle_band_kernel))
    if full < lq:
        n_i = ceil_div((lq - full) * group, settings["M"])
        bridge.launch(
            _triangle_band_kernel, (n_i * b * hkv,), like=q, **shared, n_rows=lq - full, sink=min(pattern.sink, lk),
            window=min(pattern.window, lk), n_i=n_i, **settings,
        )  # fmt: skip
    if full:
        _run_full_rows(shared, settings, lq, lk, full)
    return out


def _run_full_rows(shared: dict, settings: dict, lq: int, lk: int, full: int) -> None:
    """The last ``full`` rows, which see every key: their keys split over programs, and merged where they were."""
    q, out, group, d = shared["q"], shared["out"], shared["GROUP"], shared["D"]
    batch_heads = q.shape[0] * shared["hkv"]
    n_i = ceil_div(full * group, settings["M"])
    n_s, chunk = split_keys(n_i * batch_heads, lk, settings["TILE"])
    rows, part, lse = dict(first_row=lq - full, n_rows=full), None, None
    if n_s > 1:
        part = bridge.empty([batch_heads, n_s, n_i * settings["M"], d], "float32", q)
        lse = bridge.empty([batch_heads, n_s, n_i * settings["M"]], "float32", q)
    bridge.launch(
        _triangle_full_kernel, (n_i * n_s * batch_heads,), like=q, **shared, **rows, part=part, lse=lse, n_i=n_i,
        n_s=n_s, chunk=chunk, SPLIT=n_s > 1, **settings,
    )  # fmt: skip
    if n_s > 1:
        n_r = ceil_div(full * group, COMBINED_ROWS)
        to = {name: shared[name] for name in ("stride_ob", "stride_oh", "stride_ol")}
        bridge.launch(
            _triangle_combine_kernel, (n_r * batch_heads,), like=q, part=part, lse=lse, out=out, **to, **rows, n_r=n_r,
            n_s=n_s, n_flat=n_i * settings["M"], hkv=shared["hkv"], GROUP=group, R=COMBINED_ROWS, D=d,
            BLOCK_D=shared["BLOCK_D"], num_warps=4,
        )  # fmt: skip
