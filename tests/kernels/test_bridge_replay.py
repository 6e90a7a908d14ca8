"""A call that is repeated from its recording gives what the call itself gives: interpreted kernels stand for compiled
ones and are launched on the addresses that a repeated call passes, in memory that was full of NaN."""

import ctypes
import gc
import threading
import types
import weakref
from contextlib import contextmanager

import numpy as np
import paddle
import pytest
import triton
from kernels.kernel_cases import CAP, INTERVALS, Case, qkv

from psa_paddle import bridge, kernels
from psa_paddle.bridge import alloc, recording, replay
from psa_paddle.bridge.host_view import HostView
from psa_paddle.kernels.triangle import triangle_fwd
from psa_paddle.triangle_pattern import Pattern

STREAM, FUNCTION, METADATA = 5, 6, (4, 1, 0)
LEVEL_1 = ((1, 0.0, 0.3), (0, 0.3, 1.0))


class Compiled:
    """An interpreted kernel that is launched as a compiled one; ``dtypes``: of its tensors, by name."""

    function, packed_metadata = FUNCTION, METADATA

    def __init__(self, kernel, dtypes: dict, seen: list):
        self.kernel, self.dtypes, self.seen = kernel, dtypes, seen

    def run(self, x, y, z, stream, function, metadata, launch_metadata, enter, leave, *arguments):
        assert (stream, function, metadata, launch_metadata, enter, leave) == (STREAM, FUNCTION, METADATA, *[None] * 3)
        self.seen.append("repeated")
        call = dict(zip(self.kernel.arg_names, arguments, strict=True))
        assert not any(hasattr(argument, "data_ptr") for argument in call.values()), "addresses alone"
        call.update({name: HostView(call[name], dtype) for name, dtype in self.dtypes.items()})
        self.kernel[x, y, z](**call)


def layout(x):
    """``alloc.layout`` of a CPU tensor that stands for one on a GPU."""
    return tuple(x.shape), tuple(x.strides), x.dtype, x.data_ptr() % recording.ALIGNMENT


@pytest.fixture
def device(monkeypatch):
    """Paddle's CPU stands for a GPU. ``seen``: what was launched, and from where; ``alive``: what was allocated."""
    seen, alive, launch, empty = [], weakref.WeakSet(), bridge.launch, alloc._empty

    def launched(kernel, grid, *, like, **kwargs):
        seen.append("launched")
        launch(kernel, grid, like=like, **kwargs)
        if recording.now.recording is not None:
            dtypes = {name: alloc.dtype_name(x) for name, x in kwargs.items() if hasattr(x, "data_ptr")}
            compiled = Compiled(kernel, dtypes, seen)
            recording.now.recording.launch(compiled, grid, [kwargs[name] for name in kernel.arg_names])

    def poisoned(shape, dtype, like):
        x = empty(shape, dtype, like)
        ctypes.memset(x.data_ptr(), 0xFF, int(np.prod(x.shape)) * x.element_size())
        alive.add(x)
        return x

    @contextmanager
    def on_device_of(like):
        yield 0

    monkeypatch.setattr(bridge, "launch", launched)
    monkeypatch.setattr(alloc, "_empty", poisoned)
    monkeypatch.setattr(bridge, "empty", alloc.empty)  # without conftest's poison, which is another tensor
    monkeypatch.setattr(replay, "layout", layout)
    monkeypatch.setattr(replay, "on_device_of", on_device_of)
    active = types.SimpleNamespace(get_current_stream=lambda device: STREAM + device)
    monkeypatch.setattr(replay, "driver", types.SimpleNamespace(active=active))
    monkeypatch.setattr(replay, "_RECIPES", {})
    return types.SimpleNamespace(seen=seen, alive=alive)


def tensors(case: Case, seed: int) -> tuple:
    return qkv(case, seed)[0]


def same(a, b) -> bool:
    a, b = (x if isinstance(x, tuple) else (x,) for x in (a, b))
    return all(x.numpy().tobytes() == y.numpy().tobytes() for x, y in zip(a, b, strict=True))


