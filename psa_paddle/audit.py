"""The audit: exact attention for a few rows of a call beside what the operator gave for them.

Which rows, and what follows from them. Every row's sums stay on the device until somebody reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

GOLDEN = 0x9E3779B1  # 2^32 over the golden ratio


def audited_rows(n: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``n`` query rows are audited, and how many rows each of them stands for: int64 [min(rows, n)] each.

    The rows are cut into strata of equal size, the first of them into halves again and again, as the first rows of
    causal attention see few keys and their outputs are many times as large. One row of each stratum is taken, at the
    fraction of (r + 1)^2 / golden ratio in stratum r, which keeps step neither with frames nor with query blocks.
    """
    rows = min(rows, n)
    halves = min(rows // 4, (n // rows).bit_length() - 1)
    units = np.concatenate([[0], 1 << np.arange(halves), np.arange(1, rows - halves + 1) << halves])
    bounds = n * units // ((rows - halves) << halves)
    jitter = np.arange(1, rows + 1) ** 2 * GOLDEN % 2**32 >> 16
    sizes = np.diff(bounds)
    return bounds[:-1] + (sizes * jitter >> 16), sizes


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
    """Relative error of attention's output, sqrt(sum |out - exact|^2 / sum |exact|^2) over the rows of the prompt, as
    the audited rows estimate it, and the standard error of that estimate."""

    error: float
    sampling_error: float


def attention_errors(audits: list[AuditedRows]) -> tuple[AttentionError, list[AttentionError]]:
    """The error of a layer's calls over all heads, and of each head. Reads from the device."""
    samples = []  # (error, size) of each sample, [H, R], times what a row stands for; what share of the rows they are
    for audit in audits:
        for sums, n in zip(np.asarray(audit.sums, dtype=np.float64), audit.lengths, strict=True):
            _, weights = audited_rows(n, sums.shape[1])
            error, size = np.moveaxis(sums[:, : len(weights)] * weights[:, None], -1, 0)
            samples.append((error, size, len(weights) / n))
    heads = range(len(samples[0][0]))
    every = _estimate([(error.sum(0), size.sum(0), share) for error, size, share in samples])
    return every, [_estimate([(error[h], size[h], share) for error, size, share in samples]) for h in heads]


def _estimate(samples) -> AttentionError:
    """A ratio estimate; its variance by successive differences, as the rows are one of each stratum, in order."""
    total = sum(size.sum() for _, size, _ in samples)
    wrong = sum(error.sum() for error, _, _ in samples)
    if total == 0.0 or wrong == 0.0:  # exact, or nothing but zeros to compare with
        return AttentionError(0.0 if wrong == 0.0 else float("inf"), 0.0)
    ratio, variance = wrong / total, 0.0
    for error, size, share in samples:
        rest = (error - ratio * size) / total
        count = max(len(rest), 2)
        variance += (1.0 - share) * count / (count - 1) * (np.diff(rest) ** 2).sum() / 2.0
    return AttentionError(float(ratio**0.5), float(variance**0.5 / (2.0 * ratio**0.5)))
