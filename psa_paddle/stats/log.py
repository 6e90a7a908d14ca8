"""Sparsity log: one JSON line a layer call and a summary, written once at the end so that no layer waits for it."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

from ..utils.files import write_text
from .calls import CallStats
from .records import CallRecord, average_sparsity, read_calls, rows_of, warning_of


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

    def summary(self, records: list[CallRecord]) -> dict:
        """What the log's JSON file says beside the records: totals, as ``records.totals`` has them, and figures of each
        layer."""
        rows = rows_of(records)
        return {
            "calls": len(records),
            "average_sparsity": round(average_sparsity(rows), 6),
            "audit_warning": warning_of(rows),
            "layers": {
                str(row["layer"]): {
                    "calls": row["calls"],
                    "sparse": row["sparse_calls"],
                    "sparsity": round(row["sparsity"], 6),
                    "audit": row["audit"],
                }
                for row in rows
            },
            "config": self.config.as_dict(),
        }

    def flush(self) -> None:
        """Write both files; a second flush rewrites them with what came since. Reads the counts from the device."""
        records = read_calls(self._calls)
        lines = "".join(json.dumps(one.as_dict()) + "\n" for one in records)
        write_text(self.log_dir / f"{self.name}.jsonl", lines)
        write_text(self.log_dir / f"{self.name}_summary.json", json.dumps(self.summary(records), indent=2) + "\n")

    def __enter__(self) -> PSALogger:
        return self

    def __exit__(self, *exc) -> None:
        self.flush()
