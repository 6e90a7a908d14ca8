"""What calls did. Layers collect ``CallStats``, whose counts stay on the device; ``read_calls`` makes records of them.
Totals, text, JSON and the log are made of records alone. Needs no Paddle."""

from .audits import AttentionError, AuditedRows, attention_errors, audited_rows, error_figures, error_warning
from .calls import CallStats, merge_calls, merge_heads, on_host, work_of
from .log import PSALogger
from .records import CallRecord, per_layer, read_calls, totals
from .text import format_stats, format_step

__all__ = [
    "AttentionError", "AuditedRows", "CallRecord", "CallStats", "PSALogger", "attention_errors", "audited_rows",
    "error_figures", "error_warning", "format_stats", "format_step", "merge_calls", "merge_heads", "on_host",
    "per_layer", "read_calls", "totals", "work_of",
]  # fmt: skip
