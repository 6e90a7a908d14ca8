"""Kernels run in Triton's interpreter, chosen before anything imports Triton, and under ``-m gpu`` on a GPU."""

import os

import pytest


def pytest_configure(config):
    """``-m gpu`` leaves Triton its GPU, and needs no Paddle."""
    if config.option.markexpr.startswith(("gpu", "thorough")):
        return
    os.environ["TRITON_INTERPRET"] = "1"
    import paddle

    paddle.set_device("cpu")


@pytest.fixture
def write_preset(tmp_path):
    """Writes a preset file and returns its path."""

    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
