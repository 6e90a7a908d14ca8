"""Every call of a launcher that the GPU tests make, on tensors of either framework."""

from __future__ import annotations

from psa_paddle import kernels
from psa_paddle.config import AttentionConfig
from psa_paddle.kernels.triangle import triangle_fwd
from psa_paddle.plan import Plan
from psa_paddle.triangle_pattern import Pattern

RATIOS = {1: (0.0, 0.3), 2: (0.3, 0.45), 4: (0.45, 0.6), 8: (0.6, 0.75), 0: (0.75, 1.0)}
FLAT = {1: (0.0, 0.4), 0: (0.4, 1.0)}
CAP = (0.75, 0.7, 0.7)
STRIDES = {"xattn": (16, 4), "peak": (8, 2), "pooling": (16, 4)}


def intervals_of(ratios: dict) -> tuple:
    return AttentionConfig(mask_ratios=ratios).intervals


MIXED = intervals_of(RATIOS)


def plan_of(scale: float, causal: bool, query_block: int = 128, key_block: int = 64, intervals: tuple = MIXED,
    method: str = "xattn", mask_mode: str = "energybound", thresholds: tuple | None = CAP, **changes,
) -> Plan:  # fmt: skip
    """Mixed levels by share of importance, with the similarity cap, unless the arguments say otherwise."""
    return Plan(
        scale, causal, query_block, key_block, intervals, mask_mode, None, method, *STRIDES[method],
        thresholds=thresholds, **changes,
    )  # fmt: skip


def operator(q, k, v, plan: Plan, kv_start=None, out=None):
    """(out, work)"""
    return kernels.psa_fwd(q, k, v, plan, kv_start=kv_start, out=out)


def pyramid(k, v, plan: Plan, kv_start=None):
    """(pooled keys, pooled values, cap), three times None where the plan pools nothing."""
    return kernels.pyramid_fwd(k, v, plan, kv_start=kv_start) if plan.pools else (None, None, None)


def select(q, k, plan: Plan, cap=None, kv_start=None):
    """The selection with its levels and importance."""
    return kernels.select_blocks(q, k, plan, cap, kv_start=kv_start, return_levels=True, return_importance=True)


def attend(q, k, v, plan: Plan, pooled, found, out):
    """Attention of what ``select`` found."""
    means = kernels.means_fwd(k, v, plan) if plan.reads_means else ()
    return kernels.attend_fwd(q, k, v, found, plan, kernels.Pooled(*pooled, *means), out=out)


def pooling_importance(q, k, plan: Plan, kv_start=None):
    return kernels.pooling_fwd(q, k, plan, kv_start=kv_start)


def triangle(q, k, v, pattern, scale: float, **tensors):
    """TriangleMix; pattern: (sink, window, last)."""
    return triangle_fwd(q, k, v, Pattern(*pattern), scale, **tensors)


def audit(q, k, v, out, scale: float, causal: bool, rows: int, kv_start=None, heads_last: bool = False):
    """float32 sums [B, H, rows, 2]"""
    plan = Plan(scale, causal, 128, 64, audit_rows=rows, heads_last=heads_last)
    return kernels.audit_fwd(q, k, v, out, plan, kv_start=kv_start)
