"""What bench_quality.py compares: which attention each layer of the model reads the prompt with. Needs no framework."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psa_paddle.config import PRESETS, SEED_RATIOS, AttentionConfig
from psa_paddle.geometry import Geometry

# TriangleMix's pattern as the paper's code has it: index of the last sink token, window, last rows.
SINK, WINDOW, LAST = 8, 512, 128
TRIANGLE_DENSE_UP_TO = 2048  # tokens; shorter prompts run dense in triangle layers, as in the product
DENSITIES = (0.03, 0.08, 0.16, 0.3)  # of the shares by rank, before what is always kept
ONE_EIGHT, PYRAMID = (1, 0, 0, 2), (2, 1, 1, 3)  # blocks at levels 1, 2, 4, 8: the ends of the pyramid, and all levels
ENERGY = (0.1, 0.2, 0.35, 0.5)  # share of importance at level 1
ENERGY_PLAIN = (0.3, 0.6, 0.8)


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    group: the curve that it belongs to; attention: ``"dense"``, ``"psa"``, ``"inclusive"`` (PSA with the seeds' rule),
    ``"trianglemix"`` (dense in the other layers) or ``"mix"`` (PSA there); config: PSA's; layers: TriangleMix's.
    """

    name: str
    group: str
    attention: str
    config: AttentionConfig | None = None
    layers: tuple[int, ...] = ()

    def of_layer(self, layer: int) -> str:
        """``"dense"``, ``"psa"``, ``"inclusive"`` or ``"trianglemix"``."""
        if layer in self.layers:
            return "trianglemix"
        return {"mix": "psa", "trianglemix": "dense"}.get(self.attention, self.attention)


DENSE = Setting("dense", "dense", "dense")


def shares(density: float, weights) -> dict:
    """Ratios by rank whose work is ``density``: blocks at levels 1, 2, 4, 8 in the proportion of ``weights``."""
    work = sum(w / level for w, level in zip(weights, (1, 2, 4, 8), strict=True))
    return ratios_of(np.cumsum(weights) * density / work)


def ratios_of(bounds) -> dict:
    """Mask ratios from where levels 1, 2, 4 and 8 end; bounds past 1 are cut."""
    ends = [0.0, *(min(1.0, float(x)) for x in bounds), 1.0]
    return {level: (ends[i], ends[i + 1]) for i, level in enumerate((1, 2, 4, 8, 0))}


def plain(end: float) -> dict:
    """Levels 1 and 0 only."""
    return {1: (0.0, end), 0: (end, 1.0)}


def psa_settings() -> list[Setting]:
    """PSA's presets, the seeds' rule, and a sweep of budgets with and without pooled levels and means; all run sparse
    at any length and otherwise as ``balanced`` does."""

    def psa(name, group, mode, ratios, means=False):
        config = AttentionConfig(mask_mode=mode, mask_ratios=ratios, block_means=means, dense_below=0)
        return Setting(name, group, "psa", config)

    seed = AttentionConfig.preset("seed", dense_below=0)
    found = [Setting("seeds' rule (share including the block)", "seeds' rule", "inclusive", seed)]
    found += [Setting(f"preset {p}", "presets", "psa", AttentionConfig.preset(p, dense_below=0)) for p in PRESETS]
    for mode, word, ratios in (
        ("topk_sqrt", "levels 1, 8, 0", lambda d: shares(d, ONE_EIGHT)),
        ("topk", "levels 1, 8, 0", lambda d: shares(d, ONE_EIGHT)),
        ("topk", "levels 1, 2, 4, 8, 0", lambda d: shares(d, PYRAMID)),
        ("topk_sqrt", "levels 1 and 0", plain),
        ("topk", "levels 1 and 0", plain),
        ("topk_sqrt", "level 1 and means", plain),
    ):
        means = "means" in word
        found += [psa(f"{mode} {d:g}, {word}", f"{mode}, {word}", mode, ratios(d), means) for d in DENSITIES]
    for b in ENERGY:
        found.append(psa(f"energybound {b:g}", "energybound", "energybound", ratios_of((b, b + 0.2, b + 0.4, 0.97))))
    for b in ENERGY_PLAIN:
        name = "energybound, levels 1 and 0"
        found.append(psa(f"energybound {b:g}, levels 1 and 0", name, "energybound", plain(b)))
    return found


def triangle_settings(order: list[int], counts=(2, 4), seed: int = 0) -> list[Setting]:
    """TriangleMix in n layers by choice: the analyser's (``order``, least dependent first), the first, random ones that
    are neither."""
    counts = tuple(n for n in counts if n < len(order))
    rng, first = np.random.default_rng(seed), sorted(order)
    random = rng.permutation(first).tolist()
    while any(set(random[:n]) in (set(order[:n]), set(first[:n])) for n in counts):
        random = rng.permutation(first).tolist()
    found = []
    for how, layers in (("analyser", order), ("first", first), ("random", random)):
        for n in counts:
            chosen = tuple(sorted(layers[:n]))
            name = f"{', '.join(map(str, chosen))} ({how})"
            found.append(Setting(f"TriangleMix in {name}", f"TriangleMix, {how}", "trianglemix", None, chosen))
            if n == counts[0]:
                config = AttentionConfig(dense_below=0)
                found.append(Setting(f"mix: TriangleMix in {name}, PSA elsewhere", "mix", "mix", config, chosen))
    return found


def inclusive_levels(importance, cap, geo: Geometry, text_length: int, ratios=SEED_RATIOS):
    """The seeds' level assignment, int8 [B, H, nI, nJ]: the share of importance *including* the block decides.

    importance: [B, H, nI, nJ]; cap: int [B, Hkv, nJ], the largest level of each key block; ratios: as ``mask_ratios``.
    """
    i, j = np.arange(geo.n_i)[:, None], np.arange(geo.n_j)
    stop = np.minimum((i + 1) * geo.query_block, geo.lq)
    valid = j * geo.key_block < stop + geo.offset
    mass = np.where(valid, np.nan_to_num(importance), -1.0)
    order = np.argsort(-mass, axis=-1, kind="stable")
    share = np.cumsum(np.take_along_axis(mass, order, -1).clip(0), -1, dtype=np.float64)
    share /= np.maximum(share[..., -1:], 1e-30)
    level = np.full(share.shape, 1, np.int8)
    for p, (low, high) in ratios.items():
        if low < high:
            level[(share > low) & (share <= high)] = p
    levels = np.empty_like(level)
    np.put_along_axis(levels, order, level, -1)
    levels = np.minimum(levels, np.repeat(cap, levels.shape[1] // cap.shape[1], 1)[:, :, None])
    ends = (j + 1) * geo.key_block
    levels = np.where(ends > geo.lk, np.minimum(levels, 1), levels)
    keep = (j == 0) | (ends > i * geo.query_block + geo.offset)
    if text_length:
        keep = keep | (ends > geo.lk - text_length) | (stop > geo.lq - text_length)
    return np.where(valid, np.where(keep, 1, levels), 0).astype(np.int8)


def triangle_density(length: int) -> float:
    """Share of the causal pairs that TriangleMix's pattern sees."""
    if length <= TRIANGLE_DENSE_UP_TO:
        return 1.0
    rows = np.arange(1, length + 1)  # keys up to each row
    seen = np.where(length - rows + 1 < LAST, rows, np.minimum(rows, SINK + WINDOW + 2))
    return float(seen.sum() / rows.sum())
