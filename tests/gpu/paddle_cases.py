"""Calls of the operator that torch tensors and Paddle GPU tensors must agree on, bit for bit; no framework here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from gpu.launches import operator, plan_of, pyramid, select
from kernels.kernel_cases import INTERVALS, rounded
from shared import smooth_qkv

from psa_paddle.plan import Plan
from psa_paddle.rearrange import METHODS

LEVEL_1 = ((1, 0.0, 0.3), (0, 0.3, 1.0))


@dataclass(frozen=True)
class Case:
    """One call; ``starts``: first key of each sample of a left-padded batch."""

    dtype: str
    shape: tuple  # Lq, Lk, H, Hkv, D
    blocks: tuple = (128, 64)
    batch: int = 1
    causal: bool = True
    starts: tuple = ()
    changes: dict = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        return plan_of(self.shape[4] ** -0.5, self.causal, *self.blocks, **{"intervals": INTERVALS, **self.changes})

    @property
    def host(self) -> tuple:
        """q [B, H, Lq, D], k, v [B, Hkv, Lk, D] in the numbers of the dtype (``rounded``)."""
        return tuple(rounded(x, self.dtype) for x in smooth_qkv(*self.shape, batch=self.batch, dtype=np.float32))

    def samples(self):
        """(sample, first query, first key) of each sample."""
        lq, lk = self.shape[:2]
        for i, start in enumerate(self.starts or [0] * self.batch):
            yield i, max(0, start - (lk - lq)) if self.causal else 0, start


CASES = {
    "default blocks": Case("bfloat16", (1000, 1000, 4, 1, 128)),
    "chunk": Case("float16", (777, 1500, 4, 2, 128), changes={"forced_text": 50}),
    "two samples": Case(
        "bfloat16", (1024, 1024, 7, 1, 128), batch=2, changes={"mask_mode": "topk", "thresholds": None}
    ),
    "float32": Case("float32", (300, 300, 4, 1, 64), (64, 32)),
    "one token": Case("float32", (1, 1, 1, 1, 64), (64, 32)),
    "bidirectional": Case("bfloat16", (1000, 1000, 4, 1, 80), (64, 64), causal=False),
    "bidirectional pooling": Case("float16", (129, 700, 2, 2, 128), causal=False, changes={"method": "pooling"}),
    "pooling": Case("bfloat16", (600, 600, 7, 1, 128), changes={"method": "pooling", "mask_mode": "topk"}),
    "peaks": Case("bfloat16", (600, 600, 7, 1, 128), changes={"method": "peak"}),
    "left padding": Case(
        "bfloat16", (640, 640, 4, 1, 128), batch=3, starts=(0, 100, 333), changes={"forced_text": 20}
    ),
    "block means": Case("bfloat16", (900, 1200, 4, 1, 128), changes={"intervals": LEVEL_1, "block_means": True}),
    "left padding, means": Case(
        "bfloat16", (640, 640, 4, 1, 128), batch=2, starts=(0, 200), changes={"block_means": True}
    ),
    "left padding, chunk": Case("float16", (300, 500, 4, 2, 64), (64, 32), batch=2, starts=(250, 0)),
    "left padding, bidirectional": Case(
        "float32", (200, 300, 2, 1, 64), (64, 32), batch=2, causal=False, starts=(0, 130)
    ),
}  # fmt: skip
TINY = Case("bfloat16", (256, 256, 4, 1, 128))
ORDERS, ORDERED, GRID, TEXT = ("STA", "SemanticAware"), CASES["two samples"], (7, 11, 13), 23


def run(case: Case, q, k, v, kv_start, out):
    """(out, work, levels) on tensors of either framework; ``out`` is given full of NaN."""
    out, work = operator(q, k, v, case.plan, kv_start=kv_start, out=out)
    cap = pyramid(k, v, case.plan, kv_start=kv_start)[2]
    return out, work, select(q, k, case.plan, cap, kv_start).levels


def moved(method: str, q, k):
    """q and k in the order of the second plan (k-means twice), and q restored."""
    order = METHODS[method](GRID, TEXT, text_to_end=True)
    order.plan(q, k)
    plan = order.plan(q, k)
    return plan.permute(q), plan.permute_kv(k), plan.restore(plan.permute(q))
