"""Numerics of the Triton kernels on a GPU, with torch tensors; Paddle's where Paddle sees the GPU.

    python -m pytest tests/gpu -m gpu                      # some minutes, most of them compiling
    python -m pytest tests/gpu -m "gpu or thorough"        # every shape in every dtype, direction and kind
    compute-sanitizer --tool memcheck python -m pytest tests/gpu/test_operator.py -m gpu -k "bf16 and not Lk2048"

Needs torch, Triton, NumPy and pytest; PYTHONPATH=. where psa_paddle is not installed. Shapes and error budget are those
of the tests in Triton's interpreter. ``benchmarks/racecheck_roles.cu`` says what racecheck makes of Triton's roles.
"""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def cuda():
    """Skips where the kernels cannot run."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("kernels are in Triton's interpreter: python -m pytest tests/gpu -m gpu")


def pytest_collection_modifyitems(config, items):
    """The thorough ones run when ``-m`` names them."""
    if "thorough" not in config.option.markexpr:
        thorough = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=thorough)
        items[:] = [item for item in items if item not in set(thorough)]
