"""What a call did. The counts stay where they were made; reading them is what brings them to the host."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..geometry import Geometry
from .audits import AttentionError, AuditedRows, attention_errors


@dataclass
class CallStats:
    """One call of the operator on a batch.

    mode: ``"sparse"`` or ``"dense"``; reason: why it ran dense (empty otherwise); lengths: (Lq, Lk) of each sample in
    tokens; work: arrays [samples, H, ...] of the samples that ran sparse, whose sum over all but H is the sum over
    block pairs of 1 / level, or 1 / key_block for a pair that takes part by its means; pairs: the number of valid pairs
    of each of these samples; audits: what the audit of them left on the device, if there was one.
    """

    backend: str
    mode: str
    reason: str
    lengths: tuple[tuple[int, int], ...]
    work: list[Any] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)
    audits: list[AuditedRows] = field(default_factory=list)

    def per_head_density(self) -> list[float]:
        """Share of the dense work that each head did, [H]; empty for a dense call. Reads from the device."""
        if not self.work:
            return []
        arrays = [np.asarray(w, dtype=np.float64) for w in self.work]
        work = sum(a.sum((0, *range(2, a.ndim))) for a in arrays)
        return (work / sum(self.pairs)).tolist()

    def sparsity(self) -> float:
        """Share of the dense work that was not done, 0 for a dense call. Reads from the device."""
        return share_skipped(self.per_head_density())

    def attention_errors(self) -> tuple[AttentionError, list[AttentionError]] | None:
        """The error of the output over all heads and that of each head, [H]; None without an audit. Reads from the
        device."""
        return attention_errors(self.audits) if self.audits else None


def share_skipped(per_head_density: list[float]) -> float:
    """Share of the dense work that was not done, of ``CallStats.per_head_density``."""
    return 1.0 - sum(per_head_density) / len(per_head_density) if per_head_density else 0.0


def work_of(levels: np.ndarray, geo: Geometry, block_means: bool, first: int = 0) -> np.ndarray:
    """What ``CallStats`` counts as work, float64 [B, H], of a host level map [B, H, rows, nJ] whose rows start at query
    block ``first``; ``block_means``: skipped blocks take part by their means."""
    work = np.where(levels > 0, 1.0 / np.maximum(levels, 1), 0.0)
    if block_means:
        n_means = np.array([geo.n_means(first + i) for i in range(levels.shape[2])])
        work += ((levels == 0) & (np.arange(levels.shape[3]) < n_means[:, None])) / geo.key_block
    return work.sum((2, 3))


def on_host(call: CallStats) -> CallStats:
    """The same call with its counts as NumPy arrays, work of each sample that ran sparse as [1, H]. Reads from the
    device."""
    arrays = [np.asarray(work, dtype=np.float64) for work in call.work]
    return replace(
        call,
        work=[array.sum((0, *range(2, array.ndim)))[None] for array in arrays],
        audits=[AuditedRows(np.asarray(audit.sums), audit.lengths) for audit in call.audits],
    )


def merge_heads(parts: list[CallStats]) -> CallStats:
    """One record of a call whose heads were split over ``parts``, each ``on_host``."""
    work = [np.concatenate(arrays, 1) for arrays in zip(*(part.work for part in parts), strict=True)]
    audits = [
        AuditedRows(np.concatenate([audit.sums for audit in same], 1), same[0].lengths)
        for same in zip(*(part.audits for part in parts), strict=True)
    ]
    return replace(parts[0], work=work, audits=audits)


def merge_calls(calls: list[CallStats]) -> CallStats:
    """One record for a batch whose samples ran one by one."""
    sparse = [c for c in calls if c.mode == "sparse"]
    return CallStats(
        calls[0].backend,
        "sparse" if sparse else "dense",
        "" if sparse else calls[0].reason,
        tuple(n for c in calls for n in c.lengths),
        [w for c in sparse for w in c.work],
        [n for c in sparse for n in c.pairs],
        [a for c in sparse for a in c.audits],
    )
