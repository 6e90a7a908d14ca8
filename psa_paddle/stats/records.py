"""Calls as they were read from the device, and what follows from many of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .audits import AuditedRows, error_figures, error_warning
from .calls import CallStats, share_skipped


@dataclass(frozen=True)
class CallRecord:
    """One call of a layer, on the host.

    layer: its number; backend, mode, reason, lengths: as in ``CallStats``; per_head_density: share of the dense work
    that each head did, [H], empty for a dense call; audits: what the audit found, as NumPy arrays.
    """

    layer: int
    backend: str
    mode: str
    reason: str
    lengths: tuple[tuple[int, int], ...]
    per_head_density: list[float]
    audits: list[AuditedRows]

    @property
    def sparsity(self) -> float:
        """Share of the dense work that was not done, 0 for a dense call."""
        return share_skipped(self.per_head_density)

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that causal attention sees, over all samples: dense work is as many."""
        return sum(lq * lk - min(lq, lk) * (min(lq, lk) - 1) // 2 for lq, lk in self.lengths)

    def as_dict(self) -> dict:
        """A line of the log, in plain types."""
        return {
            "layer": self.layer,
            "backend": self.backend,
            "mode": self.mode,
            "reason": self.reason,
            "sparsity": round(self.sparsity, 6),
            "per_head_density": [round(d, 6) for d in self.per_head_density],
            "audit": error_figures(self.audits),
            "lengths": [list(n) for n in self.lengths],
        }


def read_calls(calls: Iterable[tuple[int, CallStats]]) -> list[CallRecord]:
    """A record of each (layer, call), in their order. Reads every count from the device, once."""
    return [
        CallRecord(
            layer,
            call.backend,
            call.mode,
            call.reason,
            call.lengths,
            call.per_head_density(),
            [AuditedRows(np.asarray(audit.sums), audit.lengths) for audit in call.audits],
        )
        for layer, call in calls
    ]


def rows_of(records: list[CallRecord]) -> list[dict]:
    """One row a layer, ascending: calls, how many ran sparse, sparsity (of the work of all calls, so that a prompt in
    chunks has that of the whole), why the others ran dense, and what the audit found (``error_figures``; None without
    one)."""
    layers: dict[int, list[CallRecord]] = {}
    for record in records:
        layers.setdefault(record.layer, []).append(record)
    return [
        {
            "layer": layer,
            "calls": len(own),
            "sparse_calls": sum(one.mode == "sparse" for one in own),
            "sparsity": sum(one.sparsity * one.pairs for one in own) / sum(one.pairs for one in own),
            "dense_reasons": list(dict.fromkeys(one.reason for one in own if one.reason)),
            "audit": error_figures([audit for one in own for audit in one.audits]),
        }
        for layer, own in sorted(layers.items())
    ]


def average_sparsity(rows: list[dict]) -> float:
    """Mean over the layers of ``rows_of``; 0 without any."""
    return sum(row["sparsity"] for row in rows) / len(rows) if rows else 0.0


def warning_of(rows: list[dict]) -> str:
    """One sentence where the audit of ``rows_of`` found a large error, else empty."""
    return error_warning({row["layer"]: row["audit"] for row in rows if row["audit"]})


def per_layer(calls: list[tuple[int, CallStats]]) -> list[dict]:
    """``rows_of`` calls. Reads the counts from the device."""
    return rows_of(read_calls(calls))


def totals(calls: list[tuple[int, CallStats]]) -> dict:
    """Average sparsity over the layers, how many ran sparse in some call or dense in all, why, rows, backends, and one
    sentence where the audit found a large error (else empty). Reads the counts from the device."""
    records = read_calls(calls)
    rows = rows_of(records)
    sparse = sum(row["sparse_calls"] > 0 for row in rows)
    reasons: dict[str, int] = {}
    for record in records:
        if record.mode == "dense":
            reasons[record.reason] = reasons.get(record.reason, 0) + 1
    return {
        "average_sparsity": average_sparsity(rows),
        "layers_sparse": sparse,
        "layers_dense": len(rows) - sparse,
        "dense_reasons": reasons,
        "backends": sorted({record.backend for record in records}),
        "audit_warning": warning_of(rows),
        "layers": rows,
    }
