"""Kernels run in Triton's interpreter, chosen before anything imports Triton, and under ``-m gpu`` on a GPU. The
command line speaks English."""

import os

import pytest


def pytest_configure(config):
    """``-m gpu`` leaves Triton its GPU, and needs no Paddle."""
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES"):
        os.environ.pop(name, None)
    os.environ["LANG"] = "C.UTF-8"
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
