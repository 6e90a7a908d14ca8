"""What the layers of a plugged model did, in plain types."""

from __future__ import annotations

from ..audit import AuditedRows, error_figures, error_warning
from ..stats import CallStats


def per_layer(calls: list[tuple[int, CallStats]]) -> list[dict]:
    """One row a layer, ascending: calls, how many ran sparse, mean sparsity, why the others ran dense, and what the
    audit found (``error_figures``; None without one).

    Reads the counts from the device.
    """
    rows: dict[int, dict] = {}
    audits: dict[int, list[AuditedRows]] = {}
    for layer, call in calls:
        row = rows.setdefault(
            layer, {"layer": layer, "calls": 0, "sparse_calls": 0, "sparsity": 0.0, "dense_reasons": []}
        )
        row["calls"] += 1
        row["sparse_calls"] += call.mode == "sparse"
        row["sparsity"] += call.sparsity()
        if call.reason and call.reason not in row["dense_reasons"]:
            row["dense_reasons"].append(call.reason)
        audits.setdefault(layer, []).extend(call.audits)
    for row in rows.values():
        row["sparsity"] /= row["calls"]
        row["audit"] = error_figures(audits[row["layer"]])
    return [rows[layer] for layer in sorted(rows)]


def totals(calls: list[tuple[int, CallStats]]) -> dict:
    """Average sparsity over the layers, how many ran sparse or dense and why, per-layer rows, backend names, and one
    sentence where the audit found a large error (else empty)."""
    rows = per_layer(calls)
    sparse = sum(row["sparse_calls"] == row["calls"] for row in rows)
    reasons: dict[str, int] = {}
    for _, call in calls:
        if call.mode == "dense":
            reasons[call.reason] = reasons.get(call.reason, 0) + 1
    return {
        "average_sparsity": sum(r["sparsity"] for r in rows) / len(rows) if rows else 0.0,
        "layers_sparse": sparse,
        "layers_dense": len(rows) - sparse,
        "dense_reasons": reasons,
        "backends": sorted({call.backend for _, call in calls}),
        "audit_warning": error_warning({row["layer"]: row["audit"] for row in rows if row["audit"]}),
        "layers": rows,
    }


def audit_lines(s: dict) -> list[str]:
    """The audit of ``totals`` for a person: the error over the layers, and the warning; nothing without an audit."""
    found = [row["audit"] for row in s["layers"] if row["audit"]]
    if not found:
        return []
    mean = sum(one["error"] for one in found) / len(found)
    lines = [f"Audit       attention's output is {mean:.1%} from exact, on average over {len(found)} audited layers"]
    return lines + ([f"Warning     {s['audit_warning']}"] if s["audit_warning"] else [])


def layer_line(row: dict) -> str:
    """One of ``per_layer``'s rows for a person."""
    line, audit = f"  layer {row['layer']:>3}  {row['sparsity']:.1%}", row["audit"]
    if audit is None:
        return line
    return (
        f"{line}, error {audit['error']:.1%} +- {audit['sampling_error']:.1%}, worst head {audit['worst_head']}: "
        f"{audit['worst_head_error']:.1%} +- {audit['worst_head_sampling_error']:.1%}"
    )
