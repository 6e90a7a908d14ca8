"""The GPU tests' session runs where there is no Paddle, and skips where there is no GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NO_PADDLE = """
import sys
class NoPaddle:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "paddle":
            raise ModuleNotFoundError("No module named 'paddle'", name="paddle")
sys.meta_path.insert(0, NoPaddle())
"""


def test_without_paddle_and_gpu_everything_is_skipped(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_PADDLE)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    env.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1]
    assert re.search(r"\d+ skipped", last) and not re.search("passed|failed|error", last), done.stdout + done.stderr
    assert "the GPU tests need torch" in done.stdout or "no CUDA GPU" in done.stdout
