"""The operator's time beside Paddle's own dense attention, on this device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..config import DEFAULT_PRESET
from .findings import FAILED, NOT_POSSIBLE, OK, TIMING, Check, Fact, words_of
from .tensors import dtypes_here, on_device, stored

SECONDS = 60.0  # within which a length must be done, as far as the one before it tells
PATIENCE = 5.0  # seconds after which a call is not repeated
GROWTH = 5.0  # the time of a length over that of half of it: dense attention's, and some more
ADVICE = "Put this report into an issue; until it is solved dense attention (no --use-psa) is the faster one here."


@dataclass(frozen=True)
class Shape:
    """What is timed: one causal prefill a length, ascending; heads: (H, Hkv); repeats:
    measurements, each of so many calls that the host's wait for the device counts little."""

    lengths: tuple[int, ...]
    heads: tuple[int, int]
    dim: int
    repeats: int
    calls: int


ON_GPU = Shape((8192, 16384, 32768), (28, 4), 128, 5, 5)
ON_CPU = Shape((1024, 2048, 4096), (4, 2), 64, 3, 1)


def timing(paddle_computes: bool, shape: Shape | None = None) -> Iterator[Fact | Check]:
    """A line a length, and at the end whether the operator is the faster one at the longest.

    paddle_computes: whether Paddle's own operations are right; else only the operator is timed.
    """
    import paddle

    on_gpu = paddle.get_device().startswith("gpu")
    shape, dtype = shape or (ON_GPU if on_gpu else ON_CPU), dtypes_here()[0]
    (h, hkv), end = shape.heads, time.monotonic() + SECONDS
    ratio, took = None, 0.0
    for length in shape.lengths:
        begun = time.monotonic()
        if begun + GROWTH * took > end:
            yield Fact(f"{length} tokens", f"not timed: it would take more than {SECONDS:g} s in all")
            break
        name = f"{length} tokens"
        try:
            sparse, dense = _calls(length, shape, dtype, paddle_computes)
            times = [_milliseconds(call, shape, on_gpu) for call in (sparse, dense) if call is not None]
        except Exception as error:  # out of memory, or what this Paddle's dense attention refuses
            yield Check(f"{TIMING}, {name}", FAILED, words_of(error), "Put this report into an issue.")
            return
        took = time.monotonic() - begun
        where = f"{h} / {hkv} heads of {shape.dim}, {dtype}, preset {DEFAULT_PRESET}: {times[0]:.2f} ms"
        if dense is None:
            yield Fact(name, where)
            continue
        ratio = times[1] / times[0]
        yield Fact(name, f"{where}; Paddle's dense attention {times[1]:.2f} ms, {ratio:.1f} times as long")
        timed = length
    if ratio is None:
        advice = "Repair Paddle's operations first, then run this again."
        yield Check(TIMING, NOT_POSSIBLE, "there is no dense attention to compare with", advice)
    elif ratio < 1:
        yield Check(
            TIMING, FAILED, f"at {timed} tokens the operator takes {1 / ratio:.1f} times as long as dense", ADVICE
        )
    else:
        yield Check(TIMING, OK, f"at {timed} tokens Paddle's dense attention takes {ratio:.1f} times as long")


def _calls(length: int, shape: Shape, dtype: str, paddle_computes: bool) -> tuple[Callable, Callable | None]:
    """The operator and dense attention on the same numbers, as functions without arguments; the second may be None."""
    import paddle

    from ..attention import pyramid_attention

    rng, (h, hkv) = np.random.default_rng(0), shape.heads
    # Time depends on the length alone, not on the numbers: the preset keeps a share by rank.
    host = [stored(rng.standard_normal((1, n, length, shape.dim), np.float32), dtype) for n in (h, hkv, hkv)]
    q, k, v = map(on_device, host)

    def sparse():
        with paddle.no_grad():
            pyramid_attention(q, k, v)

    if not paddle_computes:
        return sparse, None
    wide = [on_device(np.repeat(x.transpose(0, 2, 1, 3), h // x.shape[1], 2)) for x in host]

    def dense():
        with paddle.no_grad():
            paddle.nn.functional.scaled_dot_product_attention(*wide, is_causal=True)

    return sparse, dense


def _milliseconds(call: Callable, shape: Shape, on_gpu: bool) -> float:
    """The median time of a call, the device's work included, after one that warms up."""
    import paddle

    wait = paddle.device.synchronize if on_gpu else lambda: None
    call()
    times, begun = [], time.perf_counter()
    for _ in range(shape.repeats):
        wait()
        start = time.perf_counter()
        for _ in range(shape.calls):
            call()
        wait()
        times.append((time.perf_counter() - start) / shape.calls * 1e3)
        if time.perf_counter() - begun >= PATIENCE:
            break
    return statistics.median(times)
