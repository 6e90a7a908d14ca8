"""The operator on this device with Paddle's own tensors, against the float64 reference.

Around the kernels only ``to_tensor`` and ``numpy`` of Paddle are used: the Triton backend is checked also where
Paddle's own operations are broken.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .. import reference
from ..config import PRESETS, AttentionConfig
from ..plan import Plan
from .findings import FAILED, KERNELS, NOT_POSSIBLE, OK, Check, joined, plural, words_of
from .paddle_build import judged
from .tensors import EPS, dtypes_here, exact, on_device, on_host, smooth_qkv, stored

SECONDS = 60.0  # after which no further case is begun: a GPU's first run compiles
# A block of rows is right when its error is below this share of its norm: a few roundings of its dtype. The Triton
# kernels' float16 has a quarter of it at most, in the interpreter.
ROUNDINGS = 2.0
FLOAT32_LIMIT, TF32_LIMIT = 2e-5, 5e-3  # Paddle's own float32 products may be TF32 on a GPU
# Share of blocks of rows that may take other key blocks: their importance ties up to rounding. All heads' last rows are
# more than the first. In 16 bits the sums of several tokens' keys are rounded, too: 5 % were seen on an H200.
NEAR_TIES, ROUNDED_TIES = 0.04, 0.12
POOLED = {1: (0.0, 0.3), 2: (0.3, 0.5), 4: (0.5, 0.7), 8: (0.7, 0.9), 0: (0.9, 1.0)}
REPORT = "Put this report into an issue; until it is solved use dense attention."


@dataclass(frozen=True)
class Case:
    """A call of the operator. lengths: (Lq, Lk); heads: (H, Hkv); starts: first keys of a left-padded batch; triangle:
    (sink, window, last) in place of ``config``."""

    name: str
    config: AttentionConfig = field(default_factory=AttentionConfig)
    lengths: tuple[int, int] = (700, 700)
    heads: tuple[int, int] = (4, 2)
    starts: tuple[int, ...] = (0,)
    triangle: tuple[int, int, int] | None = None


def _preset(name: str, **changes) -> AttentionConfig:
    return AttentionConfig.preset(name, **{"text_length": 20, "dense_below": 0, **changes})


MAIN = Case("preset balanced", _preset("balanced"), (1500, 1500))
TRIANGLE = Case("TriangleMix", triangle=(4, 100, 30))
CASES = (
    MAIN,
    *(Case(f"preset {name}", _preset(name), (1500, 1500)) for name in PRESETS if name != "balanced"),
    Case("dense, every block at level 1", _preset("seed", mask_ratios={1: (0.0, 1.0)})),
    Case("pooled levels", _preset("seed", mask_ratios=POOLED), heads=(7, 1)),
    Case("bidirectional", _preset("seed", mask_ratios=POOLED, causal=False), (500, 700)),
    Case("block means", _preset("balanced", block_means=True, mask_ratios={1: (0.0, 0.1), 0: (0.1, 1.0)})),
    Case("queries after a cache", _preset("fast"), (300, 900)),
    Case("left padding", _preset("fast"), (600, 600), starts=(0, 77, 310)),
    TRIANGLE,
    Case("TriangleMix, left padding", lengths=(400, 600), starts=(0, 310), triangle=(4, 64, 20)),
)


def first_launch() -> Iterator[Check]:
    """Whether Triton can compile and launch a kernel on Paddle's tensors here."""
    import paddle

    on_gpu = paddle.get_device().startswith("gpu")
    if not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
        advice = "They run on an NVIDIA GPU, Ampere or newer; elsewhere Paddle's operations do the same work."
        yield Check(KERNELS, NOT_POSSIBLE, "no GPU", advice)
        return
    try:
        import triton

        from ..kernels import means_fwd
    except ImportError as error:
        advice = "Install triton==3.6.0; without it sparse attention runs on this GPU with backend 'eager' alone."
        yield Check(KERNELS, FAILED, words_of(error), advice)
        return
    x = stored(smooth_qkv(64, 64, 1, 1, 32)[1], "float32")
    try:
        plan = Plan(scale=1.0, causal=True, query_block=64, key_block=32)
        found = on_host(means_fwd(on_device(x), on_device(x), plan)[0])
    except Exception as error:  # a missing compiler or driver shows in many ways
        advice = "Triton needs a C compiler (gcc), Python's headers and the GPU's driver; install what is missing."
        yield Check(KERNELS, FAILED, f"the first launch fails: {words_of(error)}", advice)
        return
    _, fault = judged(found, exact(x).reshape(1, 1, 2, 32, 32).mean(3), FLOAT32_LIMIT)
    kind = "on the GPU" if on_gpu else "in Triton's interpreter"
    words = f"Triton {triton.__version__} {kind}: a first kernel {fault or 'is right'}"
    yield Check(KERNELS, FAILED if fault else OK, words, REPORT if fault else "")


def operator_checks(backends: tuple[str, ...]) -> Iterator[Check]:
    """One check a case: the preset balanced and TriangleMix in every dtype of the device, the others in the first,
    which models take here."""
    dtypes, begun = dtypes_here(), time.monotonic()
    jobs = [(case, backend, dtype) for backend in backends for dtype in dtypes for case in (MAIN, TRIANGLE)]
    jobs += [(case, backend, dtypes[0]) for backend in backends for case in CASES if case not in (MAIN, TRIANGLE)]
    for number, job in enumerate(jobs):
        if time.monotonic() - begun > SECONDS:
            names = joined([case.name for case, *_ in jobs[number:]])
            yield Check(
                "further cases",
                NOT_POSSIBLE,
                f"{SECONDS:g} s were over before {names}",
                "Run this again; compiled kernels are kept.",
            )
            return
        yield checked(*job)