def psa(**changes):
    fields = dict(
        intervals=INTERVALS, mask_mode="energybound", terms=4, forced_text=20, thresholds=tuple(CAP.values())
    )  # fmt: skip
    fields.update(changes)
    return lambda case, q, k, v, **more: kernels.psa_fwd(q, k, v, case.plan(**fields), **more)


BY_RANK = dict(mask_mode="topk", terms=1, thresholds=None)
CALLS = {
    "all levels": (Case(lq=70, lk=170, hkv=2, layout="mixed"), psa(), {}),
    "level 1": (Case(lq=130, lk=130, group=2), psa(intervals=((1, 0.0, 1.0),), thresholds=None), {}),
    "peaks, budgets": (
        Case(lq=150, lk=300, group=2, m=128, n=32, dtype="float16"),
        psa(intervals=LEVEL_1, importance_method="peak", key_stride=2, query_stride=8, budgets=(0.5, 1.5), **BY_RANK),
        {},
    ),
    "means, tokens first": (
        Case(lq=70, lk=170, causal=False),
        psa(intervals=LEVEL_1, block_means=True, heads_last=True, **BY_RANK),
        {},
    ),
    "pooling": (Case(lq=70, lk=170), psa(importance_method="pooling", terms=1), {}),
    "left padding, out": (Case(lq=70, lk=130, batch=2), psa(), dict(kv_start=[0, 70], out=True)),
    "triangle": (
        Case(lq=100, lk=130, group=2),
        lambda case, q, k, v, **more: triangle_fwd(q, k, v, Pattern(4, 40, 30), case.factor, heads_last=True, **more),
        {},
    ),
    "audit": (
        Case(lq=100, lk=300),
        lambda case, q, k, v, **more: kernels.audit_fwd(q, k, v, 2 * q, case.plan(audit_rows=40), **more),
        dict(kv_start=[7]),
    ),
}


def make(case: Case, more: dict, seed: int) -> tuple[tuple, dict]:
    q, k, v = tensors(case, seed)
    made = {}
    if "kv_start" in more:
        made["kv_start"] = paddle.to_tensor(more["kv_start"][::-1] if seed else more["kv_start"], "int32")
    if "out" in more:
        made["out"] = paddle.full_like(q, float("nan"))
    return (q, k, v), made


@pytest.mark.parametrize("case, call, more", CALLS.values(), ids=CALLS)
def test_a_repeated_call_gives_what_the_call_gives(device, monkeypatch, case, call, more):
    first, second = (make(case, more, seed) for seed in (0, 1))
    other = call(case, *first[0], **first[1])
    launches = list(device.seen)
    assert launches and set(launches) == {"launched"}
    found = call(case, *second[0], **second[1])
    assert device.seen == launches + ["repeated"] * len(launches)
    if "out" in more:
        assert found[0] is second[1]["out"]
        found = found[0].clone(), found[1]
    monkeypatch.setattr(replay, "_RECIPES", {})
    want = call(case, *second[0], **second[1])
    assert len(device.seen) == 3 * len(launches) and device.seen[-1] == "launched"
    assert same(found, want) and not same(want, other)


SMALL = Case(lq=100, lk=130, n=32)


