"""Matrix products on a CPU. Paddle brings an MKL of 2019, which takes its oldest instructions on AMD's processors, two
to five times as slow, unless an environment variable names others."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MKL_DEBUG_CPU_TYPE"  # newer versions of MKL do not read it
INSTRUCTIONS = {  # MKL's number: what a processor must have for it, as Linux names it
    "7": {"avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl"},
    "5": {"avx2", "fma"},
}


def fastest(cpuinfo: str) -> str | None:
    """MKL's number of the newest instructions of an AMD processor that Linux describes so; None where MKL finds them
    by itself, or there are none."""
    said: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        said.setdefault(name.strip(), value.strip())
    if said.get("vendor_id") != "AuthenticAMD":
        return None
    flags = set(said.get("flags", "").split())
    return next((number for number, needed in INSTRUCTIONS.items() if needed <= flags), None)


def use_fastest_products(cpuinfo: str = "/proc/cpuinfo") -> None:
    """Let this process and those that it starts multiply by the newest instructions, unless the user has said by which;
    does nothing after the process's first product."""
    path = Path(cpuinfo)
    number = fastest(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    if number is not None:
        os.environ.setdefault(VARIABLE, number)
