"""The machine and what is installed on it, seen without importing any of it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from .. import __version__
from .findings import FAILED, NOT_POSSIBLE, OK, Check, Fact

PYTHONS = ((3, 10), (3, 12))
# What setup.py asks for: name on PyPI -> (oldest version, how to get it).
LEAST = {
    "paddleformers": ("1.2.0", "pip install paddleformers==1.2.0"),
    "av": ("17.1", "pip install 'av>=17.1'"),
    "pillow": ("11", "pip install 'pillow>=11'"),
    "requests": ("2.32", "pip install 'requests>=2.32'"),
}
OTHERS = ("numpy", "triton", "paddlenlp", "paddlemix", "ppdiffusers")
GPU_FIELDS = "name,memory.total,memory.free,driver_version,compute_cap"


def installed(name: str) -> str | None:
    """The version of a package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """``"3.3.1.post1"`` -> (3, 3, 1)."""
    return tuple(int(x) for x in re.findall(r"\d+", version)[:3])


def older(version: str, least: str) -> bool:
    """Whether a version is below another; a development build, ``0.0.0``, is not."""
    return numbers(least) > numbers(version) != (0, 0, 0)


def nvidia_gpus() -> list[str]:
    """One line a GPU, as nvidia-smi tells it; empty without one."""
    command = ["nvidia-smi", f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    return [gpu_line(line) for line in done.stdout.splitlines() if line.count(",") == GPU_FIELDS.count(",")]


def gpu_line(line: str) -> str:
    """A line of nvidia-smi in words."""
    name, total, free, driver, capability = (part.strip() for part in line.split(","))
    return f"{name}, {total} ({free} free), compute capability {capability}, driver {driver}"


def machine_facts(gpus: list[str]) -> Iterator[Fact]:
    """Versions, processor, GPUs, memory and disk."""
    yield Fact("psa_paddle", __version__)
    yield Fact("Python", f"{platform.python_version()}, {platform.platform()}")
    for name in (*LEAST, *OTHERS):
        yield Fact(name, installed(name) or "not installed")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Fact("CPU", f"{_cpu_name()}, {cores} cores")
    for i, line in enumerate(gpus):
        yield Fact(f"GPU {i}", line)
    if not gpus:
        yield Fact("GPU", "none (nvidia-smi finds none)")
    free, total = _memory("MemAvailable"), _memory("MemTotal")
    yield Fact("memory", f"{_gib(free)} free of {_gib(total)}")
    place = _existing(hub_cache())
    yield Fact("disk", f"{_gib(shutil.disk_usage(place).free)} free at {place}")


def version_checks() -> Iterator[Check]:
    """Whether Python and the packages are ones that psa_paddle runs on."""
    version = platform.python_version()
    if PYTHONS[0] <= numbers(version)[:2] <= PYTHONS[1]:
        yield Check("Python", OK, version)
    else:
        yield Check("Python", FAILED, version, "Make an environment with Python 3.10, 3.11 or 3.12.")
    wrong, how = [], []
    for name, (least, install) in LEAST.items():
        found = installed(name)
        if name == "paddleformers" and found is None and installed("paddlemix"):
            continue  # the models can come from there
        if found is None or older(found, least):
            wrong.append(f"{name} is not installed" if found is None else f"{name} {found} is older than {least}")
            how.append(install)
    if wrong:
        yield Check("packages", FAILED, "; ".join(wrong), f"Run: {' && '.join(how)}")
    else:
        yield Check("packages", OK, "all that psa_paddle needs is installed")


def hub_cache() -> Path:
    """Where Hugging Face's client keeps what it downloads."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def weights() -> Iterator[Fact]:
    """The Qwen2.5-VL checkpoints in the hubs' caches."""
    from ..integrations.language.hub import earlier_copy, is_whole

    found = []
    for folder in sorted(hub_cache().glob("models--*Qwen2.5-VL*")):
        name = folder.name.removeprefix("models--").replace("--", "/")
        whole = earlier_copy(name, hub_cache()) is not None
        found.append(name if whole else f"{name} (not whole: the download did not end)")
    modelscope = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope/hub").expanduser()
    for folder in sorted(modelscope.glob("models/*/Qwen2*5-VL*")):
        if (folder / "config.json").is_file():
            found.append(str(folder) if is_whole(folder) else f"{folder} (not whole)")
    yield Fact("weights", ", ".join(found) or f"no Qwen2.5-VL in {hub_cache()} or {modelscope}")


def hub() -> Iterator[Fact | Check]:
    """The weights that are here, and whether the hub has others."""
    yield from weights()
    yield hub_check()


def hub_check() -> Check:
    """Whether the hub answers; one request, for nothing but its headers."""
    import requests

    from ..integrations.language.hub import HubError, source

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return Check("hub", NOT_POSSIBLE, "HF_HUB_OFFLINE says not to ask", "Unset it to download weights.")
    places = {"modelscope": "https://modelscope.cn", "aistudio": "https://aistudio.baidu.com"}
    try:
        place = places.get(source())
    except HubError as error:
        return Check("hub", FAILED, str(error), "Change or unset DOWNLOAD_SOURCE.")
    place = place or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    shown = re.sub(r"//[^/@]*@", "//", place)
    advice = (
        "Give --model the folder of a checkpoint, or set HF_ENDPOINT to a mirror (README.md, Mirrors and offline use)."
    )
    try:
        answer = requests.head(place, timeout=4, allow_redirects=True)
    except requests.RequestException as error:
        return Check("hub", NOT_POSSIBLE, f"{shown} cannot be reached ({type(error).__name__})", advice)
    if answer.status_code >= 500:
        return Check("hub", NOT_POSSIBLE, f"{shown} answers with status {answer.status_code}", advice)
    return Check("hub", OK, f"{shown} answers")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _cpu_name() -> str:
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _memory(field: str) -> int | None:
    """Bytes of a line of /proc/meminfo; None where there is none."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**30:.1f} GiB"
