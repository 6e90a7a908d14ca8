"""Attention over the blocks that a level map keeps: gather the kept rows, one softmax, no L x L tensor."""

from __future__ import annotations

import math

import numpy as np
import paddle
import paddle.nn.functional as F

from ..config import POOLED_LEVELS
from ..geometry import Geometry, ceil_div
from ..pooled_layout import EIGHTHS, POOLED_EIGHTHS, POOLED_START

UNITS = EIGHTHS  # a block is 8 units at level 1, 8 / p at level p
MASKED = -1e30
SCORES_BUDGET = 1 << 26


class Pyramid:
    """K and V at every level as one table of units, a unit being key_block / 8 consecutive rows of one level. Level 0
    has the means of the full blocks, one row each.

    keys, values: float32 [B * Hkv * n_units, u * D]; bias: host float32 [n_units, u], ln p for pooled rows, MASKED for
    rows past the end and for the means: ``units`` opens those that take part. The last unit of each head is empty: it
    fills up the shorter lists.
    """

    def __init__(self, k, v, key_block: int):
        length = k.shape[2]
        n_j, full = -(-length // key_block), length // key_block
        self.unit, self.log_block = key_block // UNITS, math.log(key_block)
        self.base = {1: 0, 0: n_j * UNITS + full * POOLED_EIGHTHS}
        self.base.update((p, n_j * UNITS + full * start) for p, start in POOLED_START.items())
        self.empty = self.base[0] + ceil_div(full, self.unit)
        self.n_units = self.empty + 1
        self.keys, self.values = (self._table(x, key_block, n_j, full) for x in (k, v))
        bias = np.zeros((self.n_units, self.unit), np.float32)
        bias[: n_j * UNITS].reshape(-1)[length:] = MASKED
        for p in POOLED_LEVELS:
            bias[self.base[p] : self.base[p] + full * UNITS // p] = math.log(p)
        bias[self.base[0] :] = MASKED
        self.bias = bias

    def _table(self, x, key_block: int, n_j: int, full: int):
        b, h, length, d = x.shape
        x = x.astype("float32")
        level = x[:, :, : full * key_block]
        rows = [x, paddle.zeros([b, h, n_j * key_block - length, d])]
        for _ in POOLED_LEVELS:
            level = level.reshape([b, h, -1, 2, d]).mean(3)
            rows.append(level)
        rows.append(level.reshape([b, h, full, self.unit, d]).mean(3))
        rows.append(paddle.zeros([b, h, (self.n_units - self.base[0]) * self.unit - full, d]))
        rows = [r for r in rows if r.shape[2]]
        return paddle.concat(rows, axis=2).reshape([b * h * self.n_units, self.unit * d])

    def units(self, levels: np.ndarray, n_free: int, n_means: int) -> tuple[np.ndarray, np.ndarray]:
        """Unit numbers of one row and their bias [units, u]: the means, where one of the first ``n_means`` blocks is
        skipped, then the kept blocks, ascending; blocks from ``n_free`` on always take their 8 places."""
        skipped = np.flatnonzero(levels[:n_means] == 0)
        means = self.base[0] + np.arange(ceil_div(n_means, self.unit) if len(skipped) else 0)
        masked = np.flatnonzero(levels[n_free:] == 0) + n_free
        kept = np.flatnonzero(levels[:n_free])
        level = levels[kept]
        counts = UNITS // level
        starts = np.array([self.base[p] for p in level], np.int64) + kept * counts
        first = np.cumsum(counts) - counts
        free = np.repeat(starts - first, counts) + np.arange(counts.sum())
        crossing = np.arange(n_free * UNITS, len(levels) * UNITS)
        crossing[np.isin(crossing // UNITS, masked)] = self.empty
        found = np.concatenate([means, free, crossing])
        bias = self.bias[found]
        bias.reshape(-1)[skipped] = self.log_block
        return found, bias


def causal_tail(geo: Geometry, i: int):
    """float32 [rows, tail]: MASKED where a key of the crossing blocks is after the query; None when there is none."""
    start, stop = geo.rows(i)
    cols = np.arange(geo.n_free(i) * geo.key_block, geo.n_valid(i) * geo.key_block)
    if not geo.causal or not len(cols):
        return None
    hidden = cols[None] > np.arange(start, stop)[:, None] + geo.offset
    return paddle.to_tensor(np.where(hidden, MASKED, 0.0).astype(np.float32))


def softmax_values(q, keys, values, bias, tail):
    """softmax(q keys^T + bias) values; ``tail`` masks the last columns. q [g, M, D], keys and values [g, W, D]."""
    scores = paddle.matmul(q, keys, transpose_y=True)
    if bias is not None:
        scores = scores + bias
    if tail is not None:
        width = tail.shape[1]
        scores = paddle.concat([scores[..., :-width], scores[..., -width:] + tail], axis=-1)
    return paddle.matmul(F.softmax(scores, axis=-1), values)


def attend(
    q, pyramid: Pyramid, levels: np.ndarray, geo: Geometry, span: tuple[int, int], kv_heads: int, block_means: bool
) -> list:
    """Outputs of the query blocks ``span``, float32 [B, H, rows, D] each.

    q: float32 [B, H, Lq, D], already scaled; levels: host int [B, H, i1 - i0, nJ]; ``block_means``: skipped blocks
    take part by their means.
    """
    b, h, _, d = q.shape
    heads = [(x, y) for x in range(b) for y in range(h)]
    table_of = [x * kv_heads + y // (h // kv_heads) for x, y in heads]
    outputs = []
    for i in range(*span):
        start, stop = geo.rows(i)
        n_free, n_valid, n_means = geo.n_free(i), geo.n_valid(i), geo.n_means(i) if block_means else 0
        tail = causal_tail(geo, i)
        row_levels = [levels[x, y, i - span[0], :n_valid] for x, y in heads]
        lists = [pyramid.units(row, n_free, n_means) for row in row_levels]
        q_rows = q[:, :, start:stop].reshape([b * h, stop - start, d])
        parts = []
        for part in _groups_of_heads(lists, pyramid.unit * (stop - start), q.place.is_cpu_place()):
            width = max(len(lists[x][0]) for x in part)
            if width == 0:
                parts.append(paddle.zeros([len(part), stop - start, d]))
                continue
            units = np.full((len(part), width), pyramid.empty, np.int64)
            bias = np.full((len(part), width, pyramid.unit), MASKED, np.float32)
            for row, x in enumerate(part):
                first = width - len(lists[x][0])
                units[row, first:], bias[row, first:] = lists[x]
            flat = units + np.array([table_of[x] for x in part])[:, None] * pyramid.n_units
            index = paddle.to_tensor(flat.reshape(-1))
            keys = paddle.gather(pyramid.keys, index).reshape([len(part), -1, d])
            values = paddle.gather(pyramid.values, index).reshape([len(part), -1, d])
            # A one-dimensional bias takes Paddle's fast broadcast: 9 times faster on a CPU.
            bias = paddle.to_tensor(bias.reshape([-1] if len(part) == 1 else [len(part), 1, -1]))
            out = softmax_values(q_rows[part[0] : part[-1] + 1], keys, values, bias, tail)
            if not n_means:  # each of these blocks, kept or by its means, is seen by every row
                out = _zero_blind_rows(out, [row_levels[x] for x in part], geo, i)
            parts.append(out)
        outputs.append(paddle.concat(parts).reshape([b, h, stop - start, d]))
    return outputs


def _groups_of_heads(lists, numbers_per_unit: int, one_by_one: bool):
    """Consecutive heads to run together: one at a time on a CPU (no padding), as many as the budget allows else."""
    part: list[int] = []
    width = 0
    for x, (units, _) in enumerate(lists):
        width = max(width, len(units))
        if part and (one_by_one or (len(part) + 1) * width * numbers_per_unit > SCORES_BUDGET):
            yield part
            part, width = [], len(units)
        part.append(x)
    yield part


def _zero_blind_rows(out, row_levels, geo: Geometry, i: int):
    """Zero the rows that see no kept key; only a hand-made level map or an empty row has any."""
    start, stop = geo.rows(i)
    for x, levels in enumerate(row_levels):
        kept = np.flatnonzero(levels)
        first = kept[0] * geo.key_block if len(kept) else geo.lk + geo.lq
        blind = min(stop - start, first - start - geo.offset) if geo.causal or not len(kept) else 0
        if blind > 0:
            out[x, :blind] = 0.0
    return out
