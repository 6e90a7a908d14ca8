"""Sparsity log: one JSON line a layer call and a summary, written once at the end so that no layer waits for it."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

from ..audit import error_figures, error_warning
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
        "audit": error_figures(call.audits),
        "lengths": [list(n) for n in call.lengths],
    }


class PSALogger:
    """Collects calls and writes ``<name>.jsonl`` and ``<name>_summary.json`` into ``log_dir`` on ``flush``.

    Args:
        log_dir: folder, made when needed.
        config: recorded in the summary, an ``AttentionConfig`` or what else has an ``as_dict``.
        session_name: file name stem; ``psa_<date>_<time>`` by default.

    Raises:
        TypeError, ValueError: a log_dir that is no path, a session_name that is no file name. NotADirectoryError,
            PermissionError: when log_dir cannot be made. All at construction.
    """

    def __init__(self, log_dir, config, session_name: str | None = None):
        if not isinstance(log_dir, str | os.PathLike):
            raise TypeError(f"log_dir must be the path of a folder, got {log_dir!r}.")
        if session_name is not None and not isinstance(session_name, str):
            raise TypeError(f"session_name must be text, got {session_name!r}.")
        if session_name in (".", "..") or Path(session_name or "").name != (session_name or ""):
            raise ValueError(f"session_name must be a file name, got {session_name!r}.")
        self.log_dir = Path(log_dir)
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise NotADirectoryError(f"log_dir {self.log_dir} is not a folder.") from None
        self.config = config
        self.name = session_name or f"psa_{datetime.now():%Y%m%d_%H%M%S_%f}"
        self._calls: list[tuple[int, CallStats]] = []

    def log(self, layer_idx: int, call: CallStats) -> None:
        """Remember a call; nothing is read from the device."""
        self._calls.append((layer_idx, call))

    def summary(self, records: list[dict]) -> dict:
        """What the log's JSON file says beside the records: totals, and figures of each layer."""
        layers: dict[int, list[dict]] = {}
        for record in records:
            layers.setdefault(record["layer"], []).append(record)
        audits: dict[int, list] = {layer: [] for layer in layers}
        for layer, call in self._calls:
            audits[layer] += call.audits
        found = {layer: error_figures(those) for layer, those in audits.items()}
        per_layer = {
            str(layer): {
                "calls": len(rows),
                "sparse": sum(r["mode"] == "sparse" for r in rows),
                "sparsity": round(sum(r["sparsity"] for r in rows) / len(rows), 6),
                "audit": found[layer],
            }
            for layer, rows in sorted(layers.items())
        }
        mean = sum(r["sparsity"] for r in records) / len(records) if records else 0.0
        config = self.config.as_dict()
        warning = error_warning({layer: figures for layer, figures in found.items() if figures})
        return {
            "calls": len(records),
            "average_sparsity": round(mean, 6),
            "audit_warning": warning,
            "layers": per_layer,
            "config": config,
        }

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
