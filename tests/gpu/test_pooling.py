"""The pooling importance against the reference's."""

from itertools import product
from unittest import mock

import numpy as np
import pytest
from gpu.gpu_cases import (
    DEVICE,
    DTYPES,
    REPEATS,
    exact,
    first_keys,
    host_inputs,
    inputs,
    on_device,
    params,
    poisoned_empty,
    shape_id,
    torch,
)
from gpu.launches import plan_of, pooling_importance, select

from psa_paddle import bridge, reference

SHAPES = [(1, 1, 1, 1, 32, 64, 32), (129, 1000, 4, 1, 64, 128, 64), (3000, 3000, 2, 2, 128, 128, 128),
          (1111, 2222, 2, 1, 80, 128, 64), (2500, 2500, 7, 1, 128, 64, 32)]  # fmt: skip
LEVELS = ((1, 0.0, 0.1), (2, 0.1, 0.15), (8, 0.15, 0.35), (0, 0.35, 1.0))


def chosen() -> dict:
    """Quick: every shape in bf16, and one other dtype a shape and direction."""
    found = {}
    for (i, shape), dtype, causal in product(enumerate(SHAPES), DTYPES, (True, False)):
        quick = dtype == "bf16" or dtype == ("fp16", "fp32")[(i + causal) % 2]
        found[f"{shape_id(shape)}-{'causal' if causal else 'full'}-{dtype}"] = (shape, DTYPES[dtype], causal), quick
    return found


@pytest.mark.parametrize("shape, dtype, causal", params(chosen()))
def test_against_the_reference(shape, dtype, causal):
    *_, d, m, n = shape
    host = host_inputs(shape, dtype)
    q, k, _ = on_device(host, dtype)
    q64, k64 = (x[0].astype(float) for x in host[:2])
    with mock.patch.object(bridge, "empty", poisoned_empty):
        for scale in (d**-0.5, -0.3):
            plan = plan_of(scale, causal, m, n, LEVELS, mask_mode="topk", method="pooling")
            got = exact(select(q, k, plan).importance[0])
            want = reference.pooling_importance(q64, k64, scale, causal, m, n)
            assert np.abs(got - want).max() / want.max() < 1e-4, f"scale {scale:.2f}"


@pytest.mark.parametrize("repeats", REPEATS)
def test_a_padded_sample_is_as_if_it_came_alone_every_time(repeats):
    q, k, _ = inputs((3000, 3300, 4, 2, 128, 128, 64), "bfloat16")
    q, k = (x.expand(2, -1, -1, -1).contiguous() for x in (q, k))
    start, plan = first_keys([0, 1234]), plan_of(0.1, True)

    def zeros_where_unwritten(*args):
        return poisoned_empty(*args).nan_to_num(0.0)  # NaN equals nothing

    with mock.patch.object(bridge, "empty", zeros_where_unwritten):
        both = pooling_importance(q, k, plan, kv_start=start)
        alone = pooling_importance(q[1:, :, 1234 - 300 :], k[1:, :, 1234:], plan)[0]
        assert all(torch.equal(pooling_importance(q, k, plan, kv_start=start), both) for _ in range(repeats))
    n_i, n_j = alone.shape[1:]
    valid = torch.from_numpy(reference.block_grid(2066, 2066, 128, 64, True)[0]).to(DEVICE)
    assert torch.equal(both[1, :, :n_i, :n_j][:, valid], alone[:, valid])
