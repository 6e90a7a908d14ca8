"""The triangle pattern in time and memory linear in the length: no L x L tensor. The Triton kernel on CUDA tensors,
Paddle ops on every device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from ..attention import check_kv_start, check_qkv, check_scale, pick_backend
from ..config import AttentionConfig
from ..eager.attend import MASKED
from ..stats import CallStats
from ..triangle_pattern import Pattern
from .config import check_int

ROWS = 128  # query rows of a block
COLUMNS = 2048  # keys that one product takes at most


def cut(ranges: list[tuple[int, int]], width: int):
    """The ranges in pieces of at most ``width`` columns."""
    piece, room = [], width
    for low, high in ranges:
        while low < high:
            taken = min(high - low, room)
            piece.append((low, low + taken))
            low, room = low + taken, room - taken
            if not room:
                yield piece
                piece, room = [], width
    if piece:
        yield piece


def take(x, piece: list[tuple[int, int]], axis: int):
    """The columns of a piece, copied only when it has more than one range."""
    parts = [paddle.slice(x, [axis], [low], [high]) for low, high in piece]
    return parts[0] if len(parts) == 1 else paddle.concat(parts, axis=axis)


def attend(q, k, v, pattern: Pattern, scale: float, bias=None):
    """softmax(scale q k^T + bias) v over the pattern; q.dtype [B, H, Lq, D].

    Args:
        q: [B, H, Lq, D]; k, v: [B, Hkv, Lk, D], Lq <= Lk, not checked.
        bias: None or float32 [B or 1, H or 1, Lq or 1, Lk]; a row that it leaves without keys gives zeros.
    """
    b, h, lq, d = q.shape
    kv_heads, lk = k.shape[1], k.shape[2]
    group, offset = h // kv_heads, lk - lq
    queries = (q.astype("float32") * scale).reshape([b * kv_heads, group, lq, d])
    keys, values = (x.astype("float32").flatten(0, 1) for x in (k, v))
    step = _heads_at_once(q, bias, b * kv_heads)
    parts: list[list] = [[] for _ in range(0, b * kv_heads, step)]
    masks = {}
    for start, stop, full in _row_blocks(lq, pattern.first_full(lk) - offset):
        first = start + offset
        ranges = pattern.ranges(first, stop + offset, full)
        pieces = list(cut(ranges, COLUMNS))
        # Blocks whose window has left the sink behind hide the same pairs.
        key = stop - start if len(ranges) == 2 else None
        if key is None or key not in masks:
            masks[key] = [_mask(pattern.hidden(first, stop + offset, full, piece), group, q.place) for piece in pieces]
        for part in range(len(parts)):
            heads = slice(part * step, (part + 1) * step)
            rows = queries[heads, :, start:stop].flatten(1, 2)
            block = _bias_of(bias, part, kv_heads, group, start, stop)
            out = _softmax_values(rows, keys[heads], values[heads], pieces, masks[key], block, group)
            parts[part].append(out.reshape([-1, group, stop - start, d]))
    out = paddle.concat([paddle.concat(blocks, axis=2) for blocks in parts])
    return out.reshape([b, h, lq, d]).astype(q.dtype)


def _heads_at_once(q, bias, heads: int) -> int:
    """Key heads of the batch that go together: one keeps a block in a CPU's cache, and a bias has its own heads."""
    return 1 if bias is not None or q.place.is_cpu_place() else heads


def _row_blocks(lq: int, first_full: int):
    """Blocks (start, stop, full) of query rows; no block holds both banded and full rows."""
    bound = min(max(first_full, 0), lq)
    for low, high, full in ((0, bound, False), (bound, lq, True)):
        for start in range(low, high, ROWS):
            yield start, min(start + ROWS, high), full


def _mask(hidden, group: int, place):
    """float32 [1, G * rows, columns] to add to the logits, of ``Pattern.hidden``'s result; None of None."""
    if hidden is None:
        return None
    # The full shape, not a broadcast: several times faster on a CPU.
    numbers = np.tile(np.where(hidden, np.float32(MASKED), np.float32(0.0)), (1, group, 1))
    return paddle.to_tensor(numbers, place=place)


def _bias_of(bias, x: int, kv_heads: int, group: int, start: int, stop: int):
    """The bias of key head ``x`` (counted over the batch) and of the query rows, [1, G or 1, rows or 1, Lk]."""
    if bias is None:
        return None
    b, h, lq, _ = bias.shape
    sample, head = x // kv_heads if b > 1 else 0, x % kv_heads * group if h > 1 else 0
    rows = slice(start, stop) if lq > 1 else slice(0, 1)
    return bias[sample : sample + 1, head : head + (group if h > 1 else 1), rows]


def _logits(q, keys, piece, mask, bias, group: int):
    """q keys^T over the columns of a piece, float32 [n, G * rows, columns]."""
    scores = paddle.matmul(q, take(keys, piece, 1), transpose_y=True)
    if mask is not None:
        scores = scores + mask
    if bias is not None:
        shape = scores.shape
        scores = (scores.reshape([1, group, -1, shape[2]]) + take(bias, piece, 3)).reshape(shape)
    return scores


