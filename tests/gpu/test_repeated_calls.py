"""A call that is repeated from its recording, on a GPU: the bits of the call itself, without a launch by the host
functions."""

import pytest
from gpu.gpu_cases import DEVICE, assert_replays, first_keys, inputs, torch
from gpu.launches import FLAT, audit, intervals_of, operator, plan_of, triangle

from psa_paddle import bridge
from psa_paddle.bridge import replay

pytestmark = pytest.mark.gpu
MEANS = dict(intervals=intervals_of(FLAT), thresholds=None, mask_mode="topk")
CASES = {  # (Lq, Lk, H, Hkv, D), dtype, the plan's changes, first keys, elements before the first
    "bf16, all levels": ((777, 1500, 4, 2, 128), "bfloat16", {}, None, 0),
    "bf16, peaks": ((1000, 1000, 7, 1, 128), "bfloat16", dict(MEANS, method="peak", heads_last=True), None, 0),
    "fp16, means": ((900, 1111, 2, 2, 64), "float16", dict(MEANS, block_means=True), None, 0),
    "bf16, not aligned": ((640, 640, 7, 1, 128), "bfloat16", {}, None, 1),
    "D=80": ((500, 700, 4, 1, 80), "bfloat16", {}, None, 8),
    "fp32, pooling": ((333, 333, 4, 4, 64), "float32", dict(method="pooling"), None, 0),
    "left padding": ((640, 640, 4, 1, 128), "bfloat16", dict(forced_text=20), (250,), 0),
}


@pytest.fixture
def launches(monkeypatch):
    """The launches by host functions; no call is known at the start."""
    count, launch = [], bridge.launch
    monkeypatch.setattr(bridge, "launch", lambda kernel, *a, **b: (count.append(kernel), launch(kernel, *a, **b)))
    monkeypatch.setattr(replay, "_RECIPES", {})
    return count


def moved(x, first: int):
    """x with ``first`` elements before it in memory, tokens first."""
    b, h, length, d = x.shape
    whole = torch.full((first + x.numel(),), float("nan"), dtype=x.dtype, device=DEVICE)
    view = whole[first:].view(b, length, h, d).permute(0, 2, 1, 3)
    return view.copy_(x)


def assert_repeated(call, launches, first, second) -> None:
    """``call`` of ``second`` after ``first`` has the bits that it has when it is made."""
    want = call(*second)
    made = len(launches)
    replay._RECIPES.clear()
    call(*first)
    assert len(launches) == 2 * made > 0
    for _ in range(2):
        found = call(*second)
        assert all(torch.equal(x, y) for x, y in zip(found, want, strict=True))
    assert len(launches) == 2 * made, "it was made again"
    assert all(x.isfinite().all() for x in want)


@pytest.mark.parametrize("shape, dtype, changes, starts, off", CASES.values(), ids=CASES)
def test_a_repeated_call_has_the_bits_of_the_call(launches, shape, dtype, changes, starts, off):
    plan = plan_of(shape[4] ** -0.5, True, **changes)
    first, second = ([moved(x, off) for x in inputs((*shape, 128, 64), dtype, seed)] for seed in (1, 2))
    assert_repeated(
        lambda q, k, v: operator(q, k, v, plan, kv_start=first_keys(starts) if starts else None),
        launches, first, second,
    )  # fmt: skip


def test_other_operators(launches):
    shape = (600, 900, 4, 1, 128, 128, 64)
    first, second = (inputs(shape, "bfloat16", seed) for seed in (1, 2))
    scale = 128**-0.5
    assert_repeated(lambda q, k, v: (triangle(q, k, v, (8, 100, 130), scale),), launches, first, second)
    launches.clear()
    replay._RECIPES.clear()
    assert_repeated(lambda q, k, v: (audit(q, k, v, q.clone(), scale, True, 64),), launches, first, second)


def test_the_current_stream_counts(launches):
    """A repeated call waits on the stream that is current, not on the recorded one's; a graph takes it, too."""
    plan = plan_of(128**-0.5, True)
    first, second = (inputs((512, 512, 4, 1, 128, 128, 64), "bfloat16", seed) for seed in (1, 2))
    want = operator(*second, plan)[0].clone()
    operator(*first, plan)
    side, out = torch.cuda.Stream(), torch.full_like(want, float("nan"))
    with torch.cuda.stream(side):  # let the allocator have what it needs
        operator(*second, plan)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(2_000_000_000)
        repeated = operator(*second, plan)[0]
        out.copy_(repeated)
    other = operator(*second, plan)[0]
    torch.cuda.current_stream().synchronize()
    assert not side.query(), "the side stream was free too early"
    assert torch.equal(other, want)
    side.synchronize()
    assert torch.equal(out, want)
    made = len(launches)
    assert_replays(lambda: operator(*first, plan)[0])
    assert len(launches) == made
