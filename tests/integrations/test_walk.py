"""How far q, k and v travel in the package: from the model's attention layer to the kernel."""

import sys
from pathlib import Path

import paddle
import pytest
from shared_demo import SPARSE

import psa_paddle
from psa_paddle import bridge
from psa_paddle.integrations.qwen2_5_vl import psa_attention_in

# The call that launches the kernel is the last one; two, `repeat` and `_psa`, let a GPU repeat launches.
MAX_FRAMES = 11


class Arrived(Exception):
    pass


def frames_of_the_package() -> list[str]:
    """Functions of the package between here and the model, the first called first."""
    found, frame = [], sys._getframe(2)
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(Path(psa_paddle.__file__).parent):
            found.append(frame.f_code.co_name)
        elif found:
            break
        frame = frame.f_back
    return found[::-1]


def test_from_the_model_to_the_kernel_in_few_calls(demo, prompts, monkeypatch):
    walks = []

    def launch(kernel, grid, *, like, **arguments):
        if "attend" in kernel.__name__:
            walks.append([*frames_of_the_package(), "launch"])
            raise Arrived

    monkeypatch.setattr(bridge, "launch", launch)
    model, _ = demo
    with psa_attention_in(model, SPARSE.replace(backend="triton")), paddle.no_grad(), pytest.raises(Arrived):
        model(**prompts[0])
    assert len(walks[0]) <= MAX_FRAMES, walks[0]
    assert walks[0][0] == "_attention" and {"psa_fwd", "repeat", "_psa"} <= set(walks[0])