def _softmax_values(q, keys, values, pieces, masks, bias, group: int):
    """softmax over all pieces, times the values; float32 [n, G * rows, D]."""
    if len(pieces) == 1 and bias is None:
        weights = F.softmax(_logits(q, keys, pieces[0], masks[0], None, group), axis=-1)
        return paddle.matmul(weights, take(values, pieces[0], 1))
    top: Any = None  # float32 tensors, once there is a piece
    total: Any = None
    out: Any = None
    for piece, mask in zip(pieces, masks, strict=True):
        scores = _logits(q, keys, piece, mask, bias, group)
        high = scores.max(-1, keepdim=True)
        if top is not None:
            high = paddle.maximum(top, high)
        weights = paddle.exp(scores - high)
        part, seen = paddle.matmul(weights, take(values, piece, 1)), weights.sum(-1, keepdim=True)
        if top is not None:
            shrink = paddle.exp(top - high)
            part, seen = part + out * shrink, seen + total * shrink
        top, total, out = high, seen, part
    out = out / total
    return out if bias is None else paddle.where(top > MASKED / 2, out, paddle.zeros_like(out))


def triangle_attention(
    q,
    k,
    v,
    *,
    num_sink_tokens: int,
    sliding_window_size: int,
    num_last_tokens: int,
    scale: float | None = None,
    kv_start: Sequence[int] | None = None,
    backend: str = "auto",
    heads_last: bool = False,
    return_stats: bool = False,
):
    """Causal attention over TriangleMix's pattern (arXiv:2507.21526), in time and memory linear in the length.

    Equals a softmax with ``TriangleMixMaskGenerator.get_attention_mask(use_triangle=True)``, whose rows are the last
    Lq of Lk when there are fewer queries than keys. Logits and sums are float32.

    Args:
        q: [B, H, Lq, D], float32, float16 or bfloat16; D in 32, 64, 80, 96, 128.
        k, v: [B, Hkv, Lk, D], Lq <= Lk, aligned bottom-right; query head h reads kv head h // (H / Hkv).
        num_sink_tokens, sliding_window_size, num_last_tokens: in tokens, see ``TriangleMixConfig``.
        scale: factor of the logits, 1 / sqrt(D) by default.
        kv_start: [B] ints, the first real token of each sample of a left-padded batch. Each sample is computed as if
            it came alone, its sink at its own start; the rows of its padding are zeros.
        backend: ``"auto"`` (Triton on a CUDA tensor unless gradients are wanted, eager elsewhere), ``"triton"`` or
            ``"eager"``.
        heads_last: return [B, Lq, H, D], the layout that an output projection wants.
        return_stats: also return a ``CallStats``, whose work counts pairs of tokens.

    Returns:
        [B, H, Lq, D] or [B, Lq, H, D] in q's dtype, or (that, ``CallStats``).

    Raises:
        TypeError: not Paddle tensors, unsupported or different dtypes, token counts that are not integers.
        ValueError: shapes that do not fit, more queries than keys, a negative count, a scale or kv_start that makes no
            sense, an unknown backend; ``backend="triton"`` on tensors that are not on a CUDA device, or where
            gradients are wanted, which the kernel does not have. ImportError: no Triton, or one that is too old.
    """
    config = AttentionConfig(backend=backend)
    check_qkv(q, k, v, config)
    pattern = Pattern(
        check_int("num_sink_tokens", num_sink_tokens),
        check_int("sliding_window_size", sliding_window_size),
        check_int("num_last_tokens", num_last_tokens),
    )
    scale = check_scale(scale, q.shape[3])
    starts = check_kv_start(kv_start, q.shape[0], k.shape[2])
    chosen = pick_backend(config, q, k, v)
    out = {"eager": _eager, "triton": _triton}[chosen](q, k, v, starts, pattern, scale, heads_last)
    return (out, _stats(chosen, q, k, starts, pattern)) if return_stats else out


def _stats(backend: str, q, k, starts: list[int], pattern: Pattern) -> CallStats:
    lq, lk = q.shape[2], k.shape[2]
    lengths = tuple((min(lq, lk - start), lk - start) for start in starts)
    every = Pattern(0, 0, lk + 1)
    work = np.array([[pattern.seen_pairs(*n)] * q.shape[1] for n in lengths], np.float64)
    return CallStats(backend, "sparse", "", lengths, [work], [every.seen_pairs(*n) for n in lengths])


def _triton(q, k, v, starts: list[int], pattern: Pattern, scale: float, heads_last: bool):
    from ..kernels.triangle import triangle_fwd

    q, k, v = (x if x.strides[-1] == 1 else x.contiguous() for x in (q, k, v))
    padded = paddle.to_tensor(starts, dtype="int32", place=q.place) if any(starts) else None
    return triangle_fwd(q, k, v, pattern, scale, kv_start=padded, heads_last=heads_last)


def _eager(q, k, v, starts: list[int], pattern: Pattern, scale: float, heads_last: bool):
    if len(set(starts)) == 1:
        out = _without_padding(q, k, v, starts[0], pattern, scale)
    else:
        rows = [slice(b, b + 1) for b in range(len(starts))]
        out = [_without_padding(q[b], k[b], v[b], s, pattern, scale) for b, s in zip(rows, starts, strict=True)]
        out = paddle.concat(out)
    return out.transpose([0, 2, 1, 3]) if heads_last else out


def _without_padding(q, k, v, start: int, pattern: Pattern, scale: float):
    """Samples that share one start: cut the padding off, attend, and put zeros in its place."""
    first = max(0, start - (k.shape[2] - q.shape[2]))
    blank = paddle.zeros_like(q[:, :, :first]) if first else None
    if start:
        q, k, v = q[:, :, first:], k[:, :, start:], v[:, :, start:]
    out = attend(q, k, v, pattern, scale)
    return paddle.concat([blank, out], axis=2) if first else out
