"""The doctor names what is missing or wrong, tells Paddle's faults from ours, and never ends in a traceback."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from shared_demo import ROOT
from shared_http import answering, folder, serving

from psa_paddle import attention, doctor, kernels
from psa_paddle.doctor import answer, machine, operator, paddle_build, timing
from psa_paddle.doctor.findings import FAILED, NOT_POSSIBLE, OK, Check, Fact
from psa_paddle.doctor.isolated import isolated
from psa_paddle.eager import operator as eager_operator
from psa_paddle.utils import command

SMALL = next(case for case in operator.CASES if case.name == "queries after a cache")
PADDED = next(case for case in operator.CASES if case.name == "left padding")
ALL_LEVEL_ONE = next(case for case in operator.CASES if case.name.startswith("dense"))


def process(tmp_path, *flags, blocked=()):
    """The command in a process where the named packages cannot be imported; (status, stdout, stderr)."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\n")
    (tmp_path / "home").mkdir()
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    surroundings = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path / "home")}
    surroundings = {name: x for name, x in surroundings.items() if name not in ("TRITON_INTERPRET", "HF_HOME")}
    done = subprocess.run(
        [sys.executable, "-m", "psa_paddle.doctor", *flags], env=surroundings, capture_output=True, text=True
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
    (check,) = isolated("three", 60, "shared_doctor.leaves")
    assert check.status == FAILED and "ended with status 3" in check.detail
    assert capfd.readouterr() == ("", "")


FAULTS = {
    "returns zeros": lambda x, y: paddle.zeros_like(x),
    "returns NaN": lambda x, y: x * float("nan"),
    "wrong by": lambda x, y: x @ y * 1.02,
    "has shape": lambda x, y: x[:1],
    "raises RuntimeError: no kernel": lambda x, y: (_ for _ in ()).throw(RuntimeError("no kernel")),
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_broken_paddle_is_named(words, monkeypatch):
    monkeypatch.setattr(paddle, "matmul", FAULTS[words])
    (check,) = paddle_build.paddle_operations()
    assert check.status == FAILED and f"on cpu matmul in float32: {words}" in check.detail
    assert "does not compute on cpu" in check.advice and "https://" in check.advice


def test_paddle_as_it_should_be():
    (check,) = paddle_build.paddle_operations()
    assert check.status == OK and "9 operations in float32" in check.detail


def test_the_build(monkeypatch):
    fact, check = paddle_build.paddle_build([])
    assert fact.value.startswith(paddle.__version__) and "CPU build" in fact.value and check.status == OK
    *_, check = paddle_build.paddle_build(["NVIDIA H100"])
    assert check.status == FAILED and "CPU build" in check.detail and "paddlepaddle-gpu" in check.advice
    monkeypatch.setattr(paddle, "__version__", "2.6.2")
    *_, check = paddle_build.paddle_build([])
    assert check.status == FAILED and "2.6.2 is older than 3.2.2" in check.detail
    monkeypatch.setattr(paddle, "__version__", "0.0.0")
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 0)
    *_, check = paddle_build.paddle_build([])
    assert check.status == FAILED and "sees no GPU" in check.detail


def test_every_case_is_right_and_differs_from_dense_attention():
    """Else a selection that keeps everything would pass."""
    dense = operator.Case("", operator.AttentionConfig.preset("seed", mask_ratios={1: (0, 1)}))
    for case in operator.CASES:
        check = operator.checked(case, "eager", "float32")
        assert check.status == OK, check
        q, k, v = (x[0] for x in operator.smooth_qkv(*case.lengths, *case.heads, 64))
        causal = case.triangle is not None or case.config.causal
        config = dense.config.replace(causal=causal, text_length=0)
        full = operator.expected(operator.Case("", config, case.lengths), q, k, v)
        same = np.allclose(operator.expected(case, q, k, v), full)
        assert same == case.name.startswith("dense"), case.name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    good = operator.checked(SMALL, "eager", dtype)
    assert good.status == OK and dtype in good.name
    assert 1e-4 < float(re.search(r"error (\S+),", good.detail).group(1)) < operator.EPS[dtype]


def last_rows(out):
    rows = paddle.arange(out.shape[2]) < 290
    return out * rows.astype("float32").reshape([1, 1, -1, 1])


def one_head(out):
    return out * paddle.to_tensor([1.0, 1.0, 1.01, 1.0]).reshape([1, 4, 1, 1])


WRONG = {
    "zeros": (lambda out: out * 0, "returns zeros"),
    "all": (lambda out: out * 1.001, "20 of 20 blocks of rows are wrong"),
    "the last rows": (last_rows, "4 of 20 blocks"),
    "one head": (one_head, "5 of 20 blocks"),
    "nan": (lambda out: out + float("nan"), "NaN"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_an_operator_that_is_wrong_fails(fault, monkeypatch):
    spoil, words = WRONG[fault]
    right = attention.pyramid_attention
    monkeypatch.setattr(attention, "pyramid_attention", lambda *args, **more: spoil(right(*args, **more)))
    check = operator.checked(SMALL, "eager", "float32")
    assert check.status == FAILED and words in check.detail and check.advice


def test_a_selection_that_is_wrong_fails(monkeypatch):
    right = eager_operator.block_importance
    monkeypatch.setattr(eager_operator, "block_importance", lambda *args: 1.0 - right(*args))
    assert operator.checked(SMALL, "eager", "float32").status == FAILED


def test_padding_that_is_not_zero_fails(monkeypatch):
    right = attention.pyramid_attention
    monkeypatch.setattr(attention, "pyramid_attention", lambda *args, **more: right(*args, **more) + 1e-9)
    assert "padding" in operator.checked(PADDED, "eager", "float32").detail


def test_an_operator_that_raises_fails(monkeypatch):
    monkeypatch.setattr(attention, "pyramid_attention", lambda *args, **more: {}["ptxas"])
    check = operator.checked(SMALL, "eager", "float32")
    assert check.status == FAILED and "KeyError: 'ptxas'" in check.detail


def test_a_few_ties_are_told_and_pass(monkeypatch):
    right = attention.pyramid_attention
    mask = paddle.ones([1, 4, 1500, 1])
    mask[0, 1, 256:384] = 1.1
    monkeypatch.setattr(attention, "pyramid_attention", lambda *args, **more: right(*args, **more) * mask)
    check = operator.checked(operator.MAIN, "eager", "float32")
    assert check.status == OK and "2 of 96 blocks" in check.detail


def test_triton_in_its_interpreter():
    (check,) = operator.first_launch()
    assert check.status == OK and "interpreter" in check.detail
    assert operator.checked(ALL_LEVEL_ONE, "triton", "float32").status == OK


def test_triton_that_cannot(monkeypatch):
    with monkeypatch.context() as change:
        change.delenv("TRITON_INTERPRET")
        (check,) = operator.first_launch()
        assert (check.status, check.detail) == (NOT_POSSIBLE, "no GPU")
        change.setattr(paddle, "get_device", lambda: "gpu:0")
        change.setitem(sys.modules, "triton", None)
        (check,) = operator.first_launch()
        assert check.status == FAILED and "triton==3.6.0" in check.advice
    monkeypatch.setattr(kernels, "means_fwd", lambda k, v, key_block: (paddle.zeros([1, 1, 2, 32]), None))
    (check,) = operator.first_launch()
    assert check.status == FAILED and "returns zeros" in check.detail
    monkeypatch.setattr(kernels, "means_fwd", lambda *args, **more: {}["gcc"])
    (check,) = operator.first_launch()
    assert (
        check.status == FAILED and "the first launch fails: KeyError: 'gcc'" in check.detail and "gcc" in check.advice
    )


def test_the_cases_in_time_and_out_of_time(monkeypatch):
    ran = []
    monkeypatch.setattr(operator, "checked", lambda *job: ran.append(job) or Check(job[0].name, OK, ""))
    monkeypatch.setattr(operator, "dtypes_here", lambda: ("bfloat16", "float16", "float32"))
    assert len(list(operator.operator_checks(("triton", "eager")))) == len(ran) == 2 * (len(operator.CASES) + 4)
    assert Counter(dtype for case, _, dtype in ran if case is operator.MAIN) == dict.fromkeys(operator.EPS, 2)
    monkeypatch.setattr(operator, "SECONDS", -1)
    (check,) = operator.operator_checks(("eager",))
    assert check.status == NOT_POSSIBLE and "preset fast" in check.detail


TINY = timing.Shape((64, 128), (2, 1), 32, 1, 1)


def test_times():
    *facts, check = timing.timing(True, TINY)
    assert [fact.name for fact in facts] == ["64 tokens", "128 tokens"]
    assert all(re.search(r"balanced: [\d.]+ ms; Paddle's dense attention [\d.]+ ms", fact.value) for fact in facts)
    *facts, check = timing.timing(False, TINY)
    assert len(facts) == 2 and "dense" not in facts[0].value and check.status == NOT_POSSIBLE


@pytest.mark.parametrize("dense,status,words", [(6.0, OK, "3.0 times as long"), (1.0, FAILED, "2.0 times as long as")])
def test_the_slower_one_is_named(dense, status, words, monkeypatch):
    times = iter([1.0, 3.0, 2.0, dense])
    monkeypatch.setattr(timing, "_milliseconds", lambda *args: next(times))
    *_, check = timing.timing(True, TINY)
    assert check.status == status and words in check.detail and "128 tokens" in check.detail


def test_times_that_cannot_be_taken(monkeypatch):
    with monkeypatch.context() as change:
        change.setattr(timing, "GROWTH", 1e9)
        first, second, check = timing.timing(True, TINY)
        assert "not timed" in second.value and "64 tokens" in check.detail
    monkeypatch.setattr(paddle.nn.functional, "scaled_dot_product_attention", lambda *args, **more: {}["flash"])
    (check,) = timing.timing(True, TINY)
    assert check.status == FAILED and "KeyError: 'flash'" in check.detail


def test_the_demo_model_gives_the_known_answer(monkeypatch):
    (check,) = answer.demo_answer("float32")
    assert check.status == OK and "1648 tokens" in check.detail, check
    monkeypatch.setitem(sys.modules, "psa_paddle.integrations.inference", None)
    (check,) = answer.demo_answer("float32")
    assert check.status == NOT_POSSIBLE and "psa_paddle.integrations.inference" in check.detail


def test_another_answer_fails(monkeypatch, tmp_path):
    from psa_paddle.integrations import inference

    figures = dict(sequence_length=9, average_sparsity=0.5, ttft_s=1.0, backends=["eager"], library="paddleformers")
    model = SimpleNamespace(inference_video=lambda *args: "一个", stats=lambda: figures)
    monkeypatch.setattr(inference, "QwenVLInference", lambda *args, **more: model)
    (check,) = answer.demo_answer("float32")
    assert check.status == FAILED and "answers '一个' in place of '首先" in check.detail
    monkeypatch.setattr(inference, "DEMO", tmp_path / "none")
    (check,) = answer.demo_answer("float32")
    assert check.status == NOT_POSSIBLE and "repository" in check.detail


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
    for folder in (place, other):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    assert next(machine.weights()).value.count("not whole") == 2
    for folder in (place, other):
        (folder / "model.safetensors").write_text("")
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


GPU = Fact("Paddle", "3.3.1, GPU build, CUDA 12.6, cuDNN 9, commit 0, device gpu:0")


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
