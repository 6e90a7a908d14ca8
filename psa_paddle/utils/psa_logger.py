"""Sparsity log: one JSON line a layer call and a summary, written once at the end so that no layer waits for it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from ..stats import CallStats
from .files import write_text


def call_record(layer_idx: int, call: CallStats) -> dict:
    """One call in plain types. Reads the counts from the device."""
    return {
        "layer": layer_idx,
        "backend": call.backend,
        "mode": call.mode,
        "reason": call.reason,
        "sparsity": round(call.sparsity(), 6),
        "per_head_density": [round(d, 6) for d in call.per_head_density()],
        "lengths": [list(n) for n in call.lengths],
    }


class PSALogger:
    """Collects calls and writes ``<name>.jsonl`` and ``<name>_summary.json`` into ``log_dir`` on ``flush``.

    Args:
        log_dir: folder, made when needed.
        config: recorded in the summary, an ``AttentionConfig`` or what else has an ``as_dict``.
        session_name: file name stem; ``psa_<date>_<time>`` by default.

    Raises:
        NotADirectoryError, PermissionError: when log_dir cannot be made, at construction.
    """

    def __init__(self, log_dir, config, session_name: str | None = None):
        self.log_dir = Path(log_dir)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.name = session_name or f"psa_{datetime.now():%Y%m%d_%H%M%S_%f}"
        self._calls: list[tuple[int, CallStats]] = []

    def log(self, layer_idx: int, call: CallStats) -> None:
        """Remember a call; nothing is read from the device."""
        self._calls.append((layer_idx, call))

    def summary(self, records: list[dict]) -> dict:
        layers: dict[int, list[dict]] = {}
        for record in records:
            layers.setdefault(record["layer"], []).append(record)
        per_layer = {
            str(layer): {
                "calls": len(rows),
                "sparse": sum(r["mode"] == "sparse" for r in rows),
                "sparsity": round(sum(r["sparsity"] for r in rows) / len(rows), 6),
            }
            for layer, rows in sorted(layers.items())
        }
        mean = sum(r["sparsity"] for r in records) / len(records) if records else 0.0
        config = self.config.as_dict()
        return {"calls": len(records), "average_sparsity": round(mean, 6), "layers": per_layer, "config": config}

    def flush(self) -> None:
        """Write both files; a second flush rewrites them with what came since."""
        records = [call_record(layer, call) for layer, call in self._calls]
        lines = "".join(json.dumps(r) + "\n" for r in records)
        write_text(self.log_dir / f"{self.name}.jsonl", lines)
        write_text(self.log_dir / f"{self.name}_summary.json", json.dumps(self.summary(records), indent=2) + "\n")

    def __enter__(self) -> PSALogger:
        return self

    def __exit__(self, *exc) -> None:
        self.flush()
