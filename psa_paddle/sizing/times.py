"""How long a prefill takes, from what was measured on an H200."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..plan import DENSE_BELOW
from .measured import FLOOR_MODEL, FLOOR_MS, FLOOR_TOKENS, HEAD_DIM, HEADS, OPERATOR, SUM_BYTES, SUM_MS, Operator
from .memory import Request
from .shapes import KNOWN, ModelShape


class Seconds(NamedTuple):
    """Seconds of a prefill: of attention, of everything else in the text model, and of what GPUs send each other.
    measured: whether lengths and shapes are those of rows; if not, they are derived from rows."""

    attention: float
    rest: float
    sums: float
    measured: bool

    @property
    def total(self) -> float:
        """Together: nothing overlaps."""
        return self.attention + self.rest + self.sums


def prefill_seconds(shape: ModelShape, request: Request, preset: str) -> Seconds:
    """Seconds of the text model's prefill on GPUs as fast as an H200; preset: a key of ``OPERATOR``.

    Attention grows with a GPU's query heads and the head dimension; between measured lengths it is read off a line in
    logarithms, past the longest its estimate grows with the square of the length, dense attention too, and attention
    over kept blocks with the power 1.5, as shares by rank do. Everything else grows with the products of the matrices
    per GPU. Each layer sums its output over the GPUs twice, by NVLink, where a ring sends 2 (N - 1) / N of it. The
    vision tower is not in it.
    """
    own = OPERATOR["dense"] if preset != "dense" and request.tokens < DENSE_BELOW["triton"] else OPERATOR[preset]
    share = shape.heads * shape.head_dim / (HEADS * HEAD_DIM) / request.gpus
    attention = shape.layers * share * operator_ms(own, request.tokens, 2.0 if own is OPERATOR["dense"] else 1.5) / 1e3
    model = KNOWN[FLOOR_MODEL]
    rest = FLOOR_MS / 1e3 * shape.matrices / model.matrices * request.tokens / FLOOR_TOKENS / request.gpus
    known = shape.matrices == model.matrices and request.gpus == 1 and request.tokens == FLOOR_TOKENS
    sent = 2 * (request.gpus - 1) / request.gpus * request.tokens * shape.hidden * request.item
    return Seconds(attention, rest, 2 * shape.layers * SUM_MS / 1e3 * sent / SUM_BYTES, known)


def operator_ms(own: Operator, tokens: int, power: float) -> float:
    """Milliseconds of a layer's attention with 28 heads; power: of the attention itself past the longest length."""
    lengths = sorted(own.by_tokens)
    last = lengths[-1]
    if tokens >= last:
        longer = tokens / last
        scale = own.by_tokens[last] / (own.estimate + own.attend)  # the parts were timed one by one
        return scale * (own.estimate * longer**2 + own.attend * longer**power)
    low = max((n for n in lengths if n <= tokens), default=lengths[0])
    high = lengths[lengths.index(low) + 1]
    (x0, y0), (x1, y1) = ((math.log(n), math.log(own.by_tokens[n])) for n in (low, high))
    return math.exp(y0 + (y1 - y0) * (math.log(tokens) - x0) / (x1 - x0))
