"""The doctor's report: what a machine has, what follows from what, and never a traceback."""

import argparse
import json
import os
import re
import subprocess
import sys

import pytest
from shared_demo import ROOT
from shared_http import answering, folder, serving

from psa_paddle import doctor
from psa_paddle.doctor import machine, paddle_build
from psa_paddle.doctor.findings import FAILED, NOT_POSSIBLE, OK, Check, Fact
from psa_paddle.doctor.isolated import isolated
from psa_paddle.utils import command


def process(tmp_path, *flags, blocked=()):
    """The command in a process where the named packages cannot be imported; (status, stdout, stderr)."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\n")
    (tmp_path / "home").mkdir()
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    surroundings = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path / "home")}
    surroundings = {name: x for name, x in surroundings.items() if name not in ("TRITON_INTERPRET", "HF_HOME")}
    done = subprocess.run(
        [sys.executable, "-m", "psa_paddle", "doctor", *flags], env=surroundings, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def the_check(findings, name):
    return next(found for found in findings if isinstance(found, Check) and found.name == name)


def test_a_report_to_paste(tmp_path):
    status, out, err = process(tmp_path, "--quick")
    assert (status, err) == (0, ""), out
    fence, *report = out.splitlines()
    assert fence == "```text" and report[-2] == "```" and "copy" in report[-1]
    assert re.search(r"^ok +Paddle's operations: on cpu", out, re.M) and "all is well" in out
    assert re.search(r"^ok +preset balanced \(eager, float32\)", out, re.M)
    assert re.search(r"^not possible here Triton kernels: no GPU", out, re.M)
    assert re.search(r"^weights +no Qwen2.5-VL in ~/.cache/", out, re.M) and str(tmp_path / "home") not in out


def test_without_paddle(tmp_path):
    status, out, err = process(tmp_path, "--json", blocked=("paddle",))
    report = json.loads(out)
    checks = {check["name"]: check for check in report["checks"]}
    assert (status, err, report["well"]) == (doctor.CHECK_FAILED, "", False)
    assert checks["Paddle"]["status"] == FAILED and "not installed" in checks["Paddle"]["detail"]
    assert "https://www.paddlepaddle.org.cn" in report["verdict"]
    for name in ("Paddle's operations", "Triton kernels", "operator", "time", "demo model"):
        assert checks[name]["status"] == NOT_POSSIBLE
    assert report["machine"]["psa_paddle"] and not report["quick"]


def test_the_exit_status_is_its_own():
    others = {value for name, value in vars(command).items() if name.isupper() and isinstance(value, int)}
    assert doctor.CHECK_FAILED not in others | {0, 1}


@pytest.mark.parametrize(
    "stage,seconds,words",
    [
        ("raises", 60, r"RuntimeError: \(PreconditionNotMet\) no kernel for this GPU \(shared_doctor.py:\d+\)$"),
        ("crashes", 60, r"ended by SIGABRT; its last words: .*driver went away"),
        ("hangs", 1, "no answer within 1 s"),
    ],
)
def test_a_stage_that_goes_wrong_is_a_finding(stage, seconds, words):
    before, check = isolated("the stage", seconds, f"shared_doctor.{stage}")
    assert before == Fact("before", "the fault")
    assert (check.name, check.status) == ("the stage", FAILED) and re.search(words, check.detail) and check.advice


def test_stages_that_work_are_not_there_or_leave(capfd):
    assert list(isolated("one", 60, "shared_doctor.works", "yes")) == [Fact("word", "yes")]
    (check,) = isolated("two", 60, "psa_paddle.nowhere.stage")
    assert check.status == FAILED and "No module named 'psa_paddle.nowhere'" in check.detail
    assert check.advice.startswith("Install psa_paddle.nowhere")
    (check,) = isolated("three", 60, "shared_doctor.leaves")
    assert check.status == FAILED and "ended with status 3" in check.detail
    file, check = isolated("four", 60, "shared_doctor.leaves_a_file")
    assert check.status == FAILED and file.value and not os.path.exists(file.value)
    assert capfd.readouterr() == ("", "")


def test_packages(monkeypatch):
    asked = (ROOT / "setup.py").read_text(encoding="utf-8")
    for name, (least, _) in machine.LEAST.items():
        assert re.search(rf'"{name}[>=]=?={re.escape(least)}"|"{name}>={re.escape(least)}"', asked), name
    assert f'"paddlepaddle-gpu>={paddle_build.LEAST_PADDLE}"' in asked
    versions = {"paddleformers": "1.2.0", "av": "17.1", "pillow": "11.0", "requests": "2.32.1"}
    monkeypatch.setattr(machine, "installed", versions.get)
    assert [check.status for check in machine.version_checks()] == [OK, OK]
    versions.update(av="16.9", paddleformers=None)
    _, check = machine.version_checks()
    assert check.status == FAILED and check.detail == "paddleformers is not installed; av 16.9 is older than 17.1"
    assert check.advice == "Run: pip install paddleformers==1.2.0 && pip install 'av>=17.1'"
    versions.update(av="17.1", paddlemix="0.1")
    assert [check.status for check in machine.version_checks()] == [OK, OK]
    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.13.1")
    assert next(machine.version_checks()).status == FAILED


def test_gpus_as_nvidia_smi_tells_them(monkeypatch, tmp_path):
    smi = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.nvidia_gpus() == []
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 80994 MiB, 570.1, 9.0'\necho 'a warning'\n")
    smi.chmod(0o755)
    (gpu,) = machine.nvidia_gpus()
    assert gpu == "NVIDIA H100, 81559 MiB (80994 MiB free), compute capability 9.0, driver 570.1"
    assert Fact("GPU 0", gpu) in machine.machine_facts([gpu])
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert machine.nvidia_gpus() == []


def test_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    assert "no Qwen2.5-VL in" in next(machine.weights()).value
    copy = tmp_path / "hub" / "models--Qwen--Qwen2.5-VL-3B-Instruct"
    (copy / "refs").mkdir(parents=True)
    (copy / "refs" / "main").write_text("a" * 40)
    place = copy / "snapshots" / ("a" * 40)
    other = tmp_path / "ms" / "models" / "Qwen" / "Qwen2___5-VL-7B-Instruct"
    for copy in (place, other):
        copy.mkdir(parents=True)
        (copy / "config.json").write_text("{}")
    assert next(machine.weights()).value.count("not whole") == 2
    for copy in (place, other):
        (copy / "model.safetensors").write_text("")
    assert next(machine.weights()).value == f"Qwen/Qwen2.5-VL-3B-Instruct, {other}"


def test_the_hub(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    busy = answering(b"HTTP/1.1 503 Busy\r\n\r\n")
    for answers, status in ((folder(ROOT / "demo"), OK), (busy, NOT_POSSIBLE)):
        with serving(answers) as address:
            monkeypatch.setenv("HF_ENDPOINT", address)
            assert machine.hub_check().status == status
    monkeypatch.setenv("HF_ENDPOINT", "http://user:secret@127.0.0.1:9")
    check = machine.hub_check()
    assert check.status == NOT_POSSIBLE and "http://127.0.0.1:9 cannot be reached" in check.detail
    monkeypatch.setenv("DOWNLOAD_SOURCE", "elsewhere")
    assert machine.hub_check().status == FAILED
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in machine.hub_check().detail


def test_the_home_folder_is_not_told(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert Fact("a", "at /home/someone/x").value == "at ~/x"
    assert Check("a", OK, "/home/someone", "see /home/someone/y") == Check("a", OK, "~", "see ~/y")
    monkeypatch.setenv("HOME", "/")
    assert Fact("a", "/etc").value == "/etc"


GPU = Fact("device", "gpu:0")


def examined(monkeypatch, results, quick=False):
    """What ``examine`` asks for on a GPU when its stages find ``results``: (stage and arguments, findings)."""
    asked = []

    def stage(name, seconds, function, *args):
        asked.append((name, *args))
        return iter(results.get(name, [Check(name, OK, "")]))

    monkeypatch.setattr(doctor, "isolated", stage)
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: ["H100"])
    findings = list(doctor.examine(quick))
    return asked, findings


def test_all_stages_on_a_gpu(monkeypatch):
    asked, _ = examined(monkeypatch, {"Paddle": [GPU, Check("Paddle", OK, "")]})
    assert asked[-4:] == [
        ("operator", ("triton", "eager")),
        ("time", True),
        ("demo model (float32)", "float32"),
        ("demo model (bfloat16)", "bfloat16"),
    ]
    asked, _ = examined(monkeypatch, {"Paddle": [GPU]}, quick=True)
    assert asked[-1][0] == "operator"


def test_broken_paddle_operations_leave_the_kernels_to_check(monkeypatch):
    broken = {"Paddle": [GPU], "Paddle's operations": [Check("Paddle's operations", FAILED, "return zeros")]}
    asked, findings = examined(monkeypatch, broken)
    assert asked[-2:] == [("operator", ("triton",)), ("time", False)]
    assert the_check(findings, "demo model").status == NOT_POSSIBLE


def test_no_triton_leaves_the_eager_backend(monkeypatch):
    found = {"Paddle": [GPU], "Triton kernels": [Check("Triton kernels", FAILED, "no gcc")]}
    asked, findings = examined(monkeypatch, found)
    assert ("operator", ("eager",)) in asked and the_check(findings, "time").status == NOT_POSSIBLE
    assert asked[-1][0] == "demo model (bfloat16)"
    found["Paddle's operations"] = [Check("Paddle's operations", FAILED, "zeros")]
    asked, findings = examined(monkeypatch, found)
    assert asked[-1][0] == "Triton kernels" and the_check(findings, "operator").status == NOT_POSSIBLE


def test_the_verdict(monkeypatch, capsys):
    checks = [Check(f"c{i}", FAILED, "bad", f"Do {i}.") for i in range(6)]
    monkeypatch.setattr(doctor, "examine", lambda quick: iter([Fact("a", "b"), Check("x", OK, "fine"), *checks]))
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    assert doctor.run(parser.parse_args([])) == doctor.CHECK_FAILED
    out = capsys.readouterr().out
    assert "6 of 7 checks FAILED: c0, c1, c2, c3 and 2 more. What to do first: Do 0." in out
    assert f"{'FAILED':<18}c5: bad\n{'':18}-> Do 5.\n" in out
    del checks[:]
    assert doctor.run(parser.parse_args(["--json"])) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "all is well: 1 check ok."
