"""Which calls of a kernel need it searched for, and which take the compiled one again."""

import types

import hypothesis
import numpy as np
import paddle
import pytest
import triton.language as tl
from hypothesis import strategies as st
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature


class Compiled:
    """Stands for a compiled kernel; notes what it is launched with."""

    def __init__(self):
        self.launches = []

    def __getitem__(self, grid):
        return lambda *args: self.launches.append((grid, *args))


class Searched:
    """Stands for a kernel whose compiled form Triton searches for."""

    arg_names = ("x", "n", "scale", "BLOCK")

    def __init__(self):
        self.searches, self.compiled = 0, Compiled()

    def __getitem__(self, grid):
        def search(**kwargs):
            self.searches += 1
            return self.compiled

        return search


class Boxes:
    """Stands for a tensor descriptor."""

    def __init__(self, base, rows: int):
        self.base, self.block_shape = base, [1, rows]


def test_a_call_that_differs_in_tensors_alone_is_not_searched_for():
    from psa_paddle.bridge.run import run

    kernel, x = Searched(), paddle.zeros([64])
    call = dict(BLOCK=32, n=5, scale=2.0, num_warps=4)
    run(kernel, (2,), 0, {**call, "x": paddle.zeros([32])})
    run(kernel, (2,), 0, {**call, "x": x})
    run(kernel, (7, 3), 0, {**call, "x": x})
    assert kernel.searches == 1
    assert [(grid, args) for grid, _, *args in kernel.compiled.launches] == [
        ((2, 1, 1), [5, 2.0, 32]),
        ((7, 3, 1), [5, 2.0, 32]),
    ]
    assert all(launch[1] is x for launch in kernel.compiled.launches)


def test_remembers_so_many_calls_and_then_forgets_them(monkeypatch):
    from psa_paddle.bridge import run as module

    monkeypatch.setattr(module, "MOST", 3)
    monkeypatch.setattr(module, "_COMPILED", {})
    kernel, kept = Searched(), []
    for n in range(1, 8):
        module.run(kernel, (1,), 0, {"n": n, "x": paddle.zeros([4])})
        kept.append(len(module._COMPILED))
    assert kept == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"n": 6}, {"n": 5.0}, {"n": None}, {"scale": 2}, {"scale": 2.5}, {"BLOCK": 64}, {"num_warps": 8},
        {"x": paddle.zeros([64], "float16")}, {"x": Boxes(paddle.zeros([64]), 8)},
    ],
    ids=["n", "float n", "no n", "int scale", "scale", "constant", "option", "dtype", "descriptor"],
)  # fmt: skip
def test_a_call_that_may_need_another_kernel_is_searched_for(change):
    from psa_paddle.bridge.run import run

    kernel, call = Searched(), dict(x=paddle.zeros([64]), n=5, scale=2.0, BLOCK=32, num_warps=4)
    run(kernel, (2,), 0, call)
    run(kernel, (2,), 0, {**call, **change})
    run(kernel, (2,), 1, call)
    assert kernel.searches == 3


def test_alignment_and_boxes_tell_kernels_apart():
    from psa_paddle.bridge.run import run

    kernel, host = Searched(), np.zeros(64, np.float32)
    call = dict(n=5, scale=2.0, BLOCK=32)
    view = lambda first: types.SimpleNamespace(dtype="float32", data_ptr=lambda: host.ctypes.data + 4 * first)  # noqa: E731
    first = -(host.ctypes.data // 4) % 4  # at 16 bytes
    for x in (view(first), view(first + 4), view(first + 1), Boxes(view(first), 8), Boxes(view(first), 16)):
        run(kernel, (2,), 0, {**call, "x": x})
    assert kernel.searches == 4


def _kernel(x, n, scale, BLOCK: tl.constexpr):
    pass


def specialised(**call):
    """What Triton compiles a kernel for, for Hopper: types and attributes of its arguments, values of constants."""
    kernel = JITFunction(_kernel)
    backend = make_backend(GPUTarget("cuda", 90, 32))
    bound, types, options = create_function_from_signature(kernel.signature, kernel.params, backend)(**call)
    return repr((types, options))


HOST = paddle.zeros([64])
TENSORS = [x[first:] for first in (0, 1, 4, 8) for x in (HOST, HOST.astype("bfloat16"), HOST.astype("int32"))]
NUMBERS = [0, 1, 2, 15, 16, 32, 2**31 - 16, 2**31, 2**31 + 1, 2**40, True, False, 0.0, 1.0, 16.0, None]
CALLS = st.fixed_dictionaries(
    {
        "x": st.sampled_from([*TENSORS, None]),
        "n": st.sampled_from(NUMBERS),
        "scale": st.sampled_from(NUMBERS),
        "BLOCK": st.sampled_from([*NUMBERS, "topk", (0, 1), (0.0, 1.0), (False, True), (0, (1, 2.0)), (0, (1, 2))]),
    },
    optional={"num_warps": st.sampled_from([4, 8])},
)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(CALLS, CALLS, st.sets(st.sampled_from(["x", "n", "scale", "BLOCK"])))
def test_calls_of_one_key_are_of_one_specialisation(one, other, alike):
    """``alike``: in what the two surely do not differ."""
    from psa_paddle.bridge.run import key_of

    other = {name: one[name] if name in alike and name in one else x for name, x in other.items()}
    if key_of(_kernel, 0, one) == key_of(_kernel, 0, other):
        assert specialised(**one) == specialised(**other)


def test_equal_numbers_of_other_types_are_of_other_kernels():
    """A bool and an integer, whatever Python thinks of them."""
    from psa_paddle.bridge.run import key_of

    for n, other in ((1, True), (0, False), (1, 1.0), ((0, 1), (0.0, 1.0)), ((1,), (True,))):
        assert n == other and key_of(_kernel, 0, {"n": n}) != key_of(_kernel, 0, {"n": other})
