"""Which instructions MKL is told to take."""

import os
import signal
from argparse import Namespace

import pytest

from psa_paddle import cli
from psa_paddle.integrations.language import loading
from psa_paddle.utils.cpu import VARIABLE, fastest, use_fastest_products

AVX512 = "avx512f avx512dq avx512cd avx512bw avx512vl"


def described(vendor: str, flags: str) -> str:
    return "".join(f"processor\t: {i}\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n\n" for i in range(2))


@pytest.mark.parametrize(
    "vendor,flags,number",
    [
        ("AuthenticAMD", f"fma avx2 {AVX512}", "7"),
        ("AuthenticAMD", "fma avx avx2 avx512f", "5"),
        ("AuthenticAMD", "avx2", None),
        ("GenuineIntel", f"fma avx2 {AVX512}", None),
    ],
    ids=["AVX-512", "a part of AVX-512", "no FMA", "Intel"],
)
def test_newest_instructions_that_an_amd_processor_has(vendor, flags, number):
    assert fastest(described(vendor, flags)) == number


def test_other_systems_say_nothing(tmp_path, monkeypatch):
    assert fastest("CPU implementer\t: 0x41\nFeatures\t: fp asimd\n") is None
    monkeypatch.delenv(VARIABLE, raising=False)
    use_fastest_products(str(tmp_path / "none"))
    assert VARIABLE not in os.environ


def test_the_user_has_the_last_word(tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    file.write_text(described("AuthenticAMD", "fma avx2"))
    monkeypatch.setenv(VARIABLE, "4")
    use_fastest_products(str(file))
    assert os.environ[VARIABLE] == "4"
    monkeypatch.delenv(VARIABLE)
    use_fastest_products(str(file))
    assert os.environ[VARIABLE] == "5"


def test_the_command_and_every_load_ask_for_it(monkeypatch):
    asked = []
    for module in (cli, loading):
        monkeypatch.setattr(module, "use_fastest_products", lambda module=module: asked.append(module))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        cli.run_process(lambda: Namespace(run=lambda args: 0))
    with pytest.raises(ValueError, match="neither a folder here"):
        loading.load_qwen2_5_vl("./none", "float32")
    assert asked == [cli, loading]