def _doubled(x, y, block: int):
    """A host function of one launch: 2 x, in memory of its own; of ``y`` nothing."""
    from kernels.test_bridge import _double_kernel

    out, n = bridge.empty(x.shape, bridge.dtype_name(x), x), int(np.prod(x.shape))
    grid = (-(-n // block),)
    bridge.launch(_double_kernel, grid, like=x, x=x, y=out, n=n, stride=bridge.strides(x)[-1], BLOCK=block)
    return out


def doubled(x, y=None, block: int = 32):
    out = bridge.repeat(_doubled, (block,), x, y)
    np.testing.assert_array_equal(out.numpy(), 2 * x.numpy())
    return out


def vector(n: int, dtype: str = "float32", stride: int = 1, first: int = 0):
    return paddle.to_tensor(np.arange((n + first) * stride).astype(dtype).reshape(n + first, stride))[first:, 0]


@pytest.mark.parametrize(
    "other",
    [
        dict(x=vector(65)), dict(x=vector(64, "float16")), dict(x=vector(64, stride=2)), dict(x=vector(64, first=1)),
        dict(y=vector(4)), dict(block=64), dict(x=vector(64), y=vector(4)[1:]),
    ],
    ids=["length", "dtype", "stride", "alignment", "one more", "setting", "one more, off"],
)  # fmt: skip
def test_a_call_that_differs_in_more_than_addresses_is_made(device, other):
    call = dict(x=vector(64))
    doubled(**call)
    doubled(**{**call, **other})
    assert device.seen == ["launched"] * 2
    doubled(**{**call, **other})
    doubled(x=vector(64) + 5)
    assert device.seen == ["launched"] * 2 + ["repeated"] * 2


def test_what_is_given_twice_is_not_repeated(device):
    """Of one tensor that stands for two it cannot be told which of them another call would need."""
    plan = SMALL.plan()
    q, k, v = tensors(SMALL, 0)
    for x in (k, v):
        alone = kernels.psa_fwd(q, x, x, plan)
        assert device.seen.pop() == "launched"
        assert same(alone[0], kernels.psa_fwd(q, x, x.clone(), plan)[0])
    assert "repeated" not in device.seen
    _, k, v = tensors(SMALL, 1)
    assert not same(kernels.psa_fwd(q, k, v, plan)[0], kernels.psa_fwd(q, k, k, plan)[0])


def test_a_call_on_a_tensor_of_its_own_is_not_repeated(device):
    hidden = [vector(64)]

    def call(x):
        return _doubled(hidden[0], None, 32)

    for n in (1, 2):
        hidden[0] = vector(64) + n
        np.testing.assert_array_equal(bridge.repeat(call, (), vector(64)).numpy(), 2 * (np.arange(64) + n))
    assert device.seen == ["launched"] * 2


def test_a_call_without_launches_or_with_another_result_is_not_repeated(device):
    x = vector(64)
    assert bridge.repeat(lambda x: x, (), x) is x
    copies = lambda x: (_doubled(x, None, 32), x.clone())  # noqa: E731
    for _ in range(2):
        assert same(bridge.repeat(copies, (), x), (2 * x, x))
    assert device.seen == ["launched"] * 2


def test_whoever_watches_launches_sees_them(device, monkeypatch):
    doubled(vector(64))
    chain = types.SimpleNamespace(calls=[])
    for hooks in ([print], []):
        chain.calls = hooks
        monkeypatch.setattr(triton.knobs.runtime, "launch_exit_hook", chain)
        doubled(vector(64))
    monkeypatch.setattr(triton.knobs.runtime, "launch_enter_hook", print)
    doubled(vector(64))
    monkeypatch.setattr(triton.knobs.runtime, "launch_enter_hook", None)
    doubled(vector(64))
    assert device.seen == ["launched", "launched", "repeated", "launched", "repeated"]


@pytest.mark.parametrize("version, known", [("3.5.1", True), ("3.9.0", True), ("3.10.0", False), ("4.0", False)])
def test_an_unknown_triton_launches_by_itself(device, monkeypatch, version, known):
    monkeypatch.setattr(triton, "__version__", version)
    doubled(vector(64))
    doubled(vector(64))
    assert device.seen == ["launched", "repeated" if known else "launched"]


def test_tensors_in_host_memory_are_not_repeated(device, monkeypatch):
    place = {id(x): x for x in (vector(64), vector(64), vector(4))}
    on_gpu, on_cpu, small = place.values()
    monkeypatch.setattr(replay, "layout", lambda x: layout(x) if x is on_gpu else None)
    for _ in range(2):
        doubled(on_cpu)
        doubled(on_cpu, small)
    doubled(on_gpu)
    doubled(on_gpu, small)  # not as if there were none
    assert device.seen == ["launched"] * 6
    doubled(on_gpu)
    assert device.seen[-1] == "repeated"


def test_memory_that_is_not_aligned_is_not_used(device, monkeypatch):
    doubled(vector(64))
    crooked, empty = vector(65)[1:], replay.empty
    monkeypatch.setattr(replay, "empty", lambda shape, dtype, like: crooked)
    doubled(vector(64))
    assert device.seen == ["launched"] * 2
    monkeypatch.setattr(replay, "empty", empty)
    doubled(vector(64))
    assert device.seen[-1] == "repeated"


def test_memory_is_held_for_as_long_as_it_is_read(device, monkeypatch):
    """Scores are gone before the output is made; what one launch is the last to read lies in one allocation."""
    case, call, _ = CALLS["all levels"]
    call(case, *tensors(case, 0))
    held, run = [], Compiled.run

    def watched(self, *arguments):
        gc.collect()
        held.append({x.element_size() * x.size for x in device.alive})
        run(self, *arguments)

    device.alive.clear()
    monkeypatch.setattr(Compiled, "run", watched)
    out, work = call(case, *tensors(case, 1))
    pyramid, xattn, select, attend = held
    pooled_and_lists = 2 * padded(2 * 140 * 32 * 4) + padded(2 * 2 * 6 * 2) + padded(2 * 2 * 5 * 4)
    cap_and_scores = padded(2 * 6) + padded(2 * 5 * 6 * 4) + padded(2 * 5 * 4) + padded(2 * 4)
    assert pyramid == xattn == {pooled_and_lists, cap_and_scores}
    assert select == {pooled_and_lists, cap_and_scores, 2 * 2 * 4}
    assert attend == {pooled_and_lists, 2 * 2 * 4, 2 * 70 * 32 * 4}
    gc.collect()
    assert set(map(id, device.alive)) == {id(out), id(work)}


def padded(size: int) -> int:
    """Bytes that an allocation takes of one that it shares."""
    return -(-size // replay.APART) * replay.APART


def test_a_call_within_a_call_is_part_of_it(device):
    def twice(x):
        return bridge.repeat(_doubled, (32,), bridge.repeat(_doubled, (32,), x, None), None)

    for n in (1, 2):
        x = vector(64) + n
        np.testing.assert_array_equal(bridge.repeat(twice, (), x).numpy(), 4 * x.numpy())
    assert device.seen == ["launched"] * 2 + ["repeated"] * 2


def test_an_error_leaves_nothing_behind(device):
    q, k, v = tensors(SMALL, 0)
    for _ in range(2):
        with pytest.raises(ValueError, match="one shape"):
            kernels.psa_fwd(q, k, v[:, :, 1:], SMALL.plan())
    assert recording.now.recording is None and not device.seen and not replay._RECIPES


def test_remembers_so_many_calls_and_then_forgets_them(device, monkeypatch):
    monkeypatch.setattr(replay, "MOST", 2)
    kept = []
    for n in range(1, 6):
        doubled(vector(n))
        kept.append(len(replay._RECIPES))
    assert kept == [1, 2, 1, 2, 1]


def test_a_recording_is_its_threads_own(device):
    def call(x):
        other = threading.Thread(target=lambda: bridge.empty((8,), "float32", x))
        other.start()
        other.join()
        return _doubled(x, None, 32)

    bridge.repeat(call, (), vector(64))
    (recipe,) = replay._RECIPES.values()
    assert len(recipe.buffers) == 1


def test_knows_how_large_allocations_are():
    for dtype, size in replay._SIZES.items():
        assert paddle.zeros([1], dtype).element_size() == size


class Boxes:
    """Stands for a tensor descriptor; its constructor must not run again."""

    def __init__(self, base, rows: int):
        self.base, self.block_shape, self.checked = base, [1, rows], base.data_ptr()


def test_descriptors_come_with_the_address_of_their_tensor(device):
    found = []

    class Boxed:
        function, packed_metadata = FUNCTION, METADATA

        def run(self, *arguments):
            found.append(arguments[-2:])

    def call(x):
        out = bridge.empty((4,), "float32", x)
        if recording.now.recording is not None:
            recording.now.recording.launch(Boxed(), (1,), [Boxes(x, 8), Boxes(out, 2)])
        return out

    first, second = vector(64), vector(64)
    recorded = weakref.ref(bridge.repeat(call, (), first))
    assert recorded() is None, "a recording keeps no tensor"
    outs = [bridge.repeat(call, (), x) for x in (second, first)]
    for (box, of_out), x, out in zip(found, (second, first), outs, strict=True):
        assert (box.base.data_ptr(), of_out.base.data_ptr()) == (x.data_ptr(), out.data_ptr())
        assert box.block_shape == [1, 8] and of_out.block_shape == [1, 2] and type(box) is Boxes
