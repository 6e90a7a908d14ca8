"""Paddle itself: which build, which device, and whether its own operations compute what they should.

Everything else stands on them. There are builds whose GPU operations return zeros on a GPU that they were not compiled
for, without a word; a check of our kernels would not tell that apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..utils.quiet import quiet_import
from .findings import BUILD, FAILED, INSTALL_PADDLE, OK, OPERATIONS, Check, Fact, joined, words_of
from .machine import older
from .tensors import dtypes_here, exact, on_device, on_host, stored

LEAST_PADDLE = "3.2.2"
# Largest error allowed, relative to the largest right number. float32: products in TF32 are not wrong.
LIMITS = {"float32": 5e-3, "float16": 1e-2, "bfloat16": 5e-2}


def paddle_build(gpus: list[str]) -> Iterator[Fact | Check]:
    """What Paddle is and sees; ``gpus``: what nvidia-smi found."""
    with quiet_import():
        try:
            import paddle
        except ModuleNotFoundError as error:
            if error.name != "paddle":
                raise
            build = "paddlepaddle-gpu" if gpus else "paddlepaddle==3.3.1"
            yield Check(BUILD, FAILED, "not installed", f"Install {build}, {LEAST_PADDLE} or newer: {INSTALL_PADDLE}")
            return
    version, cuda = paddle.__version__, paddle.is_compiled_with_cuda()
    kind = f"GPU build, CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}" if cuda else "CPU build"
    yield Fact("Paddle", f"{version}, {kind}, commit {paddle.version.commit[:10]}")
    yield Fact("device", paddle.get_device())
    if cuda:
        for i in range(paddle.device.cuda.device_count()):
            yield Fact(f"Paddle's gpu:{i}", paddle.device.cuda.get_device_name(i))
    if older(version, LEAST_PADDLE):
        advice = f"Install Paddle {LEAST_PADDLE} or newer: {INSTALL_PADDLE}"
        yield Check(BUILD, FAILED, f"{version} is older than {LEAST_PADDLE}", advice)
    elif gpus and not cuda:
        advice = f"Install paddlepaddle-gpu for your CUDA version in its place: {INSTALL_PADDLE}"
        yield Check(BUILD, FAILED, "an NVIDIA GPU is here, but this is a CPU build, which cannot use it", advice)
    elif cuda and not paddle.get_device().startswith("gpu"):
        advice = "Check nvidia-smi and CUDA_VISIBLE_DEVICES; on a machine without a GPU install paddlepaddle."
        yield Check(BUILD, FAILED, "a GPU build that sees no GPU", advice)
    else:
        yield Check(BUILD, OK, f"{version}, {kind}, on device {paddle.get_device()}")


def _operations(paddle) -> dict[str, tuple[Callable, Callable]]:
    """Name -> (in Paddle, in NumPy), of x and y [2, 64, 64]."""
    functional = paddle.nn.functional

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def attention(x, y):
        return softmax(x @ y.transpose(0, 2, 1) / 8) @ y

    def paddle_attention(x, y):  # [B, L, H, D]
        x, y = x.unsqueeze(2), y.unsqueeze(2)
        return functional.scaled_dot_product_attention(x, y, y).squeeze(2)

    return {
        "copy to the device and back": (lambda x, y: x, lambda x, y: x),
        "addition": (lambda x, y: x + y, lambda x, y: x + y),
        "matmul": (lambda x, y: paddle.matmul(x, y), lambda x, y: x @ y),
        "softmax": (lambda x, y: functional.softmax(x, axis=-1), lambda x, y: softmax(x)),
        "sum": (lambda x, y: x.sum(-1), lambda x, y: x.sum(-1)),
        "concat": (lambda x, y: paddle.concat([x, y], axis=1), lambda x, y: np.concatenate([x, y], 1)),
        "transpose": (lambda x, y: x.transpose([0, 2, 1]).contiguous(), lambda x, y: x.transpose(0, 2, 1)),
        "sort": (lambda x, y: paddle.sort(x, axis=-1), lambda x, y: np.sort(x, -1)),
        "scaled_dot_product_attention": (paddle_attention, attention),
    }


def paddle_operations() -> Iterator[Check]:
    """Some of Paddle's own operations on its current device, against NumPy in float64."""
    import paddle

    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((2, 2, 64, 64))
    faults, worst, advice = [], 0.0, ""
    for dtype in dtypes_here():
        host = [stored(x, dtype) for x in arrays]
        wrong: dict[str, list[str]] = {}
        for name, (ours, numpys) in _operations(paddle).items():
            want = numpys(*map(exact, host))
            try:
                found = on_host(ours(*map(on_device, host)))
            except Exception as error:  # what Paddle raises differs from build to build
                wrong.setdefault(f"raises {words_of(error)}", []).append(name)
                continue
            off, fault = judged(found, want, LIMITS[dtype])
            worst = max(worst, off)
            if fault:
                wrong.setdefault(fault, []).append(name)
        faults += [f"{joined(names)} in {dtype}: {fault}" for fault, names in wrong.items()]
    where = paddle.get_device()
    if faults:
        advice = (
            f"This Paddle does not compute on {where}, and no model can run on it; install the build for your GPU and "
            f"CUDA version: {INSTALL_PADDLE} (psa_paddle's own kernels are checked apart from it, below)."
        )
        yield Check(OPERATIONS, FAILED, f"on {where} {'; '.join(faults)}", advice)
    else:
        names = f"{len(_operations(paddle))} operations in {joined(list(dtypes_here()))} agree with NumPy"
        yield Check(OPERATIONS, OK, f"on {where} {names}, worst error {worst:.1e}")


def judged(found: np.ndarray, want: np.ndarray, limit: float) -> tuple[float, str]:
    """The largest error relative to the largest number of ``want``, and what is wrong in words, if something is."""
    if found.shape != want.shape:
        return 0.0, f"has shape {found.shape} and not {want.shape}"
    if not np.isfinite(found).all():
        return 0.0, "returns NaN or infinity"
    if not found.any():
        return 1.0, "returns zeros"
    error = float(np.abs(found - want).max() / np.abs(want).max())
    return error, f"wrong by {error:.1%}" if error > limit else ""
