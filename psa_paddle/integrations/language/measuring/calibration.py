"""Measure how much the sparsity of each layer and head changes a model's answers, and share out what it may keep.

The measure is the mean Kullback-Leibler divergence, in nats, of the next-token distribution from that of dense
attention, over the rows that a user reads: those that predict the answer, which dense attention gives and which is then
appended to the prompt. Rows of vision tokens predict nothing, and the question is the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from ....budget_solver import (
    EVERYTHING,
    LEAST_LOSS,
    check_by_rank,
    density_of,
    factor_for,
    fit,
    least_density,
    scaled,
    share_out,
)
from ....budgets import Budgets
from ....config import AttentionConfig
from ....trianglemix import TriangleMixConfig
from .divergence import DivergenceMeter

MOST_OF_LOSS = 0.9  # heads are told apart in the layers that hold so much of it
MEANS_MUST_SAVE = 0.1  # part of a layer's loss that its block means must save
LOSS_STEPS = 7  # of a bisection
HIGHEST = 0.9  # density that a loss may ask for


def calibrate_budgets(
    model,
    samples: Iterable,
    config: AttentionConfig | None = None,
    *,
    density: float | None = None,
    loss: float | None = None,
    heads: bool = True,
    triangle: TriangleMixConfig | None = None,
    answer_tokens: int = 48,
    name: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Budgets:
    """Budgets for a language model that lose least on samples like the given ones.

    Every layer is made sparse alone, at a few densities, with and without block means; in the layers that hold most of
    the loss every head is. A curve a * share ** -b through the losses says what each is worth, and the shares that lose
    least in sum are mixed 3:1 with equal ones. That takes 4 forward passes a layer and 2 a head that is told apart, for
    every sample.

    Args:
        model: as for ``replace_attention``, without a plug.
        samples: what the processor returns for one prompt (batch 1, no padding), long enough to run sparse. A few of
            the length and kind that will be asked.
        config: with shares by rank (``"topk"``, ``"topk_sqrt"``); ``AttentionConfig()`` by default.
        density: the share of dense attention's work to keep, as ``density_of`` counts it; by default what ``config``
            keeps of the samples. What was kept indeed stands in ``measured``.
        loss: instead, the divergence (nats a token) to stay below: the smallest density that does is measured.
        heads: tell heads apart.
        triangle: also measure this pattern in every layer, and name the layers that lose no more with it.
        answer_tokens: the most tokens of an answer to look at.
        name: the model's name, for the file.
        progress: called with (passes done, passes in all).

    Raises:
        TypeError, ValueError: not such a model, samples, or configuration; samples that run dense; a density that is
            out of reach at their lengths; both a density and a loss, or a loss that no density reaches.
    """
    config = AttentionConfig() if config is None else config
    check_calibration(config, density, loss, answer_tokens)
    with DivergenceMeter(model, config, triangle) as meter:
        for sample in samples:
            meter.add(sample, answer_tokens)
        if not meter.samples:
            raise ValueError("give at least one sample.")
        target = density_of(config, meter.lengths) if density is None else density
        work = _Calibration(meter, config, target, triangle, heads, progress)
        work.measure()
        return work.result(name, loss)


def check_calibration(config: AttentionConfig, density=None, loss=None, answer_tokens: int = 1) -> None:
    """Refuse what ``calibrate_budgets`` cannot do whatever the model; errors as there."""
    if not isinstance(config, AttentionConfig):
        raise TypeError(f"config must be an AttentionConfig, got {type(config).__name__}.")
    check_by_rank(config)
    if len(config.intervals) < 2 or config.budgets is not None:
        raise ValueError("config must skip or pool something and have no budgets yet.")
    if density is not None and loss is not None:
        raise ValueError("give a density or a loss, not both.")
    for what, value, most in (("density", density, 1.0), ("loss", loss, np.inf)):
        if value is not None and not 0 < value < most:
            raise ValueError(f"{what} must be above 0{'' if most == np.inf else ' and below 1'}, got {value}.")
    if isinstance(answer_tokens, bool) or not isinstance(answer_tokens, int) or answer_tokens < 1:
        raise ValueError(f"answer_tokens must be an integer of at least 1, got {answer_tokens!r}.")


class _Calibration:
    """The measurements for one target, in order, and what follows from them."""

    def __init__(self, meter: DivergenceMeter, config, target: float, triangle, heads: bool, progress):
        self.meter, self.triangle, self.target = meter, triangle, target
        self.told_apart, self.progress = heads, progress
        self.layers, self.heads = meter.layers, meter.heads
        self.skips = any(level == 0 for level, _, _ in config.intervals)
        plain = config.replace(block_means=False)
        self.least = 1.001 * least_density(plain.replace(block_means=self.skips), meter.lengths)
        if not self.least < target < 1:
            raise ValueError(
                f"a density of {target:.3g} is out of reach: on these samples the first block, the diagonal and the "
                f"question alone take {self.least:.3g}; ask for more, or use longer samples."
            )
        self.config = scaled(plain, factor_for(plain, target, meter.lengths))
        low = max(target / 2, self.least + (target - self.least) / 4)
        self.shares = [low, target, min(2 * target, (1 + target) / 2)]
        self.means: list[bool] = []
        self.curves: list[list[float]] = []
        self.of_triangle: list[float] = []
        self.of_heads: dict[int, list[list[float]]] = {}
        self.done, self.passes = 0, self.layers * (3 + self.skips + (triangle is not None)) + 2

    def _loss(self, layers: dict) -> float:
        found = self.meter.loss(layers)
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, max(self.passes, self.done))
        return found

    def _layer_config(self, share: float, means: bool, head: int | None = None) -> AttentionConfig:
        config = self.config.replace(block_means=means)
        factor = factor_for(config, share, self.meter.lengths)
        alone = range(self.heads) if head is None else (head,)
        return config.replace(budgets=[factor if h in alone else EVERYTHING for h in range(self.heads)])

    def measure(self) -> None:
        """Every layer alone, then every head of the layers that matter."""
        low, mid, high = self.shares
        for layer in range(self.layers):
            losses = [self._loss({layer: self._layer_config(mid, m)}) for m in (False, True)[: 1 + self.skips]]
            means = self.skips and max(losses[1], LEAST_LOSS) < (1 - MEANS_MUST_SAVE) * max(losses[0], LEAST_LOSS)
            ends = [self._loss({layer: self._layer_config(share, means)}) for share in (low, high)]
            self.means.append(means)
            self.curves.append([ends[0], losses[means], ends[1]])
            if self.triangle is not None:
                self.of_triangle.append(self._loss({layer: self.triangle}))
        chosen = self._layers_that_matter() if self.told_apart else []
        self.passes += 2 * self.heads * len(chosen)
        for layer in chosen:
            self.of_heads[layer] = [
                [self._loss({layer: self._layer_config(share, self.means[layer], h)}) for share in (low, high)]
                for h in range(self.heads)
            ]

    def _layers_that_matter(self) -> list[int]:
        """The layers that lose most, until they hold nearly all of what all lose."""
        losses = np.array([curve[1] for curve in self.curves])
        order = np.argsort(-losses)
        held = np.cumsum(losses[order]) - losses[order]
        return sorted(order[(held < MOST_OF_LOSS * losses.sum()) & (losses[order] > LEAST_LOSS)].tolist())

    def as_curves(self) -> dict:
        """What ``share_out`` takes, and what TriangleMix lost in each layer."""
        curves = {"shares": _digits(self.shares), "layers": _digits(self.curves)}
        if self.of_heads:
            curves["head_shares"] = _digits([self.shares[0], self.shares[2]])
            curves["heads"] = {str(layer): _digits(losses) for layer, losses in self.of_heads.items()}
        if self.of_triangle:
            curves["triangle"] = _digits(self.of_triangle)
        return curves

    def budgets(self, density: float, name: str = "", target: dict | None = None) -> Budgets:
        """The shares for a density, as factors of ratios that give it where all are 1."""
        shares = share_out(self.as_curves(), self.heads, density, self.least)
        lengths = self.meter.lengths
        config = scaled(self.config, factor_for(self.config, density, lengths))
        factors = []
        for row, means in zip(shares, self.means, strict=True):
            own = config.replace(block_means=means)
            known = {share: factor_for(own, share, lengths) for share in set(row.tolist())}
            factors.append(tuple(known[share] for share in row.tolist()))
        return Budgets(
            model=name,
            config=config,
            factors=tuple(factors),
            block_means=tuple(self.means),
            triangle_layers=None if self.triangle is None else self._triangle_layers(shares),
            triangle=None if self.triangle is None else _pattern(self.triangle),
            target=target or {"density": round(density, 4)},
            curves=self.as_curves(),
        )

    def _triangle_layers(self, shares) -> tuple[int, ...]:
        """The layers that lose no more with TriangleMix than, by their curves, with their shares."""
        a, b = fit(self.shares, self.curves)
        return tuple(i for i, own in enumerate(shares.mean(1)) if self.of_triangle[i] <= a[i] * own ** -b[i])

    def _density_for(self, loss: float) -> float:
        """The smallest density whose budgets were measured to lose at most ``loss``."""
        lo, hi = np.log(self.least), np.log(HIGHEST)
        self.passes += LOSS_STEPS
        best = HIGHEST
        if self._measured(self.budgets(HIGHEST).config_of) > loss:
            raise ValueError(f"no density up to {HIGHEST} loses as little as {loss:g} nats on these samples.")
        for _ in range(LOSS_STEPS - 1):
            mid = float(np.exp((lo + hi) / 2))
            if self._measured(self.budgets(mid).config_of) <= loss:
                best, hi = mid, np.log(mid)
            else:
                lo = np.log(mid)
        return best

    def _measured(self, config_of) -> float:
        return self._loss({layer: config_of(layer) for layer in range(self.layers)})

    def result(self, name: str, loss: float | None) -> Budgets:
        """The budgets for the target density, or for the loss, with what they and equal shares were measured to do."""
        density = self.target if loss is None else self._density_for(loss)
        found = self.budgets(density, name, None if loss is None else {"loss": loss})
        measured: dict[str, list | dict] = {
            "prompts": [{"tokens": n, "at_level_1": text} for n, text in self.meter.lengths]
        }
        for what, config_of in (("uniform", lambda _: found.config), ("budgets", found.config_of)):
            measured[what] = {"loss": _digits(self._measured(config_of)), "density": round(self.meter.density, 4)}
        return replace(found, measured=measured)


def _pattern(triangle: TriangleMixConfig) -> dict:
    return {name: getattr(triangle, name) for name in ("num_sink_tokens", "sliding_window_size", "num_last_tokens")}


def _digits(x):
    """Three digits of every number in a list of lists."""
    return [_digits(y) for y in x] if isinstance(x, list) else float(f"{x:.3g}")
