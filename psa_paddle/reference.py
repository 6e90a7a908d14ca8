"""Every step of Pyramid Sparse Attention in NumPy float64: slow, obvious, and what "correct" means. Tests only.

All functions take one sample: q [H, Lq, D], k and v [Hkv, Lk, D]. A left-padded batch is a list of samples, each cut
to its own tokens. ``offset = Lk - Lq``: query i sits at key position i + offset. Query head h reads kv head h // G.

Source: PSA (arXiv:2512.04025); the antidiagonal importance is XAttention's (arXiv:2503.16428).
"""

from __future__ import annotations

import numpy as np

from .config import GOLDEN, POOLED_LEVELS, SAMPLE_STEP, SQRT_KEYS
from .plan import Plan


def blocks(length: int, size: int) -> int:
    """Number of blocks of ``size`` tokens that cover ``length``."""
    return -(-length // size)


def block_grid(lq: int, lk: int, query_block: int, key_block: int, causal: bool):
    """Return ``(valid, free)``, bool [nI, nJ].

    valid: some query of block I may see some key of block J.
    free: the pair may be pooled or skipped (causal: wholly before the query block's first row).
    """
    n_i, n_j, offset = blocks(lq, query_block), blocks(lk, key_block), lk - lq
    valid = np.ones((n_i, n_j), bool)
    free = np.ones((n_i, n_j), bool)
    if causal:
        for i in range(n_i):
            first = i * query_block + offset
            last = min((i + 1) * query_block, lq) - 1 + offset
            for j in range(n_j):
                valid[i, j] = j * key_block <= last
                free[i, j] = (j + 1) * key_block <= first
    return valid, free & valid


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis; a row of -inf gives zeros."""
    top = x.max(-1, keepdims=True)
    e = np.exp(x - np.where(np.isneginf(top), 0.0, top))
    return e / np.maximum(e.sum(-1, keepdims=True), np.finfo(float).tiny)


def dense_attention(q, k, v, scale: float, causal: bool):
    """softmax(scale q k^T) v with bottom-right causal alignment; [H, Lq, D]."""
    h, lq, _ = q.shape
    group, lk = h // k.shape[0], k.shape[1]
    logits = scale * np.einsum("hqd,hkd->hqk", q, np.repeat(k, group, 0))
    if causal:
        seen = np.arange(lk)[None] <= np.arange(lq)[:, None] + lk - lq
        logits = np.where(seen, logits, -np.inf)
    return np.einsum("hqk,hkd->hqd", softmax(logits), np.repeat(v, group, 0))


def places(groups, size: int, terms: int):
    """Which ``terms`` tokens of each group of ``size`` are taken, [groups, terms]: the middles of equal parts, rotated
    by ``size`` times the fraction of g^2 / golden ratio in group g. Squares, as multiples keep step with some widths of
    a picture's rows. Where all are taken nothing is rotated.
    """
    t = np.arange(terms) * (size // terms) + size // terms // 2
    rotation = [int(g) ** 2 * GOLDEN % 2**32 * size // 2**32 if terms < size else 0 for g in groups]
    return (t + np.array(rotation)[:, None]) % size


def xattn_importance(q, k, scale: float, causal: bool, query_block: int, key_block: int, strides, terms: int):
    """Antidiagonal importance, [H, nI, nJ]; tokens past the end count as zero vectors.

    Queries come in groups a of r tokens and keys in groups b of s, ``strides`` = (r, s): S[a, b] = scale / n * sum_t
    q[a r + r - 1 - x(a, t)] . k[b s + y(b, t)] over n = ``terms`` places x and y in the groups (see ``places``),
    softmax over the groups b that some token of group a may see, summed over the groups of each block pair. With
    r = s = n that is XAttention's antidiagonal sum.
    """
    p = softmax(group_logits(q, k, scale, causal, strides, terms, False))
    rows = np.add.reduceat(p, np.arange(0, p.shape[1], query_block // strides[0]), axis=1)
    return np.add.reduceat(rows, np.arange(0, p.shape[2], key_block // strides[1]), axis=2)


def peak_importance(q, k, scale: float, causal: bool, query_block: int, key_block: int, strides):
    """Importance by peaks, [H, nI, nJ]: one token of each group, as ``xattn_importance`` with one term, but the last
    one of a last group that ends before its place; of a key block only the largest logit counts, softmax over the
    blocks, summed over the groups of queries of a block."""
    logits = group_logits(q, k, scale, causal, strides, 1, True)
    p = softmax(np.maximum.reduceat(logits, np.arange(0, logits.shape[2], key_block // strides[1]), axis=2))
    return np.add.reduceat(p, np.arange(0, p.shape[1], query_block // strides[0]), axis=1)


def group_logits(q, k, scale: float, causal: bool, strides, terms: int, last_past_end: bool):
    """S of ``xattn_importance``, [H, groups of queries, groups of keys]; -inf where no token of the one may see the
    other. Places past the end hold zeros, which add nothing to a sum, or the last token."""
    h, lq, d = q.shape
    group, lk, (r, s) = h // k.shape[0], k.shape[1], strides
    n_a, n_b, offset = blocks(lq, r), blocks(lk, s), lk - lq
    qg = np.repeat(q[:, -1:] * last_past_end, n_a * r, 1)
    kg = np.repeat(k[:, -1:] * last_past_end, n_b * s, 1)
    qg[:, :lq], kg[:, :lk] = q, k
    a, b = np.arange(n_a), np.arange(n_b)
    x = places(a + offset // r if causal else a, r, terms)  # a chunk takes the places that it has in the whole
    qg = qg[:, a[:, None] * r + r - 1 - x].reshape(h, n_a, terms * d)
    kg = np.repeat(kg[:, b[:, None] * s + places(b, s, terms)].reshape(-1, n_b, terms * d), group, 0)
    logits = scale / terms * np.einsum("had,hbd->hab", qg, kg)
    if causal:
        last = np.minimum(a * r + r - 1, lq - 1) + offset
        logits = np.where(b[None] * s <= last[:, None], logits, -np.inf)
    return logits


def pooling_importance(q, k, scale: float, causal: bool, query_block: int, key_block: int):
    """Sampled importance, [H, nI, nJ]: tokens 0, 4, 8, ... attend to tokens 0, 4, 8, ...; the pair's maximum
    probability, normalised over J."""
    h, lq, _ = q.shape
    group, lk, step = h // k.shape[0], k.shape[1], SAMPLE_STEP
    rows, cols = np.arange(0, lq, step), np.arange(0, lk, step)
    logits = scale * np.einsum("had,hbd->hab", q[:, rows], np.repeat(k[:, cols], group, 0))
    if causal:
        logits = np.where(cols[None] <= rows[:, None] + lk - lq, logits, -np.inf)
    p = softmax(logits)
    p = np.maximum.reduceat(p, np.arange(0, len(rows), query_block // step), axis=1)
    p = np.maximum.reduceat(p, np.arange(0, len(cols), key_block // step), axis=2)
    return p / np.maximum(p.sum(-1, keepdims=True), np.finfo(float).tiny)


def key_similarity_cap(k, key_block: int, thresholds: dict):
    """Largest level each key block allows, int [Hkv, nJ]: 8, 4 or 2 whose mean cosine exceeds its threshold, else 1.

    The cosines are between the first and the last token of every run of p keys. A ragged block gives 1.
    """
    hkv, lk, _ = k.shape
    cap = np.ones((hkv, blocks(lk, key_block)), int)
    unit = k / np.maximum(np.linalg.norm(k, axis=-1, keepdims=True), 1e-12)
    for head in range(hkv):
        for j in range(lk // key_block):
            x = unit[head, j * key_block : (j + 1) * key_block]
            for p in POOLED_LEVELS:
                if (x[0::p] * x[p - 1 :: p]).sum(-1).mean() > thresholds[p]:
                    cap[head, j] = p
    return cap


def select_levels(importance, cap, plan: Plan, lq: int, lk: int):
    """Level map, int [H, nI, nJ]; invalid pairs are 0.

    A row's valid blocks are sorted by importance, descending and stable. ``topk``: rank / n picks the interval;
    ``topk_sqrt``: rank / n does, with every end times sqrt(8192 / (n key_block)); ``energybound``: the share of
    importance before the block does. By rank, every end is multiplied by its head's factor in ``budgets``. Then the
    similarity cap, then the forced level 1.
    """
    h, n_i, n_j = importance.shape
    query_block, key_block, text, mode = plan.query_block, plan.key_block, plan.forced_text, plan.mask_mode
    intervals, budgets = plan.intervals, plan.budgets
    valid, free = block_grid(lq, lk, query_block, key_block, plan.causal)
    levels = np.zeros((h, n_i, n_j), int)
    for head in range(h):
        for i in range(n_i):
            js = np.flatnonzero(valid[i])
            order = js[np.argsort(-importance[head, i, js], kind="stable")]
            mass = importance[head, i, order]
            before = np.concatenate([[0.0], np.cumsum(mass)[:-1]]) / max(mass.sum(), np.finfo(float).tiny)
            n = len(order)
            f = 1.0 if budgets is None else budgets[head]
            ends = [
                hi * hi * SQRT_KEYS / key_block * (f * f) * n if mode == "topk_sqrt" else hi * f for *_, hi in intervals
            ]
            for rank, j in enumerate(order):
                x = {"topk": rank / n, "topk_sqrt": rank * rank, "energybound": before[rank]}[mode]
                level = next((intervals[c][0] for c, end in enumerate(ends[:-1]) if x < end), intervals[-1][0])
                level = min(level, cap[head // (h // cap.shape[0]), j])
                ragged = (j + 1) * key_block > lk
                asked = (j + 1) * key_block > lk - text or min((i + 1) * query_block, lq) > lq - text
                if j == 0 or not free[i, j] or (asked and text) or (ragged and level > 1):
                    level = 1
                levels[head, i, j] = level
    return levels


def near_a_bound(importance, plan: Plan, lq: int, lk: int, slack: float):
    """Pairs, bool [H, nI, nJ], where what comes before them lies within ``slack`` of an interval's bound: in lower
    precision the level on either side of it is right."""
    valid, _ = block_grid(lq, lk, plan.query_block, plan.key_block, plan.causal)
    near = np.zeros(importance.shape, bool)
    for head, i in np.ndindex(importance.shape[:2]):
        js = np.flatnonzero(valid[i])
        order = js[np.argsort(-importance[head, i, js], kind="stable")]
        mass = importance[head, i, order].astype(float)
        share = (np.cumsum(mass) - mass) / max(mass.sum(), np.finfo(float).tiny)
        before = np.arange(len(js)) / len(js) if plan.mask_mode.startswith("topk") else share
        if plan.mask_mode == "topk_sqrt":
            before *= (len(js) * plan.key_block / SQRT_KEYS) ** 0.5
        near[head, i, order] = [min(abs(x - hi) for _, _, hi in plan.intervals) < slack for x in before]
    return near


def pyramid(x, key_block: int):
    """Level -> means over runs of that many tokens, of the full blocks only."""
    full = x.shape[1] // key_block * key_block
    return {p: x[:, :full].reshape(x.shape[0], full // p, p, x.shape[2]).mean(2) for p in (1, *POOLED_LEVELS)}


def attend(q, k, v, levels, plan: Plan):
    """Attention over what ``levels`` [H, nI, nJ] keeps, [H, Lq, D]; a pooled key stands for p keys (ln p added).
    ``block_means``: a skipped block that is free and full takes part by the means of its keys and values, a pooled key
    of p = key_block."""
    h, lq, d = q.shape
    query_block, key_block, causal = plan.query_block, plan.key_block, plan.causal
    group, lk = h // k.shape[0], k.shape[1]
    offset = lk - lq
    _, free = block_grid(lq, lk, query_block, key_block, causal)
    pooled_k, pooled_v = pyramid(k, key_block), pyramid(v, key_block)
    out = np.zeros((h, lq, v.shape[-1]))
    for head in range(h):
        kv = head // group
        for i in range(levels.shape[1]):
            rows = np.arange(i * query_block, min((i + 1) * query_block, lq))
            keys, values, bias = [], [], []
            for j, level in enumerate(levels[head, i]):
                if level == 0:
                    if plan.block_means and free[i, j] and (j + 1) * key_block <= lk:
                        part = slice(j * key_block, (j + 1) * key_block)
                        keys.append(k[kv, part].mean(0, keepdims=True))
                        values.append(v[kv, part].mean(0, keepdims=True))
                        bias.append(np.full((len(rows), 1), np.log(key_block)))
                    continue
                if level == 1:
                    cols = np.arange(j * key_block, min((j + 1) * key_block, lk))
                    keys.append(k[kv, cols])
                    values.append(v[kv, cols])
                    seen = cols[None] <= rows[:, None] + offset if causal else np.ones((len(rows), len(cols)), bool)
                    bias.append(np.where(seen, 0.0, -np.inf))
                else:
                    assert free[i, j] and (j + 1) * key_block <= lk, "only full, unmasked blocks may be pooled"
                    part = slice(j * key_block // level, (j + 1) * key_block // level)
                    keys.append(pooled_k[level][kv, part])
                    values.append(pooled_v[level][kv, part])
                    bias.append(np.full((len(rows), key_block // level), np.log(level)))
            if keys:
                logits = plan.scale * q[head, rows] @ np.concatenate(keys).T + np.concatenate(bias, 1).astype(q.dtype)
                out[head, rows] = softmax(logits) @ np.concatenate(values)
    return out


def audit(q, k, v, out, rows, scale: float, causal: bool):
    """Of each of ``rows`` the sums over D of (out - exact)^2 and of exact^2, [H, len(rows), 2]."""
    exact = dense_attention(q, k, v, scale, causal)[:, rows]
    return np.stack([((out[:, rows] - exact) ** 2).sum(-1), (exact**2).sum(-1)], -1)


def sparsity(levels, lq, lk, query_block, key_block, causal, block_means: bool = False) -> float:
    """1 - mean over the valid pairs of 1 / level (level 0: 0, or 1 / key_block where the block takes part by its
    mean, see ``attend``): the share of dense work not done."""
    valid, free = block_grid(lq, lk, query_block, key_block, causal)
    full = (np.arange(valid.shape[1]) + 1) * key_block <= lk
    skipped = np.where(block_means & free & full, 1.0 / key_block, 0.0)
    work = np.where(levels > 0, 1.0 / np.maximum(levels, 1), skipped)
    return float(1.0 - work[:, valid].mean())