def checked(case: Case, backend: str, dtype: str) -> Check:
    """Run a case and compare it with the reference."""
    name = f"{case.name} ({backend}, {dtype})"
    dim = 64 if backend == "eager" or os.environ.get("TRITON_INTERPRET") == "1" else 128
    qkv = [stored(x, dtype) for x in smooth_qkv(*case.lengths, *case.heads, dim, len(case.starts))]
    try:
        tensors = [on_device(x) for x in qkv]
        out = on_host(_run(case, tensors, backend))
    except Exception as error:  # compilers and drivers raise what they like
        return Check(name, FAILED, f"raises {words_of(error)}", REPORT)
    wrong, total, worst = 0, 0, 0.0
    limit = _limit(backend, dtype, tensors[0].place.is_gpu_place())
    if not np.isfinite(out).all():
        return Check(name, FAILED, "returns NaN or infinity", REPORT)
    for sample, start in enumerate(case.starts):
        first = _first_query(case, start)
        if out[sample, :, :first].any():
            return Check(name, FAILED, "rows of padding are not zeros", REPORT)
        q, k, v = (exact(x[sample]) for x in qkv)
        errors = _block_errors(out[sample, :, first:], expected(case, q[:, first:], k[:, start:], v[:, start:]))
        wrong, total = wrong + int((errors > limit).sum()), total + errors.size
        worst = max(worst, float(errors[errors <= limit].max(initial=0.0)))
    exact_products = limit == FLOAT32_LIMIT
    ties = (NEAR_TIES if exact_products else ROUNDED_TIES) if _selects(case) else 0.0
    if wrong > ties * total:
        found = (
            "returns zeros"
            if not out.any()
            else f"{wrong} of {plural(total, '{} block', '{} blocks')} of rows are wrong"
        )
        return Check(name, FAILED, found, REPORT)
    others = f"; {wrong} of {total} blocks of rows take other keys, by ties" if wrong else ""
    return Check(name, OK, f"relative error {worst:.1e}, allowed {limit:.1e}{others}")


def _limit(backend: str, dtype: str, on_gpu: bool) -> float:
    """The relative error allowed to a block of rows."""
    if dtype == "float32":
        return TF32_LIMIT if backend == "eager" and on_gpu else FLOAT32_LIMIT
    return ROUNDINGS * EPS[dtype]


def _selects(case: Case) -> bool:
    """Whether the case chooses key blocks by importance."""
    return case.triangle is None and len(case.config.intervals) > 1


def _first_query(case: Case, start: int) -> int:
    """The first row of a sample that is no padding."""
    causal = case.triangle is not None or case.config.causal
    return max(0, start - (case.lengths[1] - case.lengths[0])) if causal else 0


def _run(case: Case, tensors, backend: str):
    q, k, v = tensors
    starts = case.starts if any(case.starts) else None
    if case.triangle is None:
        from ..attention import pyramid_attention

        return pyramid_attention(q, k, v, case.config.replace(backend=backend), kv_start=starts)
    from ..trianglemix import triangle_attention

    sink, window, last = case.triangle
    return triangle_attention(
        q, k, v, num_sink_tokens=sink, sliding_window_size=window, num_last_tokens=last, kv_start=starts,
        backend=backend,
    )  # fmt: skip


def _block_errors(out: np.ndarray, want: np.ndarray, rows: int = 64) -> np.ndarray:
    """Relative error of each head and block of rows, [H, blocks]."""
    starts = np.arange(0, out.shape[1], rows)
    off, size = (np.add.reduceat((x**2).sum(-1), starts, axis=1) for x in (out - want, want))
    return np.sqrt(off / np.maximum(size, np.finfo(float).tiny))


def expected(case: Case, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """What the case gives in float64 for one sample without padding; q [H, Lq, D], k, v [Hkv, Lk, D]."""
    scale, lq, lk = q.shape[-1] ** -0.5, q.shape[1], k.shape[1]
    if case.triangle is not None:
        return _triangle(q, k, v, case.triangle, scale)
    c = case.config
    blocks, strides = (c.query_block, c.key_block), (c.xattn_query_stride, c.xattn_stride)
    if c.importance_method == "peak":
        scores = reference.peak_importance(q, k, scale, c.causal, *blocks, strides)
    else:
        scores = reference.xattn_importance(q, k, scale, c.causal, *blocks, strides, c.xattn_terms)
    thresholds = {2: c.sim_2x_threshold, 4: c.sim_4x_threshold, 8: c.sim_8x_threshold}
    cap = reference.key_similarity_cap(k, c.key_block, thresholds)
    cap = cap if c.use_sim_mask else np.full_like(cap, 8)
    plan = Plan.of(c, scale)
    return reference.attend(q, k, v, reference.select_levels(scores, cap, plan, lq, lk), plan)


def _triangle(q, k, v, pattern: tuple[int, int, int], scale: float) -> np.ndarray:
    """Attention under TriangleMix's mask, see ``TriangleMixConfig``."""
    (sink, window, last), lk, group = pattern, k.shape[1], q.shape[0] // k.shape[0]
    i, j = np.arange(lk - q.shape[1], lk)[:, None], np.arange(lk)
    seen = (j <= i) & ((j <= sink) | (i - j <= window) | (lk - i < last))
    k, v = np.repeat(k, group, 0), np.repeat(v, group, 0)
    logits = np.where(seen, scale * q @ k.transpose(0, 2, 1), -np.inf)
    return reference.softmax(logits) @ v
