"""Context parallelism without communication: which rows of a prompt a rank computes, and by which plan.

The rows of a prompt are cut into 2 N chunks for N ranks, and rank r takes chunks r and 2 N - 1 - r: under a causal mask
early rows see few keys and late ones many, so that each such pair sees about as many. Free of Paddle, as ``Plan`` is.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from .config_values import integer
from .geometry import ceil_div
from .plan import Plan
from .triangle_pattern import Pattern

UNIT = 128  # rows; every query block divides it, and so do the rows that dense attention takes at a time

Span = tuple[int, int]


@lru_cache(maxsize=64, typed=True)  # 4096.0 is no length, though it equals one
def chunk_spans(length: int, ranks: int) -> tuple[Span, ...]:
    """Tokens [start, stop) of the 2 ``ranks`` chunks of a prompt of ``length`` tokens, in its order; they start at
    multiples of 128 and differ by one such block at most.

    Raises:
        TypeError: not whole numbers. ValueError: no ranks, or fewer blocks of 128 tokens than chunks.
    """
    length, ranks = integer("length", length), integer("ranks", ranks)
    if ranks < 1:
        raise ValueError("ranks must be at least 1, got 0.")
    blocks, chunks = ceil_div(length, UNIT), 2 * ranks
    if blocks < chunks:
        raise ValueError(
            f"{ranks} ranks need a prompt of more than {(chunks - 1) * UNIT} tokens ({chunks} chunks of {UNIT}), got "
            f"{length}; use fewer ranks."
        )
    bounds = [min(c * blocks // chunks * UNIT, length) for c in range(chunks + 1)]
    return tuple(zip(bounds, bounds[1:], strict=False))


def context_spans(length: int, ranks: int, rank: int) -> tuple[Span, Span]:
    """The two chunks [start, stop) of ``rank``, in the order in which its rows lie: the early one, then the late one.

    Raises:
        TypeError, ValueError: see ``chunk_spans``; a rank that is not in [0, ranks).
    """
    chunks = chunk_spans(length, ranks)
    if integer("rank", rank) >= ranks:
        raise ValueError(f"rank must lie in [0, {ranks}), got {rank}.")
    return chunks[rank], chunks[2 * ranks - 1 - rank]


@lru_cache(maxsize=256)
def chunk_plan(plan: Plan, length: int, stop: int, chunks: int) -> Plan:
    """The plan by which the rows up to ``stop``, over the keys before it, come out as in one call of ``length`` keys:
    whether it runs dense is decided by the whole, what is forced at the prompt's end ends later than the chunk, and
    each of ``chunks`` chunks audits its share of the rows."""
    return plan.replace(
        forced_text=max(0, plan.forced_text - (length - stop)),
        dense=plan.why_dense(length) or None,
        dense_below=0,
        audit_rows=ceil_div(plan.audit_rows, chunks),
    )


def chunk_pattern(pattern: Pattern, length: int, stop: int) -> Pattern:
    """TriangleMix's pattern for the rows up to ``stop`` over the keys before it, as ``chunk_plan``."""
    return replace(pattern, last=max(0, pattern.last - (length - stop)))
