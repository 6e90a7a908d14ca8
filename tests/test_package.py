"""Importing: lazily, and with a helpful sentence where there is no Paddle."""

import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import psa_paddle
from psa_paddle.presets import PRESET_FILE

ROOT = Path(__file__).resolve().parents[1]
BLOCK_PADDLE = """
import sys
class NoPaddle:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "paddle":
            raise ModuleNotFoundError("No module named 'paddle'", name="paddle")
sys.meta_path.insert(0, NoPaddle())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "paddle" else find(name, *a)
"""


def run(code):
    return subprocess.run([sys.executable, "-c", BLOCK_PADDLE + code], capture_output=True, text=True)


def test_config_needs_no_paddle():
    done = run("from psa_paddle import AttentionConfig; print(AttentionConfig().key_block)")
    assert done.returncode == 0 and done.stdout.strip().isdigit(), done.stderr


def test_triangle_kernels_need_no_paddle():
    done = run("from psa_paddle.kernels.triangle import triangle_fwd; print(triangle_fwd.__name__)")
    assert done.returncode == 0 and done.stdout.strip() == "triangle_fwd", done.stderr


def test_a_plan_needs_no_paddle():
    code = "from psa_paddle import AttentionConfig\nfrom psa_paddle.plan import Plan\n"
    done = run(code + "print(Plan.of(AttentionConfig(text_length=7), 0.5).forced_text)")
    assert done.stdout.split() == ["7"], done.stderr


def test_presets_and_token_orders_need_no_paddle():
    done = run(
        "from psa_paddle import PSAConfig, load_preset, kernels\nfrom psa_paddle.rearrange import STA\n"
        "print(load_preset('Wan2.1_14b').config.rearrange_method, PSAConfig().block_n, STA((2, 3, 4)).grid)"
    )
    assert done.stdout.strip() == "Gilbert 64 (2, 3, 4)", done.stderr


@pytest.mark.parametrize("name", ["pyramid_attention", "PyramidAdaptiveBlockSparseAttn", "PSAAttention"])
def test_operator_without_paddle_says_what_to_install(name):
    done = run(f"from psa_paddle import {name}")
    assert done.returncode != 0
    assert "ImportError" in done.stderr and "paddlepaddle==3.3.1" in done.stderr and "paddlepaddle-gpu" in done.stderr


def test_public_names_exist():
    assert all(getattr(psa_paddle, name) is not None for name in psa_paddle.__all__)
    assert psa_paddle.PyramidAdaptiveBlockSparseAttnTrain is psa_paddle.PyramidAdaptiveBlockSparseAttn


def test_unknown_name():
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = psa_paddle.no_such_thing


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folders: what a wheel holds, and its metadata."""
    pytest.importorskip("setuptools")
    lib, base = tmp_path_factory.mktemp("lib"), tmp_path_factory.mktemp("base")
    build = ["egg_info", "--egg-base", base, "build", "--build-base", base, "--build-lib", lib]
    subprocess.run([sys.executable, "setup.py", "-q", *build], cwd=ROOT, check=True, capture_output=True)
    return lib, next(base.glob("*.egg-info"))


def outside(built, code):
    """Run code outside the checkout, on what the build copied."""
    lib, _ = built
    env = {**os.environ, "PYTHONPATH": str(lib)}
    return subprocess.run([sys.executable, "-c", code], cwd=lib, env=env, capture_output=True, text=True)


def test_presets_are_installed_with_the_package(built):
    """What the build copies is enough to load a preset from anywhere, and the repository holds one copy only."""
    code = "import psa_paddle; print(psa_paddle.__file__); print(psa_paddle.load_preset('Wan2.1_14b').name)"
    done = outside(built, code)
    assert done.stdout.split() == [str(built[0] / "psa_paddle" / "__init__.py"), "psa_balanced"], done.stderr
    assert os.path.samefile(ROOT / "configs" / "attention_config.yaml", PRESET_FILE)


def test_the_changelog_knows_the_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[:2] == ["Unreleased", psa_paddle.__version__]


def files_of(package: Path) -> set[str]:
    files = [path.relative_to(package) for path in package.rglob("*") if path.is_file()]
    return {str(path) for path in files if "__pycache__" not in path.parts}


def test_everything_in_the_package_is_installed(built):
    """Sources, presets, the demo checkpoint and its sample, the mark for type checkers; and nothing else."""
    kept = files_of(ROOT / "psa_paddle")
    assert files_of(built[0] / "psa_paddle") == kept
    assert {"py.typed", "demo/checkpoint/model.safetensors", "demo/sample.mp4"} <= kept


def test_the_console_command_is_installed(built):
    written = ConfigParser()
    written.read(built[1] / "entry_points.txt")
    module, name = written["console_scripts"]["psa-paddle"].split(":")
    version = f"import sys, {module}; sys.argv[1:] = ['--version']; {module}.{name}()"
    done = outside(built, version)
    assert (done.returncode, done.stdout) == (0, f"psa-paddle {psa_paddle.__version__}\n"), done.stderr


def test_the_demo_is_found_outside_the_checkout(built):
    code = "from psa_paddle.integrations.language.loading import DEMO; print(DEMO, (DEMO / 'config.json').is_file())"
    done = outside(built, code)
    assert done.stdout.split() == [str(built[0] / "psa_paddle" / "demo" / "checkpoint"), "True"], done.stderr
    assert (ROOT / "demo" / "checkpoint").samefile(ROOT / "psa_paddle" / "demo" / "checkpoint")


def test_chinese_is_found_outside_the_checkout(built, monkeypatch):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    done = outside(built, "from psa_paddle.utils.language import say; print(say('interrupted'))")
    assert done.stdout == "已中断\n", done.stderr
