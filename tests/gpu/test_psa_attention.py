"""PSAAttention's path: dense in every token order where all is kept, no wait for the device, CUDA graphs."""

from itertools import product
from unittest import mock

import numpy as np
import pytest
from gpu.gpu_cases import DTYPES, assert_replays, exact, host_inputs, inputs, on_device, params, poisoned_empty, torch
from gpu.launches import operator, plan_of
from kernels.kernel_cases import error_budget

from psa_paddle import bridge, reference
from psa_paddle.rearrange import METHODS

GRID, TEXT = (5, 11, 13), 29
LENGTH = int(np.prod(GRID)) + TEXT
SHAPE = (LENGTH, LENGTH, 4, 2, 128, 128, 64)
SCALE = 128**-0.5
LEVELS = ((1, 0.0, 0.1), (2, 0.1, 0.15), (8, 0.15, 0.35), (0, 0.35, 1.0))
FIXED = [name for name in METHODS if name in ("Gilbert", "STA")]  # clusters go on from call to call, so two differ


@pytest.fixture(autouse=True)
def poison(cuda):
    with mock.patch.object(bridge, "empty", poisoned_empty):
        yield


def path(method: str, q, k, v, intervals):
    """One call of the path as a function; the order learns from call to call."""
    order = METHODS[method](GRID, TEXT, text_to_end=True)
    kept = plan_of(
        SCALE, False, intervals=intervals, mask_mode="topk", method="pooling", forced_text=TEXT, thresholds=None
    )

    def run():
        plan = order.plan(q, k)
        return plan.restore(operator(plan.permute(q), plan.permute_kv(k), plan.permute_kv(v), kept)[0])

    return run


def chosen() -> dict:
    return {f"{method}-{name}": ((method, DTYPES[name]), True) for method, name in product(METHODS, DTYPES)}


@pytest.mark.parametrize("method, dtype", params(chosen()))
def test_all_levels_one_equals_dense(method, dtype):
    host = host_inputs(SHAPE, dtype)
    out = path(method, *on_device(host, dtype), ((1, 0.0, 1.0),))()
    want = reference.dense_attention(*(x[0].astype(float) for x in host), SCALE, False)
    error, budget = np.abs(exact(out[0]) - want).max(), error_budget(*host, SCALE, False, dtype)
    assert error <= budget, f"error {error:.2e} of {budget:.2e}"


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_nothing_waits_for_the_device(method):
    run = path(method, *inputs(SHAPE, "bfloat16"), LEVELS)
    run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("method", FIXED)
def test_a_graph_replays(method):
    assert_replays(path(method, *inputs(SHAPE, "bfloat16"), LEVELS))
