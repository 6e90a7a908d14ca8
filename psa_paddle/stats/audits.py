"""The audit: exact attention for a few rows of a call beside what the operator gave for them.

Which rows, and what follows from them. Every row's sums stay on the device until somebody reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import GOLDEN

# Errors to warn of: on the demo model ``balanced``, which keeps its answers, stays below, and ``fast``, which loses 1.4
# points at 2k tokens, is above (benchmarks/RESULTS.md). They bound nothing: an error is not a loss.
LARGE = {"layer": 0.2, "head": 0.3}


def audited_rows(n: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``n`` query rows are audited, and how many rows each of them stands for: int64 [min(rows, n)] each.

    One row of each of ``rows`` equal parts, in part r at the fraction of (r + 1)^2 / golden ratio, which keeps step
    neither with frames nor with query blocks.
    """
    rows = min(rows, n)
    bounds = np.arange(rows + 1) * n // rows
    sizes, fractions = np.diff(bounds), np.arange(1, rows + 1) ** 2 * GOLDEN % 2**32 >> 16
    return bounds[:-1] + (sizes * fractions >> 16), sizes


@dataclass(frozen=True)
class AuditedRows:
    """What the audit of one call left on the device.

    sums: float32 [B, H, R, 2], of each audited row the sums over D of (out - exact)^2 and of exact^2; zeros where a
    sample has fewer rows. lengths: query rows of each sample.
    """

    sums: Any
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class AttentionError:
    """Relative error of attention's output over the rows of the prompt, sum |out - exact| / sum |exact| with |.| the
    length of a row's vector of a head, as the audited rows estimate it, and the standard error of that estimate.

    Lengths and not their squares: of squares, a few rows that nobody audited may hold most.
    """

    error: float
    sampling_error: float


def attention_errors(audits: list[AuditedRows]) -> tuple[AttentionError, list[AttentionError]]:
    """The error of a layer's calls over all heads, and of each head. Reads from the device."""
    samples = []  # of each sample (error, size), [H, R], in rows that they stand for, and the share of rows not audited
    for audit in audits:
        for sums, n in zip(np.asarray(audit.sums, dtype=np.float64), audit.lengths, strict=True):
            _, weights = audited_rows(n, sums.shape[1])
            error, size = np.moveaxis(np.sqrt(sums[:, : len(weights)]) * weights[:, None], -1, 0)
            samples.append((error, size, 1.0 - len(weights) / n))
    every = _estimate([(error.sum(0), size.sum(0), rest) for error, size, rest in samples])
    heads = range(len(samples[0][0]))
    return every, [_estimate([(error[h], size[h], rest) for error, size, rest in samples]) for h in heads]


def _estimate(samples) -> AttentionError:
    """A ratio estimate and its standard error, as if the rows had been drawn from the whole sample: as they are one of
    each part, that is more than it varies, rather than less."""
    wrong, total = (sum(x[i].sum() for x in samples) for i in (0, 1))
    if total == 0.0:  # nothing but zeros to compare with
        return AttentionError(float("inf") if wrong else 0.0, 0.0)
    ratio, variance = wrong / total, 0.0
    for error, size, rest in samples:
        count = max(len(error), 2)
        variance += rest * count / (count - 1) * (((error - ratio * size) / total) ** 2).sum()
    return AttentionError(float(ratio), float(variance**0.5))


def error_figures(audits: list[AuditedRows]) -> dict | None:
    """``attention_errors`` in plain types, of the heads the worst one alone; None without an audit."""
    if not audits:
        return None
    every, heads = attention_errors(audits)
    worst = max(range(len(heads)), key=lambda h: (np.isnan(heads[h].error), heads[h].error))
    return {
        "error": every.error,
        "sampling_error": every.sampling_error,
        "worst_head": worst,
        "worst_head_error": heads[worst].error,
        "worst_head_sampling_error": heads[worst].sampling_error,
    }


def error_warning(layers: dict[int, dict]) -> str:
    """One sentence about the layers (number -> ``error_figures``) whose error, or whose worst head's, lies more than a
    sampling error above ``LARGE``; empty where there are none."""
    large = [
        layer
        for layer, found in layers.items()
        if _is_large(found["error"], found["sampling_error"], LARGE["layer"])
        or _is_large(found["worst_head_error"], found["worst_head_sampling_error"], LARGE["head"])
    ]
    if not large:
        return ""
    worst = max(large, key=lambda layer: layers[layer]["error"])
    head = max(large, key=lambda layer: layers[layer]["worst_head_error"])
    return (
        f"attention's output is far from exact in {len(large)} of {len(layers)} layers: most in layer {worst} "
        f"({layers[worst]['error']:.0%}), and in head {layers[head]['worst_head']} of layer {head} "
        f"({layers[head]['worst_head_error']:.0%}); take a larger preset, compare the answer with that of dense "
        "attention, or audit more rows (--audit 256) to be surer."
    )


def _is_large(error: float, sampling_error: float, limit: float) -> bool:
    return not error - sampling_error <= limit  # NaN is large
