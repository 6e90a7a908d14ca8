"""Every call of a launcher that the GPU tests make, on tensors of either framework."""

from __future__ import annotations

from dataclasses import dataclass

from psa_paddle import kernels
from psa_paddle.config import AttentionConfig

RATIOS = {1: (0.0, 0.3), 2: (0.3, 0.45), 4: (0.45, 0.6), 8: (0.6, 0.75), 0: (0.75, 1.0)}
FLAT = {1: (0.0, 0.4), 0: (0.4, 1.0)}
CAP = (0.75, 0.7, 0.7)
STRIDES = {"xattn": (16, 4), "peak": (8, 2), "pooling": (16, 4)}


@dataclass(frozen=True)
class Call:
    """What one call of the operator is given beside its tensors."""

    scale: float
    causal: bool
    query_block: int = 128
    key_block: int = 64
    intervals: tuple = AttentionConfig(mask_ratios=RATIOS).intervals
    mode: str = "energybound"
    method: str = "xattn"
    text_length: int = 0
    thresholds: tuple | None = CAP
    means: bool = False

    @property
    def blocks(self) -> dict:
        return dict(causal=self.causal, query_block=self.query_block, key_block=self.key_block)

    @property
    def pools(self) -> bool:
        return any(level > 1 for level, _, _ in self.intervals)

    @property
    def choice(self) -> dict:
        return dict(
            scale=self.scale, **self.blocks, intervals=self.intervals, mode=self.mode, method=self.method,
            strides=STRIDES[self.method], terms=1, text_length=self.text_length, means=self.means,
        )  # fmt: skip


def intervals_of(ratios: dict) -> tuple:
    return AttentionConfig(mask_ratios=ratios).intervals


def operator(q, k, v, call: Call, kv_start=None, out=None):
    """(out, work)"""
    return kernels.psa_fwd(q, k, v, **call.choice, thresholds=call.thresholds, kv_start=kv_start, out=out)


def pyramid(k, v, call: Call, kv_start=None):
    """(pooled keys, pooled values, cap), three times None where the call pools nothing."""
    if not call.pools:
        return None, None, None
    return kernels.pyramid_fwd(k, v, key_block=call.key_block, thresholds=call.thresholds, kv_start=kv_start)


def select(q, k, call: Call, cap=None, kv_start=None):
    """The selection with its levels and importance."""
    return kernels.select_blocks(
        q, k, **call.choice, cap=cap, kv_start=kv_start, return_levels=True, return_importance=True
    )


def attend(q, k, v, call: Call, pooled, found, out, text_length: int = 0):
    """Attention of what ``select`` found; text_length: which rows come first."""
    means = kernels.means_fwd(k, v, key_block=call.key_block) if call.means else None
    shape = dict(scale=call.scale, **call.blocks)
    return kernels.attend_fwd(q, k, v, *pooled, found, **shape, means=means, out=out, text_length=text_length)


def pooling_importance(q, k, call: Call, kv_start=None):
    return kernels.pooling_fwd(q, k, scale=call.scale, **call.blocks, kv_start=kv_start)


def triangle(q, k, v, pattern, scale: float, kv_start=None, out=None, heads_last: bool = False):
    """TriangleMix; pattern: (sink, window, last)."""
    from psa_paddle.kernels.triangle import triangle_fwd

    sink, window, last = pattern
    return triangle_fwd(
        q, k, v, scale=scale, sink=sink, window=window, last=last, kv_start=kv_start, out=out, heads_last=heads_last
    )


def audit(q, k, v, out, scale: float, causal: bool, rows: int, kv_start=None, heads_last: bool = False):
    """float32 sums [B, H, rows, 2]"""
    return kernels.audit_fwd(
        q, k, v, out, scale=scale, causal=causal, rows=rows, kv_start=kv_start, heads_last=heads_last
    )
