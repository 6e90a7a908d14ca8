"""What a recorded call knows of tensors: they are told by their addresses, and apart by what Triton specialises for."""

import types

import hypothesis
import numpy as np
import paddle
from hypothesis import strategies as st
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from psa_paddle.bridge import alloc, recording


class At:
    """A tensor somewhere."""

    def __init__(self, address: int):
        self.address = address

    def data_ptr(self) -> int:
        return self.address


def test_tells_tensors_by_their_addresses_or_says_that_it_cannot():
    found = recording.Recording((At(160), None, At(32)))
    for address in (320, 480, 320):
        found.make(At(address), (4,), "int8")
    assert [found.number(At(x)) for x in (160, 32, 480, 320, 16)] == [0, 2, 4, 5, None] and found.complete
    for address in (0, 328, 160):  # of no memory; not aligned; that of a tensor which is given, so that one is neither
        found = recording.Recording((At(160), None, At(32)))
        found.make(At(address), (4,), "int8")
        assert not found.complete, address
    assert not recording.Recording((At(160), None, At(160))).complete
    found = recording.Recording((At(160),))
    for grid in ((3,), (3, 4), (3, 4, 5)):
        found.launch(None, grid, [At(160), 5])
    assert [launch.grid for launch in found.launches] == [(3, 1, 1), (3, 4, 1), (3, 4, 5)] and found.complete
    found.launch(None, (1,), [At(32), 5])
    assert not found.complete


class OnGpu:
    """What is asked of a Paddle GPU tensor."""

    __module__ = "paddle"

    def __init__(self, dtype, shape, strides, address: int, device: int):
        self.dtype, self.shape, self.strides, self.address = dtype, shape, strides, address
        self.place = types.SimpleNamespace(is_gpu_place=lambda: True, gpu_device_id=lambda: device)

    def data_ptr(self) -> int:
        return self.address


def _kernel(x, length, stride):
    pass


SIZES = st.lists(st.sampled_from([1, 2, 16, 17, 2**31, 2**31 + 8]), min_size=2, max_size=2)
GPU_TENSORS = st.builds(
    OnGpu, st.sampled_from([paddle.float32, paddle.float16, paddle.bfloat16]), SIZES, SIZES,
    st.sampled_from([2**20 + i for i in (0, 2, 4, 8, 16, 64)]), st.integers(0, 1),
)  # fmt: skip


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(GPU_TENSORS, GPU_TENSORS, st.sets(st.sampled_from(["dtype", "shape", "strides", "address", "place"])))
def test_tensors_of_one_layout_are_of_one_specialisation(one, other, alike):
    """By Triton's own rules; sizes and strides are arguments, too. ``alike``: in what the two surely do not differ."""
    for name in alike:
        setattr(other, name, getattr(one, name))
    assert (alloc.layout(one) == alloc.layout(other)) or alike != {"dtype", "shape", "strides", "address", "place"}
    if alloc.layout(one) == alloc.layout(other):
        kernel = JITFunction(_kernel)
        backend = make_backend(GPUTarget("cuda", 90, 32))
        specialised = create_function_from_signature(kernel.signature, kernel.params, backend)
        found, wanted = (specialised(x, x.shape[1], x.strides[0])[1] for x in (one, other))
        assert found == wanted and one.place.gpu_device_id() == other.place.gpu_device_id()


def test_a_host_tensor_has_no_layout():
    assert alloc.layout(paddle.zeros([4])) is None and alloc.layout(np.zeros(4)) is None
