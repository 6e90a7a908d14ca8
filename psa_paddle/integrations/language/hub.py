"""Weights by the name of a model hub: from the hub, or from what was downloaded before; one sentence when neither."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ...utils.network import chain, network_error

CHECKPOINT = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # files of one that are read here
SOURCES = {"huggingface": "Hugging Face", "modelscope": "ModelScope", "aistudio": "AI Studio"}


Loaded = TypeVar("Loaded")


class HubError(ValueError):
    """A hub that gives no model, with what to do about it."""


def source() -> str:
    """The hub that ``DOWNLOAD_SOURCE`` names, PaddleFormers' variable.

    Raises:
        HubError: not one of ``SOURCES``.
    """
    name = os.environ.get("DOWNLOAD_SOURCE", "huggingface")
    if name not in SOURCES:
        raise HubError(f"DOWNLOAD_SOURCE must be one of {', '.join(SOURCES)}, got {name!r}.")
    return name


def load_by_name(load: Callable[[str, str, Any], Loaded], name: str, dtype: str, cache_dir=None) -> Loaded:
    """``load(name, dtype, cache_dir)``; when the hub cannot be reached, the copy that it gave earlier.

    Raises:
        HubError: the hub cannot be reached, and there is no whole copy; or another hub than Hugging Face's failed. Else
            what ``load`` raises.
    """
    if Path(name).is_dir():
        return load(name, dtype, cache_dir)
    hub = source()
    try:
        return load(name, dtype, cache_dir)
    except Exception as error:
        failure = network_error(error)
        if failure is None and hub == "huggingface":
            raise
        copy = earlier_copy(name, cache_dir) if hub == "huggingface" else None
        if copy is not None:
            return load(copy, dtype, cache_dir)
        place = os.environ.get("HF_ENDPOINT", SOURCES[hub]) if hub == "huggingface" else SOURCES[hub]
        reason = describe(failure or list(chain(error))[-1])  # PaddleFormers hides why these hubs' own clients failed
        raise HubError(
            f"model '{name}' could not be downloaded from {place} ({reason}); give the folder of a checkpoint, as "
            f"'modelscope download --model {name} --local_dir FOLDER' makes one, or set HF_ENDPOINT to a mirror of "
            "Hugging Face's hub; README.md says more under 'Mirrors and offline use'."
        ) from error


def folder_of(name: str, _, cache_dir=None) -> str:
    """A ``load`` for ``load_by_name``: the folder of a checkpoint, downloaded whole where it is a name, which several
    processes may do at once.

    Raises:
        ValueError: another hub than Hugging Face's. OSError: a copy that is not whole. Else what the client raises.
    """
    if Path(name).is_dir():
        return name
    if source() != "huggingface":
        raise ValueError("several processes at once download from Hugging Face's hub alone")
    from huggingface_hub import snapshot_download

    folder = snapshot_download(name, cache_dir=cache_dir, allow_patterns=CHECKPOINT)
    if not is_whole(Path(folder)):
        raise FileNotFoundError(f"'{folder}' has not all weights, and the hub gave no more")
    return folder


def describe(failure: BaseException) -> str:
    """An error in a few words: its class and the first line of what it says."""
    words = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {words[0].rstrip('.')}" if words else type(failure).__name__


def earlier_copy(name: str, cache_dir=None) -> str | None:
    """The folder of a whole checkpoint in Hugging Face's cache; None without one."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, cache_dir=cache_dir, local_files_only=True))
    except (OSError, ValueError):
        return None
    return str(folder) if is_whole(folder) else None


def is_whole(folder: Path) -> bool:
    """Whether a folder has a configuration and every file of weights that its index names."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    else:
        files = {"model.safetensors"}
    return all((folder / file).is_file() for file in ("config.json", *files))
