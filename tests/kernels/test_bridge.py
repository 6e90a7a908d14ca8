"""Triton on Paddle tensors: views, allocation, and the driver's manners, without a GPU."""

import importlib
import types

import numpy as np
import paddle
import pytest
import triton
import triton.language as tl


@triton.jit
def _double_kernel(x, y, n, stride, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i * stride, mask=i < n, other=0.0) * 2, mask=i < n)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int16", "int8"])
@pytest.mark.parametrize("n", [1, 63, 129])
def test_interpreter_reads_and_writes_paddle_memory_in_place(n, dtype):
    from psa_paddle import bridge

    host = np.arange(3 * n).astype(dtype)
    x = paddle.to_tensor(host).reshape([n, 3])[:, 1]
    assert bridge.strides(x) == (3,)
    y = paddle.full([n + 1], 7, dtype)
    bridge.launch(_double_kernel, (-(-n // 32),), like=x, x=x, y=y, n=n, stride=3, BLOCK=32)
    np.testing.assert_array_equal(y.numpy()[:n], (host[1::3] * 2).astype(dtype))
    assert y.numpy()[n] == 7


@pytest.mark.parametrize("like", [paddle.zeros([1]), np.zeros(1)], ids=["paddle", "numpy"])
def test_empty_follows_its_example(like):
    from psa_paddle import bridge
    from psa_paddle.bridge import alloc

    x = alloc.empty((2, 3), "float16", like)
    assert type(x) is type(like) and list(x.shape) == [2, 3] and bridge.dtype_name(x) == "float16"


def test_parameters_count_as_paddle_tensors():
    from psa_paddle.bridge import alloc

    assert alloc.framework_of(paddle.create_parameter([2], "float32")) == "paddle"
    with pytest.raises(TypeError, match="got list"):
        alloc.framework_of([1.0])


def test_host_tensors_are_refused_outside_the_interpreter():
    from triton.runtime.jit import JITFunction

    from psa_paddle import bridge

    with pytest.raises(ValueError, match="TRITON_INTERPRET"):
        bridge.launch(JITFunction(_double_kernel.fn), (1,), like=paddle.zeros([1]))


@pytest.mark.parametrize(
    "version, fine", [("3.5.0", True), ("3.10.1", True), ("4.0", True), ("3.4.0", False), ("2.1", False)]
)
def test_old_triton_is_refused_with_what_to_install(version, fine):
    from psa_paddle import bridge

    if fine:
        bridge.check_triton(version)
    else:
        with pytest.raises(ImportError, match=r"install 'triton>=3\.5'"):
            bridge.check_triton(version)


class Libcuda:
    """What the driver asks of libcuda: handles are 100 + device, contexts 1000 + handle; numbers as in cuda.h."""

    ATTRIBUTES = {75: 9, 76: 1, 16: 132}  # compute capability major and minor, multiprocessors

    def __init__(self):
        self.log, self.status, self.contexts = [], 0, []

    def __getattr__(self, name):
        def call(*args):
            self.log.append(name)
            if name == "cuDeviceGet":
                args[0]._obj.value = 100 + args[1]
            elif name == "cuDeviceGetAttribute":
                assert args[2].value in (100, 101)
                args[0]._obj.value = self.ATTRIBUTES[args[1]]
            elif name == "cuDevicePrimaryCtxRetain":
                args[0]._obj.value = 1000 + args[1].value
            elif name == "cuCtxPushCurrent_v2":
                self.contexts.append(args[0].value)
            return self.status

        return call


def test_gluon_is_that_of_one_release(monkeypatch):
    from psa_paddle import bridge

    for version, has in {"3.6.0": True, "3.6.1+git12": True, "3.5.1": False, "3.7.0": False, "4.6": False}.items():
        monkeypatch.setattr(triton, "__version__", version)
        assert bridge.has_gluon() == has, version


@pytest.fixture
def fake_gpu(monkeypatch):
    """The driver on a machine without CUDA: Triton's C module, libcuda and Paddle's stream replaced."""
    from psa_paddle.bridge import driver

    library = Libcuda()
    monkeypatch.setattr(driver, "CudaUtils", lambda: object())
    monkeypatch.setattr(driver, "libcuda", lambda: library)
    streams = {0: 111, 1: 222}
    stream = lambda device: types.SimpleNamespace(cuda_stream=streams[device])  # noqa: E731
    monkeypatch.setattr(paddle.base.core, "_get_current_stream", stream, raising=False)
    caches = (driver.driver_of, driver._attribute, driver.primary_context)
    for cache in caches:
        cache.cache_clear()
    yield types.SimpleNamespace(driver=driver, log=library.log, library=library, streams=streams)
    for cache in caches:
        cache.cache_clear()


def launch_on(driver, device, kernel):
    with driver.active_on(device) as found:
        assert found == device
        kernel[(1,)]()


class Recorder:
    """Stands for a kernel: notes what the active driver says while it is launched."""

    def __init__(self, error=None):
        self.error, self.seen = error, []

    def __getitem__(self, grid):
        def run(**kwargs):
            active = triton.runtime.driver.active
            device = active.get_current_device()
            self.seen.append((device, active.get_current_stream(device), active.get_current_target().arch))
            if self.error:
                raise self.error

        return run


def test_launch_uses_the_tensors_device_and_paddles_current_stream(fake_gpu):
    kernel = Recorder()
    launch_on(fake_gpu.driver, 0, kernel)
    launch_on(fake_gpu.driver, 1, kernel)
    fake_gpu.streams[0] = 333  # a stream guard in between
    launch_on(fake_gpu.driver, 0, kernel)
    assert kernel.seen == [(0, 111, 91), (1, 222, 91), (0, 333, 91)]
    assert fake_gpu.log.count("cuCtxPushCurrent_v2") == fake_gpu.log.count("cuCtxPopCurrent_v2") == 3


@pytest.mark.parametrize("error", [None, RuntimeError("launch failed")], ids=["returns", "raises"])
@pytest.mark.parametrize("before", [None, object()], ids=["default", "someone else's"])
def test_whatever_driver_was_active_is_restored(fake_gpu, before, error):
    config = triton.runtime.driver
    original = config._active
    config.set_active(before)
    try:
        if error:
            with pytest.raises(RuntimeError, match="launch failed"):
                launch_on(fake_gpu.driver, 0, Recorder(error))
        else:
            launch_on(fake_gpu.driver, 0, Recorder())
        assert config._active is before
    finally:
        config.set_active(original)
    assert fake_gpu.log[-1] == "cuCtxPopCurrent_v2"


def test_asks_the_device_for_what_it_is(fake_gpu):
    assert fake_gpu.driver.capability(1) == (9, 1) and fake_gpu.driver.multiprocessors(0) == 132
    assert fake_gpu.driver.driver_of(1).get_device_capability(1) == (9, 1)
    assert fake_gpu.driver.driver_of(1).get_current_device() == 1


def test_a_paddle_tensor_is_of_its_devices_architecture(fake_gpu):
    """Of a kernel that is compiled, not interpreted."""
    from triton.runtime.jit import JITFunction

    from psa_paddle import bridge

    place = types.SimpleNamespace(gpu_device_id=lambda: 1, is_gpu_place=lambda: True)
    x, kernel = type("Tensor", (), {"__module__": "paddle"})(), JITFunction(_double_kernel.fn)
    x.place = place
    assert bridge.arch(x, kernel) == 91 and bridge.multiprocessors(x, kernel) == 132
    assert bridge.device(x) == "gpu:1"
    assert bridge.device(paddle.zeros([1])) == bridge.device(np.zeros(1)) == "cpu"


def test_launches_in_the_devices_own_context(fake_gpu):
    for device in (0, 1, 0):
        launch_on(fake_gpu.driver, device, Recorder())
    assert fake_gpu.library.contexts == [1100, 1101, 1100]
    assert fake_gpu.log.count("cuDevicePrimaryCtxRetain") == 2, "retained once a device"


def test_an_error_of_cuda_is_raised_with_its_number(fake_gpu):
    fake_gpu.library.status = 3
    with pytest.raises(RuntimeError, match="cuDeviceGet failed with CUDA error 3"):
        fake_gpu.driver.capability(0)


def test_an_old_triton_is_refused_at_the_import(monkeypatch):
    from psa_paddle import bridge

    monkeypatch.setattr(triton, "__version__", "3.4.0")
    with pytest.raises(ImportError, match="found 3.4.0"):
        importlib.reload(bridge)


def test_torch_is_not_imported():
    import subprocess
    import sys

    code = "import sys, psa_paddle.kernels; sys.exit('torch' in sys.modules or 'paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=__file__.rsplit("/tests/", 1)[0]).returncode == 0
