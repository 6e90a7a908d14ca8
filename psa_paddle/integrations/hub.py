"""Weights by the name of a model hub: from the hub, or from what was downloaded before; one sentence when neither."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from ..utils.network import network_error

SOURCES = {"huggingface": "Hugging Face", "modelscope": "ModelScope", "aistudio": "AI Studio"}


class HubError(ValueError):
    """A hub that cannot be reached, with what to do about it."""


def source() -> str:
    """The hub that ``DOWNLOAD_SOURCE`` names, PaddleFormers' variable.

    Raises:
        HubError: not one of ``SOURCES``.
    """
    name = os.environ.get("DOWNLOAD_SOURCE", "huggingface")
    if name not in SOURCES:
        raise HubError(f"DOWNLOAD_SOURCE must be one of {', '.join(SOURCES)}, got {name!r}.")
    return name


def load_by_name(load: Callable, name: str, dtype: str, cache_dir=None) -> tuple:
    """``load(name, dtype, cache_dir)``; when the hub cannot be reached, the copy that it gave earlier.

    Raises:
        HubError: the hub cannot be reached, and there is no whole copy. Else what ``load`` raises.
    """
    if Path(name).is_dir():
        return load(name, dtype, cache_dir)
    hub = source()
    try:
        return load(name, dtype, cache_dir)
    except Exception as error:
        failure = network_error(error)
        if failure is None:
            raise
        copy = earlier_copy(name, cache_dir) if hub == "huggingface" else None
        if copy is not None:
            return load(copy, dtype, cache_dir)
        place = os.environ.get("HF_ENDPOINT", SOURCES[hub]) if hub == "huggingface" else SOURCES[hub]
        raise HubError(
            f"model '{name}' could not be downloaded from {place} ({describe(failure)}); give the folder of a "
            "checkpoint that you have, set HF_ENDPOINT to a mirror of the hub, or set DOWNLOAD_SOURCE=modelscope; "
            "README.md says how under 'Mirrors and offline use'."
        ) from error


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
