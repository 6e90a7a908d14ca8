"""The whole operator: wherever its inputs lie, in a left-padded batch, again and again, and in a CUDA graph."""

from itertools import product

import numpy as np
import pytest
from gpu.gpu_cases import DEVICE, REPEATS, assert_repeats, assert_replays, first_keys, inputs, params, shape_id, torch
from gpu.launches import FLAT, RATIOS, intervals_of, operator, plan_of

# (Lq, Lk, H, Hkv, D, M, N), causal, sign of the scale
PLACES = [
    ((777, 1500, 4, 2, 128, 128, 64), True, 1), ((1000, 1000, 4, 1, 128, 128, 32), False, 1),
    ((900, 1111, 2, 2, 64, 128, 128), True, 1), ((640, 640, 7, 1, 128, 128, 64), False, -1),
    ((500, 700, 4, 1, 80, 128, 64), True, -1), ((333, 333, 4, 4, 64, 128, 64), True, 1),
]  # fmt: skip
SHARES = {"mixed": RATIOS, "level1": FLAT}
LAYOUTS = {  # order of the axes in memory, rows of NaN before and behind
    "tokens first": ((0, 2, 1, 3), 0, 0),
    "between NaN": ((0, 1, 2, 3), 8, 200),
    "tokens first, between NaN": ((2, 0, 1, 3), 16, 130),
}


def placed(x, order, front: int, behind: int):
    """A view with x's numbers of a tensor whose axes lie in memory in ``order``, between rows of NaN."""
    shape = [x.shape[0], x.shape[1], front + x.shape[2] + behind, x.shape[3]]
    whole = torch.full([shape[i] for i in order], float("nan"), dtype=x.dtype, device=DEVICE)
    view = whole.permute(*np.argsort(order).tolist())[:, :, front : front + x.shape[2]]
    view.copy_(x)
    return view


def chosen() -> dict:
    """Quick: each place with one of the shares."""
    found = {}
    for (i, (shape, causal, sign)), (j, name) in product(enumerate(PLACES), enumerate(SHARES)):
        means = sign > 0 or name == "level1"
        scale = sign * shape[4] ** -0.5
        plan = plan_of(
            scale, causal, *shape[5:], intervals_of(SHARES[name]), forced_text=40, thresholds=None, block_means=means
        )  # fmt: skip
        found[f"{shape_id(shape)}-{'causal' if causal else 'full'}-{name}"] = (shape, plan), i % 2 == j
    return found


def two_samples(shape):
    return [torch.cat(pair) for pair in zip(*(inputs(shape, "bfloat16", seed) for seed in (1, 2)), strict=True)]


@pytest.mark.parametrize("shape, plan", params(chosen()))
def test_the_places_of_the_inputs_change_nothing(shape, plan):
    both = two_samples(shape)
    want, _ = operator(*both, plan)
    assert want.isfinite().all()
    for name, place in LAYOUTS.items():
        assert torch.equal(operator(*(placed(x, *place) for x in both), plan)[0], want), name


@pytest.mark.parametrize("shape, plan", params(chosen()))
def test_left_padding_is_as_if_a_sample_came_alone(shape, plan):
    lq, lk = shape[:2]
    both = two_samples(shape)
    start = lk // 3 + 5
    hidden = max(start - (lk - lq), 0) if plan.causal else 0
    padded = [x.clone() for x in both]
    for x in padded[1:]:
        x[1, :, :start] = float("nan")
    padded[0][1, :, :hidden] = float("nan")
    found, _ = operator(*padded, plan, kv_start=first_keys([0, start]))
    alone, _ = operator(padded[0][1:, :, hidden:], *(x[1:, :, start:] for x in padded[1:]), plan)
    assert torch.equal(found[1:, :, hidden:], alone)
    assert torch.equal(found[0], operator(*both, plan)[0][0])
    assert not found[1, :, :hidden].any(), "rows of padding must be zeros"


LONG = ((2048, 2048, 7, 1, 128, 128, 64), plan_of(128**-0.5, True, block_means=True))


@pytest.mark.parametrize("repeats", REPEATS)
def test_repeats_bitwise(repeats):
    shape, plan = LONG
    tensors = inputs(shape, "bfloat16")
    assert_repeats(lambda: operator(*tensors, plan)[0], repeats)


@pytest.mark.gpu
def test_a_graph_replays():
    shape, plan = LONG
    tensors = inputs(shape, "bfloat16")
    assert_replays(lambda: operator(*tensors, plan)[0])
