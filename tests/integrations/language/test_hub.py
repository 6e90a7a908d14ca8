"""Weights by a hub's name: from a mirror, from the copy that was downloaded before, or one sentence."""

import json
import os
import subprocess
import sys

import pytest
from httpx import ConnectError
from shared_demo import ROOT

from psa_paddle.integrations.language import hub
from psa_paddle.integrations.language.hub import HubError, is_whole, load_by_name

FROM_A_MIRROR = """
import glob, os, sys
from shared_http import serving
from shared_hub import hub

with serving(hub("demo/checkpoint")) as address:
    os.environ["HF_ENDPOINT"] = address
    from psa_paddle.integrations.language.inference import QwenVLInference
    from psa_paddle.integrations.language.loading import checkpoint_family

    name = checkpoint_family("demo/tiny", cache_dir=sys.argv[1]).name
    print(name, glob.glob(sys.argv[1] + "/**/*.safetensors", recursive=True))
    print(QwenVLInference("demo/tiny", cache_dir=sys.argv[1]).inference_image("demo/sample.jpg", "What is this?"))
# The mirror is gone.
print(checkpoint_family("demo/tiny", cache_dir=sys.argv[1]).name)
print(QwenVLInference("demo/tiny", cache_dir=sys.argv[1]).inference_image("demo/sample.jpg", "What is this?"))
try:
    QwenVLInference("demo/other", cache_dir=sys.argv[1])
except ValueError as error:
    print(str(error).replace(address, "MIRROR"))
"""


def test_a_mirror_and_then_no_network(tmp_path):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    surroundings = {**os.environ, "PYTHONPATH": path, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", FROM_A_MIRROR, str(tmp_path / "cache")]
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=120)
    family, first, again, second, refused = done.stdout.splitlines()
    assert family == "Qwen2.5-VL []" and again == "Qwen2.5-VL"
    assert "card with 31" in first and second == first and done.stderr == ""
    assert list(tmp_path.glob("cache/**/model.safetensors"))
    assert refused.startswith("model 'demo/other' could not be downloaded from MIRROR (ConnectError: ")
    ways = "modelscope download --model demo/other --local_dir", "HF_ENDPOINT", "Mirrors and offline use"
    for way in ("give the folder of a checkpoint", *ways):
        assert way in refused
    for readme, heading in (("README.md", "## Mirrors and offline use"), ("README_zh.md", "## 镜像与离线使用")):
        assert heading in (ROOT / readme).read_text(encoding="utf-8")


def unreachable(name, dtype, cache_dir):
    raise ConnectError("Name or service not known")


def lost(name, dtype, cache_dir):
    try:
        unreachable(name, dtype, cache_dir)
    except ConnectError:
        raise OSError("no such file in the repository")  # noqa: B904, as PaddleFormers does with ModelScope


@pytest.mark.parametrize("source,place", [("huggingface", "Hugging Face"), ("modelscope", "ModelScope")])
@pytest.mark.parametrize("load", [unreachable, lost])
def test_says_what_to_do_and_which_hub(load, source, place, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("DOWNLOAD_SOURCE", source)
    with pytest.raises(HubError, match=rf"downloaded from {place} \(ConnectError: Name or service not known\); give"):
        load_by_name(load, "Qwen/Qwen2.5-VL-7B-Instruct", "float32", str(tmp_path))


def test_the_copy_is_sought_where_downloads_are_kept(monkeypatch, tmp_path):
    sought = []
    monkeypatch.delenv("DOWNLOAD_SOURCE", raising=False)
    monkeypatch.setattr(hub, "earlier_copy", lambda *given: sought.append(given))
    with pytest.raises(HubError):
        load_by_name(unreachable, "a/b", "float32", str(tmp_path))
    assert sought == [("a/b", str(tmp_path))]


def test_another_error_is_left_alone(tmp_path):
    def load(name, dtype, cache_dir):
        raise OSError("not a valid model identifier")

    with pytest.raises(OSError, match="not a valid model") as caught:
        load_by_name(load, "a/b", "float32", str(tmp_path))
    assert not isinstance(caught.value, HubError)


def test_the_client_of_another_hub_fails(monkeypatch, tmp_path):
    """PaddleFormers 1.2 calls ModelScope 1.40 with arguments that it does not take, and says that a file is missing."""

    def load(name, dtype, cache_dir):
        try:
            raise TypeError("model_file_download() takes from 2 to 3 positional arguments but 6 were given")
        except TypeError:
            raise OSError("Does not appear one of the files")  # noqa: B904

    monkeypatch.setenv("DOWNLOAD_SOURCE", "modelscope")
    with pytest.raises(
        HubError, match=r"from ModelScope \(TypeError: model_file_download\(\) takes .*modelscope download"
    ):
        load_by_name(load, "a/b", "float32", str(tmp_path))


def test_refuses_a_hub_that_is_none(monkeypatch):
    monkeypatch.setenv("DOWNLOAD_SOURCE", "gopher")
    with pytest.raises(HubError, match="must be one of huggingface, modelscope, aistudio, got 'gopher'"):
        load_by_name(unreachable, "a/b", "float32")
    assert load_by_name(lambda *given: given, str(ROOT / "demo"), "float32") == (str(ROOT / "demo"), "float32", None)


def test_half_a_download_is_no_copy(tmp_path):
    assert not is_whole(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert not is_whole(tmp_path)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_text("")
    assert not is_whole(tmp_path)
    (tmp_path / "model-2.safetensors").write_text("")
    assert is_whole(tmp_path)


def test_a_copy_is_only_sought_where_the_hub_keeps_it(monkeypatch, tmp_path):
    monkeypatch.setenv("DOWNLOAD_SOURCE", "modelscope")
    monkeypatch.setattr(hub, "earlier_copy", lambda *given: pytest.fail("Hugging Face's cache is not ModelScope's"))
    with pytest.raises(HubError, match="ModelScope"):
        load_by_name(unreachable, "a/b", "float32", str(tmp_path))
