"""Kernels run in Triton's interpreter, which must be chosen before anything imports Triton."""

import os

import pytest

os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def write_preset(tmp_path):
    """Writes a preset file and returns its path."""

    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
