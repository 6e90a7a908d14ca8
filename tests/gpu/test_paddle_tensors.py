"""The operator on genuine Paddle GPU tensors, without torch in the process: bitwise as on torch tensors, within the
error budget, on Paddle's streams, and leaving Triton's driver and the CUDA context as they were."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from gpu.gpu_cases import torch  # noqa: F401  without torch there is nothing to compare with
from gpu.paddle_cases import CASES, ORDERS

pytestmark = pytest.mark.gpu
SIDES = Path(__file__).with_name("paddle_sides.py")
ROOT = SIDES.parents[2]
CHECKS = [
    *CASES, *(f"token order {method}" for method in ORDERS), "the driver passes Paddle's current stream",
    "behind a held stream nothing is written", "the default stream does not wait",
    "after its release the output is torch's", "Triton's driver stays active", "another driver stays active",
    "the CUDA context stays", "torch is never imported",
]  # fmt: skip


def python(*args) -> subprocess.CompletedProcess:
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run([sys.executable, *map(str, args)], env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def found(cuda, tmp_path_factory):
    """The Paddle side's report, and what it printed."""
    if find_spec("paddle") is None:
        pytest.skip("no Paddle")
    if python("-c", "import paddle; paddle.device.cuda.device_count() or exit(1)").returncode:
        pytest.skip("Paddle sees no GPU")
    folder = tmp_path_factory.mktemp("sides")
    for side in ("torch", "paddle"):
        done = python(SIDES, side, folder)
        assert done.returncode == 0, f"the {side} side: {done.stderr[-3000:]}"
    return json.loads((folder / "report.json").read_text()), done.stderr


@pytest.mark.parametrize("check", CHECKS)
def test_paddle_tensors(found, check):
    report, printed = found
    assert check in report, f"it broke: {printed[-3000:]}"
    assert not report[check], report[check]
