"""What every kernel test relies on: the interpreter is really used, and no buffer starts out clean."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def interpreter():
    """Fail, rather than skip, when something imported Triton for compilation before this folder was collected."""
    import triton.language as tl
    from triton.runtime.jit import JITFunction

    if isinstance(tl.sum, JITFunction):
        pytest.exit("Triton was imported before TRITON_INTERPRET=1 was set; set it in the environment.", returncode=2)


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Every buffer a launcher allocates starts as NaN, or as numbers that no kernel may read unwritten."""
    import numpy as np
    import paddle

    from psa_paddle import bridge

    allocate = bridge.empty

    def poisoned(shape, dtype, like):
        bad = float("nan") if "float" in dtype else 0x55
        x = allocate(shape, dtype, like)
        return np.full_like(x, bad) if isinstance(x, np.ndarray) else paddle.full(x.shape, bad, x.dtype)

    monkeypatch.setattr(bridge, "empty", poisoned)
