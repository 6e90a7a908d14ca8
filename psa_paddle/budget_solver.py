"""What a share of the work costs and buys: density of a configuration, curves of loss, shares that lose least.

NumPy alone: nothing here needs Paddle, Triton or a model. A share or density is the part of dense attention's work that
is done, counted in pairs of blocks as ``CallStats`` counts it.
"""

from __future__ import annotations

import numpy as np

from .config import AttentionConfig
from .density import head_density

EXPONENTS = (0.3, 3.0)  # of a loss curve; a steeper or flatter one is noise
LEAST_LOSS = 1e-7  # nats; below it two losses are equal
UNIFORM = 0.25  # part of a share that everybody gets: what was measured on a few samples holds only roughly elsewhere
EVERYTHING = 1e4  # a budget with which a head keeps every block
FACTORS = (1e-4, EVERYTHING)


def check_by_rank(config: AttentionConfig) -> None:
    """ValueError for levels by share of importance, whose density depends on the tensors."""
    if config.mask_mode == "energybound":
        raise ValueError("budgets need shares by rank: a configuration with mask_mode 'topk' or 'topk_sqrt'.")


def density_of(config: AttentionConfig, lengths, factor: float = 1.0) -> float:
    """Density of a head with a budget of ``factor``, averaged over prompts.

    The blocks that are forced to level 1 count as the most important ones, as the first block and the diagonal mostly
    are; where they are not, a little more is kept.

    Args:
        config: with shares by rank (``"topk"``, ``"topk_sqrt"``).
        lengths: pairs (tokens of the prompt, its last tokens that stay at level 1).

    Raises:
        ValueError: see ``check_by_rank``; no lengths.
    """
    check_by_rank(config)
    if not lengths:
        raise ValueError("give the length of at least one prompt.")
    return float(np.mean([head_density(config, tokens, text, factor) for tokens, text in lengths]))


def factor_for(config: AttentionConfig, density: float, lengths) -> float:
    """The budget with which a head of ``config`` has a density on prompts of these lengths: the nearest there is."""
    lo, hi = np.log(FACTORS)
    for _ in range(40):
        mid = (lo + hi) / 2
        lo, hi = (mid, hi) if density_of(config, lengths, float(np.exp(mid))) < density else (lo, mid)
    return float(np.exp(hi))


def least_density(config: AttentionConfig, lengths) -> float:
    """What is kept whatever the budget: the blocks that stay at level 1, and the means."""
    return density_of(config, lengths, FACTORS[0])


def scaled(config: AttentionConfig, factor: float) -> AttentionConfig:
    """The configuration with the ends of its shares multiplied, as a budget of every head would."""
    ratios, last = {}, config.intervals[-1][0]
    for level, lo, hi in config.intervals:
        ratios[level] = (min(1.0, lo * factor), 1.0 if level == last else min(1.0, hi * factor))
    return config.replace(mask_ratios=ratios)


def fit(shares, losses) -> tuple[np.ndarray, np.ndarray]:
    """``(a, b)``, [units] each, with loss = a * share ** -b closest to the losses [units, shares] in logarithms."""
    x = -np.log(np.asarray(shares, float))
    y = np.log(np.maximum(np.asarray(losses, float), LEAST_LOSS))
    centred = x - x.mean()
    slope = (y * centred).sum(-1) / max((centred**2).sum(), 1e-12)
    b = np.clip(slope, *EXPONENTS)
    return np.exp(y.mean(-1) - b * x.mean()), b


def solve(a, b, weights, target: float, least: float = 0.008, most: float = 1.0) -> np.ndarray:
    """Shares that minimise the sum of a * share ** -b, clamped to [least, most], whose mean is ``target``.

    Args:
        a, b: curves as ``fit`` gives them, [units].
        weights: heads that each unit stands for, [units]; the mean is over heads.

    Raises:
        ValueError: a target outside [least, most].
    """
    if not least <= target <= most:
        raise ValueError(f"a density of {target:.3g} is out of reach; it can be between {least:.3g} and {most:.3g}.")
    a, b, weights = (np.asarray(x, float) for x in (a, b, weights))
    worth = np.log(np.maximum(a * b, 1e-300) / weights)
    shares = lambda price: np.exp(np.clip((worth - price) / (b + 1), -700, 700)).clip(least, most)  # noqa: E731
    lo, hi = worth.min() - 100.0, worth.max() + 100.0  # at prices so low all are at most, so high at least
    for _ in range(200):
        mid = (lo + hi) / 2
        lo, hi = (mid, hi) if np.average(shares(mid), weights=weights) > target else (lo, mid)
    return shares((lo + hi) / 2)


def share_out(curves: dict, heads: int, target: float, least: float = 0.008, uniform: float = UNIFORM) -> np.ndarray:
    """Shares [layers, heads] with mean ``target`` that lose least by the measured curves.

    Args:
        curves: ``"shares"``: [points]; ``"layers"``: losses [layers][points], the whole layer sparse; ``"heads"``:
            layer -> losses [heads][head points] with one head sparse, for the layers where heads were told apart;
            ``"head_shares"``: [head points].
        heads: query heads of a layer.
        least: what is kept whatever the share.
        uniform: the part that all get alike.

    Raises:
        ValueError: a target below ``least`` or above 1.
    """
    layers = np.asarray(curves["layers"], float)
    told = {int(layer): np.asarray(x, float) for layer, x in curves.get("heads", {}).items()}
    units: list[tuple] = []  # (layer, head or all heads, a, b, heads)
    for layer in range(len(layers)):
        a, b = fit(curves["shares"], layers[layer : layer + 1])
        if layer not in told:
            units.append((layer, slice(None), a[0], b[0], heads))
            continue
        head_a, head_b = fit(curves["head_shares"], told[layer])
        # Heads that err together lose more or less than one by one: their sum is what the whole layer loses.
        scale = a[0] * target ** -b[0] / max((head_a * target**-head_b).sum(), LEAST_LOSS)
        units += [(layer, h, scale * head_a[h], head_b[h], 1) for h in range(heads)]
    a, b, weights = (np.array(x, float) for x in zip(*(u[2:] for u in units), strict=True))
    shares = solve(a, b, weights, target, least)
    found = np.zeros((len(layers), heads))
    for (layer, where, *_), share in zip(units, shares, strict=True):
        found[layer, where] = share
    return (1 - uniform) * found + uniform * target
