"""Tensors, references and checks that the GPU tests share. Import torch from here: without it a module is skipped."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.kernel_cases import rounded
from shared import SHAPES, smooth_qkv

torch = pytest.importorskip("torch", reason="the GPU tests need torch")

DEVICE = "cuda"
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
LONGER = [(777, 1500, 4, 2, 128, 128, 64), (2048, 2048, 7, 1, 128, 128, 64), (1111, 2222, 2, 1, 80, 128, 128)]
GPU_SHAPES = [*SHAPES, *LONGER]  # (Lq, Lk, H, Hkv, D, query block, key block)


def shape_id(shape) -> str:
    return "Lq{}-Lk{}-H{}of{}-D{}-M{}-N{}".format(*shape)


def params(chosen: dict) -> list:
    """Test parameters ``{id: (values, belongs to the quick run)}``; the others are marked ``thorough``."""
    marks = {True: pytest.mark.gpu, False: pytest.mark.thorough}
    return [pytest.param(*values, marks=marks[quick], id=name) for name, (values, quick) in chosen.items()]


REPEATS = params({"20 times": ((20,), True), "1000 times": ((1000,), False)})


def host_inputs(shape, dtype: str, seed: int = 0):
    """q, k, v [1, H, L, D] of ``shared.smooth_qkv`` in the numbers of a dtype (``kernel_cases.rounded``)."""
    return tuple(rounded(x, dtype) for x in smooth_qkv(*shape[:5], seed=seed, dtype=np.float32))


def on_device(arrays, dtype: str):
    """Torch tensors of a dtype on the GPU."""
    return tuple(torch.from_numpy(x).to(DEVICE, getattr(torch, dtype)) for x in arrays)


def inputs(shape, dtype: str, seed: int = 0):
    return on_device(host_inputs(shape, dtype, seed), dtype)


def randn(*shape, dtype: str = "float32", seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, getattr(torch, dtype))


def first_keys(starts):
    """``kv_start`` of a left-padded batch, or None."""
    return torch.tensor(starts, dtype=torch.int32, device=DEVICE) if starts else None


def exact(x) -> np.ndarray:
    """float64 on the host."""
    return x.double().cpu().numpy()


def poison(x):
    """An output like x, full of NaN."""
    return torch.full_like(x, float("nan"))


def poisoned_empty(shape, dtype: str, like):
    """``bridge.empty`` of NaN, or of numbers that no kernel may read unwritten."""
    bad = float("nan") if "float" in dtype else 0x55
    return torch.full(shape, bad, dtype=getattr(torch, dtype), device=like.device)


def assert_repeats(run, repeats: int) -> None:
    """``run()`` gives the same bits every time."""
    first = run()
    assert first.isfinite().all()
    differ = [i for i in range(repeats) if not torch.equal(run(), first)]
    assert not differ, f"repeats {differ[:5]} of {repeats} differ"


def assert_replays(run) -> None:
    """A CUDA graph of ``run()`` replays to the bits of the eager launch."""
    want = run()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    out.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, want)
