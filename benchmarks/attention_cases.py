"""Named settings of the operator that the benchmarks time: mixes of levels, presets, upstream's ratios."""

from psa_paddle.config import ALL_LEVEL_ONE, PRESETS, SEED_RATIOS

PRESET_FIELDS = ("mask_mode", "mask_ratios", "block_means", "importance_method", "xattn_stride", "xattn_query_stride",
                 "xattn_terms")  # fmt: skip
CASES = {
    "level1": dict(mask_mode="topk", mask_ratios=ALL_LEVEL_ONE),
    "seed": dict(mask_mode="energybound", mask_ratios=SEED_RATIOS),
    "pooling": dict(
        mask_mode="energybound",
        mask_ratios={1: (0.0, 0.3), 2: (0.3, 0.5), 4: (0.5, 0.7), 8: (0.7, 0.97), 0: (0.97, 1.0)},
    ),
    "upstream": dict(mask_mode="topk", mask_ratios={1: (0.0, 0.1), 2: (0.1, 0.15), 8: (0.15, 0.35), 0: (0.35, 1.0)}),
    **{p: {name: PRESETS[p][name] for name in PRESET_FIELDS} for p in ("quality", "balanced", "fast")},
}


def mixed_ratios(density: float, flat: bool) -> dict:
    """Shares of the blocks so that about ``density`` of the dense work remains, 3/5 of it at level 1."""
    if flat:
        return {1: (0.0, density), 0: (density, 1.0)}
    bounds = [0.0]
    for share in (0.6, 0.2 * 2, 0.1 * 4, 0.1 * 8):
        bounds.append(min(1.0, bounds[-1] + share * density))
    ratios = {level: (bounds[i], bounds[i + 1]) for i, level in enumerate((1, 2, 4, 8))}
    return {**ratios, 0: (bounds[4], 1.0)}


def by_density(density: float, flat: bool = False) -> dict:
    """Fields of ``AttentionConfig`` for ``mixed_ratios``."""
    return dict(mask_mode="topk", mask_ratios=mixed_ratios(density, flat))
