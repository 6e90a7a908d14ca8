"""What one call of the operator does: a configuration with everything settled that tensors need not be seen for.

Free of Paddle and Triton, so that whoever calls the kernels can make one.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from functools import cached_property, lru_cache

from .config import (
    ALL_LEVEL_ONE,
    IMPORTANCE_METHODS,
    KEY_BLOCKS,
    MASK_MODES,
    QUERY_BLOCKS,
    SAMPLE_STEP,
    XATTN_QUERY_STRIDES,
    XATTN_STRIDES,
    AttentionConfig,
    check_mask_ratios,
    sqrt_bound,
)
from .config_values import integer, word

# Keys from which the operator beats dense attention: benchmarks/RESULTS.md shows where the curves cross.
DENSE_BELOW = {"eager": 1024, "triton": 3584}
LEVEL_ONE = check_mask_ratios(ALL_LEVEL_ONE)
MAX_INTERVALS = 5


class DenseReason(str, enum.Enum):
    """Why a call ran dense, in the words of the statistics; braces wait for figures, see ``text``."""

    SHORT = "shorter than {} keys"
    SHORT_FOR_TRIANGLE = "no more than {} keys"
    NOT_A_TRIANGLE_LAYER = "not a triangle layer"
    ASKED_FOR = "asked for"
    WARM_UP = "warm-up step"
    DECODE = "decode"
    GRADIENTS = "gradients"
    MASK = "attention mask"
    ROW_INDICES = "attn_mask_startend_row_indices"
    NOT_CAUSAL = "not causal"
    SINK = "attention sink"
    WEIGHTS = "attention weights asked for"
    DROPOUT = "attention dropout"
    SLIDING_WINDOW = "sliding window"
    HEAD_DIM = "head dimension {}"
    VALUE_DIM = "values of another width than keys"
    GRID = "{} tokens are not the latent's grid {}"
    PLAIN = "plain softmax"
    NO_TEXT = "no text tokens"
    CROSS = "cross-attention"

    def __str__(self) -> str:
        return self.value

    def text(self, *figures) -> str:
        """The words with figures in their braces."""
        return self.value.format(*figures)


@dataclass(frozen=True)
class Plan:
    """One for all calls of a configuration: hashable, checked when it is made. ``Plan.of`` makes it; by hand, what is
    left out keeps every block at level 1.

    Args:
        scale: factor of the logits.
        causal: bottom-right aligned causal attention, or bidirectional.
        query_block, key_block: M in 64, 128 and N in 32, 64, 128 tokens.
        intervals: ``((level, lo, hi), ...)``, ascending and tiling [0, 1]: ``AttentionConfig.intervals``.
        mask_mode: ``"energybound"``, ``"topk"`` or ``"topk_sqrt"``.
        budgets: by rank, a factor of the intervals' ends for each query head, or None.
        importance_method: ``"xattn"``, ``"peak"`` or ``"pooling"``.
        query_stride, key_stride, terms: of the first two; tokens of a group of queries (4, 8, 16 or 32) and of a group
            of keys (1 and 2, too), and how many of each take part.
        forced_text: last tokens whose key and query blocks stay at level 1.
        thresholds: (for 2, for 4, for 8), mean cosines above which a key block may be pooled so far; None: no cap.
        block_means: a skipped block that is full and wholly visible takes part by the means of its keys and values.
        heads_last: the output is [B, Lq, H, D], not [B, H, Lq, D].
        backend: ``"triton"`` or ``"eager"``.
        dense_below: keys below which a call runs dense.
        dense: why every call runs dense, or None.
        audit_rows: rows of each sample whose exact attention is computed, too.

    Raises:
        TypeError, ValueError: a setting that the operator does not have.
    """

    scale: float
    causal: bool
    query_block: int
    key_block: int
    intervals: tuple[tuple[int, float, float], ...] = LEVEL_ONE
    mask_mode: str = "topk"
    budgets: tuple[float, ...] | None = None
    importance_method: str = "xattn"
    query_stride: int = 16
    key_stride: int = 16
    terms: int = 1
    forced_text: int = 0
    thresholds: tuple[float, float, float] | None = None
    block_means: bool = False
    heads_last: bool = False
    backend: str = "triton"
    dense_below: int = 0
    dense: str | None = None
    audit_rows: int = 0

    def __post_init__(self) -> None:
        if self.query_block not in QUERY_BLOCKS:
            raise ValueError(f"query_block must be 64 or 128, got {self.query_block}.")
        if self.key_block not in KEY_BLOCKS:
            raise ValueError(f"key_block must be 32, 64 or 128, got {self.key_block}.")
        word("mask_mode", self.mask_mode, tuple(dict.fromkeys(MASK_MODES.values())))
        word("importance_method", self.importance_method, IMPORTANCE_METHODS)
        if not 1 <= len(self.intervals) <= MAX_INTERVALS:
            raise ValueError(f"1 to {MAX_INTERVALS} intervals are possible, got {len(self.intervals)}.")
        for name, allowed in (("query_stride", XATTN_QUERY_STRIDES), ("key_stride", XATTN_STRIDES)):
            size = integer(name, getattr(self, name), allowed)
            if self.terms < 1 or size % self.terms:
                raise ValueError(f"terms must divide both strides, got {self.terms} and {size}.")

    @classmethod
    def of(cls, config: AttentionConfig, scale: float, backend: str = "triton", **call) -> Plan:
        """The plan of a configuration; call: ``heads_last``, ``dense`` and ``audit_rows`` (of the configuration only
        where they are asked for)."""
        return _plan_of(config, scale, backend, *sorted(call.items()))

    def replace(self, **changes) -> Plan:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def why_dense(self, lk: int) -> str:
        """Why a call of ``lk`` keys runs dense; empty when it does not."""
        if self.dense is not None:
            return self.dense
        return DenseReason.SHORT.text(self.dense_below) if lk < self.dense_below else ""

    @cached_property
    def at_level_one(self) -> Plan:
        """The same with every block at level 1, which is dense attention and needs no estimate."""
        return self.replace(intervals=LEVEL_ONE)

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """The intervals' levels."""
        return tuple(int(level) for level, _, _ in self.intervals)

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """Where the intervals but the last one end; for ``topk_sqrt``, see ``sqrt_bound``."""
        ends = (float(hi) for _, _, hi in self.intervals[:-1])
        return tuple(sqrt_bound(hi, self.key_block) if self.mask_mode == "topk_sqrt" else hi for hi in ends)

    @cached_property
    def pools(self) -> bool:
        """Whether a block may be pooled."""
        return max(self.levels) > 1

    @cached_property
    def reads_means(self) -> bool:
        """Whether a block may take part by its means."""
        return self.block_means and 0 in self.levels

    @cached_property
    def strides(self) -> tuple[int, int]:
        """Tokens of a group of queries and of a group of keys that the estimate sees as one."""
        if self.importance_method == "pooling":
            return SAMPLE_STEP, SAMPLE_STEP
        return self.query_stride, self.key_stride


@lru_cache(maxsize=256)
def _plan_of(config: AttentionConfig, scale: float, backend: str, *call) -> Plan:
    thresholds = (config.sim_2x_threshold, config.sim_4x_threshold, config.sim_8x_threshold)
    return Plan(
        scale=scale,
        causal=config.causal,
        query_block=config.query_block,
        key_block=config.key_block,
        intervals=config.intervals,
        mask_mode=config.mask_mode,
        budgets=config.budgets,
        importance_method=config.importance_method,
        query_stride=config.xattn_query_stride,
        key_stride=config.xattn_stride,
        terms=config.xattn_terms,
        forced_text=config.forced_text,
        thresholds=thresholds if config.use_sim_mask else None,
        block_means=config.uses_means,
        backend=backend,
        dense_below=DENSE_BELOW[backend] if config.dense_below is None else config.dense_below,
        **dict(call),
    )
