"""Inputs, references and tolerances that the kernel tests share, on a GPU too; Paddle only for its own tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psa_paddle import reference as ref
from psa_paddle.plan import Plan

INTERVALS = ((1, 0.0, 0.3), (2, 0.3, 0.5), (4, 0.5, 0.7), (8, 0.7, 0.9), (0, 0.9, 1.0))
CAP = {2: 0.3, 4: 0.33, 8: 0.36}  # about half of host_qkv's blocks pass each


@dataclass(frozen=True)
class Case:
    """One call; ``str`` is the test's id."""

    lq: int = 129
    lk: int = 129
    d: int = 32
    group: int = 1
    hkv: int = 1
    batch: int = 1
    m: int = 64
    n: int = 32
    causal: bool = True
    dtype: str = "float32"
    layout: str = "bhld"
    scale: float = 0.0

    def __str__(self):
        parts = [f"Lq{self.lq}-Lk{self.lk}-D{self.d}-G{self.group}-B{self.batch}-M{self.m}-N{self.n}"]
        parts += ["causal" if self.causal else "full", self.dtype, self.layout]
        return "-".join(parts + ([f"scale{self.scale:g}"] if self.scale else []))

    @property
    def factor(self) -> float:
        return self.scale or 2.0 / self.d**0.5

    def plan(self, **changes) -> Plan:
        fields = dict(scale=self.factor, causal=self.causal, query_block=self.m, key_block=self.n)
        return Plan(**{**fields, **changes})

    @property
    def n_i(self) -> int:
        return -(-self.lq // self.m)

    @property
    def n_j(self) -> int:
        return -(-self.lk // self.n)


def tensor(x: np.ndarray, layout: str = "bhld"):
    """A Paddle CPU tensor [B, H, L, D]: contiguous, a view of [B, L, H, D] or of [H, B, L, D], or a slice of longer
    rows."""
    import paddle

    if layout == "hbld":
        return paddle.to_tensor(np.ascontiguousarray(x.transpose(1, 0, 2, 3))).transpose([1, 0, 2, 3])
    if layout == "blhd":
        return paddle.to_tensor(np.ascontiguousarray(x.transpose(0, 2, 1, 3))).transpose([0, 2, 1, 3])
    if layout == "sliced":
        wide = np.full((*x.shape[:2], x.shape[2] + 3, x.shape[3] + 5), np.nan, x.dtype)
        wide[:, :, 2:-1, : x.shape[3]] = x
        return paddle.to_tensor(wide)[:, :, 2:-1, : x.shape[3]]
    return paddle.to_tensor(x)


def layouts(layout: str) -> tuple[str, str, str]:
    """Of q, k and v: "mixed" gives each strides of its own, as models do."""
    return ("bhld", "blhd", "hbld") if layout == "mixed" else (layout,) * 3


def host_qkv(case: Case, seed: int = 0):
    """NumPy q, k, v of the case's dtype; keys drift so that blocks differ in importance and similarity."""
    rng = np.random.default_rng([seed, case.lq, case.lk, case.d])
    k = rng.standard_normal((case.batch, case.hkv, case.lk, case.d))
    k += 0.7 * rng.standard_normal((case.batch, case.hkv, case.n_j, case.d)).repeat(case.n, 2)[:, :, : case.lk]
    q = rng.standard_normal((case.batch, case.hkv * case.group, case.lq, case.d))
    v = rng.standard_normal(k.shape)
    return tuple(rounded(x, case.dtype) for x in (q, k, v))


def qkv(case: Case, seed: int = 0):
    """``(paddle tensors, float64 arrays)`` of q, k, v; with the layout "mixed" each has its own."""
    host = host_qkv(case, seed)
    tensors = [tensor(x, layout) for x, layout in zip(host, layouts(case.layout), strict=True)]
    return tensors, [x.astype(np.float64) for x in host]


def random_levels(case: Case, seed: int = 0, skipped_rows: bool = True) -> np.ndarray:
    """A level map int8 [B, H, nI, nJ] that no policy would choose: any level where one may stand, tail blocks skipped
    at random, and one row that keeps nothing."""
    rng = np.random.default_rng(seed)
    valid, free = ref.block_grid(case.lq, case.lk, case.m, case.n, case.causal)
    ragged = (np.arange(case.n_j) + 1) * case.n > case.lk
    shape = (case.batch, case.hkv * case.group, case.n_i, case.n_j)
    levels = rng.choice([0, 1, 1, 2, 4, 8], shape)
    levels = np.where(free & ~ragged, levels, rng.random(shape) < 0.8)
    if skipped_rows:
        levels[0, 0, -1] = 0
    return (levels * valid).astype(np.int8)


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """x in the numbers of a dtype; NumPy lacks bfloat16, whose numbers come as float32."""
    if dtype != "bfloat16":
        return x.astype(dtype)
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)  # to nearest even


def epsilon(dtype: str) -> float:
    return 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)


def dense_low_precision(q, k, v, scale: float, causal: bool, dtype: str) -> np.ndarray:
    """Dense attention as a careful implementation does it in this dtype: fp32 sums, p and the result rounded."""
    group, (lq, lk) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    k32, v32 = (x.astype(np.float32).repeat(group, 1) for x in (k, v))
    s = q.astype(np.float32) @ k32.transpose(0, 1, 3, 2) * np.float32(scale)
    if causal:
        s = np.where(np.arange(lk)[None] <= np.arange(lq)[:, None] + lk - lq, s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    o = rounded(p, dtype).astype(np.float32) @ v32 / p.sum(-1, keepdims=True)
    return rounded(o, dtype)


def error_budget(q, k, v, scale: float, causal: bool, dtype: str) -> float:
    """2 |dense of the same dtype - ref64| + rounding, of host arrays q [B, H, Lq, D] and k, v [B, Hkv, Lk, D]."""
    exact = np.stack([ref.dense_attention(*(x[b].astype(float) for x in (q, k, v)), scale, causal)
                      for b in range(len(q))])  # fmt: skip
    rough = dense_low_precision(q, k, v, scale, causal, dtype)
    return 2 * float(np.abs(rough - exact).max()) + epsilon(dtype) * max(1.0, float(np.abs(exact).max()))


def assert_as_exact_as_dense(out, expected: np.ndarray, case: Case, seed: int = 0) -> None:
    """|out - ref64| <= 2 |dense of the same dtype - ref64| + rounding, on the same tensors."""
    budget = error_budget(*host_qkv(case, seed), case.factor, case.causal, case.dtype)
    error = np.abs(np.asarray(out).astype(float) - expected)
    assert error.max() <= budget, (
        f"error {error.max():.3g} > {budget:.3g} at {np.argwhere(error > budget)[:3].tolist()}"
    )


def stack(function, batch: int) -> np.ndarray:
    return np.stack([function(b) for b in range(batch)])
