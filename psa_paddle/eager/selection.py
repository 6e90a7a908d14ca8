"""Importance -> level map, in Paddle ops (PSA, arXiv:2512.04025, section 3.3)."""

from __future__ import annotations

import paddle

from ..config import POOLED_LEVELS
from ..geometry import Geometry
from ..plan import Plan


def key_similarity_cap(k, key_block: int, thresholds: dict):
    """Largest level each key block allows, int32 [B, Hkv, nJ]: 8, 4 or 2 whose mean cosine between the first and the
    last key of every run exceeds its threshold, else 1; a ragged last block gives 1."""
    b, h, length, d = k.shape
    full = length // key_block
    x = k[:, :, : full * key_block].astype("float32")
    x = x / paddle.norm(x, axis=-1, keepdim=True).clip(min=1e-12)
    cap = paddle.ones([b, h, full], dtype="int32")
    for p in POOLED_LEVELS:
        cosine = (x[:, :, 0::p] * x[:, :, p - 1 :: p]).sum(-1).reshape([b, h, full, -1]).mean(-1)
        cap = paddle.where(cosine > thresholds[p], paddle.full_like(cap, p), cap)
    if length % key_block:
        cap = paddle.concat([cap, paddle.ones([b, h, 1], dtype="int32")], axis=-1)
    return cap


def select_levels(importance, cap, geo: Geometry, plan: Plan, span: tuple[int, int]):
    """Level map of the query blocks ``span``, int32 [B, H, i1 - i0, nJ]; invalid pairs are 0.

    importance: float32 [B, H, i1 - i0, nJ]; cap: int32 [B, Hkv, nJ] or None. A row's valid blocks are sorted by
    importance, descending and stable; rank / n (``topk``; ``topk_sqrt`` scales the ends, see ``sqrt_bound``) or the
    share of importance before the block (``energybound``) falls into one of the plan's intervals, whose ends, by rank,
    are multiplied by each head's budget.
    """
    rows = range(*span)
    n_valid = paddle.to_tensor([geo.n_valid(i) for i in rows]).unsqueeze(-1)
    n_free = paddle.to_tensor([geo.n_free(i) for i in rows]).unsqueeze(-1)
    j = paddle.arange(geo.n_j)
    valid = j < n_valid
    mass = paddle.where(valid, importance, paddle.full_like(importance, -1.0))
    order = paddle.argsort(mass, axis=-1, descending=True, stable=True)
    mode, ends = plan.mask_mode, list(plan.bounds)
    if mode != "energybound":  # in float64, as the reference
        factors = paddle.to_tensor(plan.budgets or [1.0], dtype="float64").reshape([-1, 1, 1])
        n = n_valid.astype("float64")
    if mode == "topk_sqrt":
        before = (j * j).astype("float64").expand(mass.shape)
        ends = [hi * (factors * factors) * n for hi in ends]
    elif mode == "topk":
        before = (j.astype("float64") / n).expand(mass.shape)
        ends = [hi * factors for hi in ends]
    else:
        mass = paddle.take_along_axis(mass, order, axis=-1).clip(min=0.0)
        total = paddle.cumsum(mass, axis=-1)
        before = (total - mass) / total[..., -1:].clip(min=1e-30)
    index = sum((before >= end).astype("int32") for end in ends)
    table = paddle.to_tensor(plan.levels, dtype="int32")
    ranked = table[index] if ends else paddle.full(mass.shape, plan.levels[0], dtype="int32")
    levels = paddle.put_along_axis(paddle.zeros_like(ranked), order, ranked, axis=-1)
    if cap is not None:
        group = levels.shape[1] // cap.shape[1]
        levels = paddle.minimum(levels, cap.repeat_interleave(group, axis=1).unsqueeze(2))
    return _force(levels, geo, valid, n_free, j, plan.forced_text, rows)


def _force(levels, geo: Geometry, valid, n_free, j, forced_text: int, rows):
    """Level 1 for the first key block, crossing pairs and the last tokens; 0 or 1 for a ragged last key block."""
    ends = (j + 1) * geo.key_block
    keep = (j == 0) | (j >= n_free)
    if forced_text:
        text_rows = paddle.to_tensor([geo.rows(i)[1] > geo.lq - forced_text for i in rows]).unsqueeze(-1)
        keep = keep | (ends > geo.lk - forced_text) | text_rows
    one = paddle.ones([], dtype="int32")
    levels = paddle.where(ends > geo.lk, paddle.minimum(levels, one), levels)
    levels = paddle.where(keep, one, levels)
    return paddle.where(valid, levels, paddle.zeros([], dtype="int32"))
