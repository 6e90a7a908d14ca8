"""What the doctor checks: faults that are planted in Paddle, the operator and the model are found and named."""

import re
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from psa_paddle import attention, kernels
from psa_paddle.doctor import answer, operator, paddle_build, timing
from psa_paddle.doctor.findings import FAILED, NOT_POSSIBLE, OK, Check
from psa_paddle.eager import operator as eager_operator

SMALL = next(case for case in operator.CASES if case.name == "queries after a cache")
PADDED = next(case for case in operator.CASES if case.name == "left padding")
ALL_LEVEL_ONE = next(case for case in operator.CASES if case.name.startswith("dense"))


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
    build, device, check = paddle_build.paddle_build([])
    assert build.value.startswith(paddle.__version__) and "CPU build" in build.value and check.status == OK
    assert (device.name, device.value) == ("device", "cpu")
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


@pytest.mark.parametrize("dense,status,words", [(3.0, OK, "1.5 times as long"), (1.0, FAILED, "2.0 times as long as")])
def test_the_slower_one_is_named(dense, status, words, monkeypatch):
    times = iter([1.0, 3.0, 2.0, dense])
    monkeypatch.setattr(timing, "_milliseconds", lambda *args: next(times))
    *_, check = timing.timing(True, TINY)
    assert check.status == status and words in check.detail and "128 tokens" in check.detail


def test_a_slow_call_is_not_repeated(monkeypatch):
    """So that a busy machine is done in time, too."""
    clock, calls = [0.0], []

    def call():
        calls.append(clock[0])
        clock[0] += seconds

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    shape = timing.Shape((64,), (2, 1), 32, 3, 2)
    for seconds, wanted in ((0.5, 1 + 3 * 2), (timing.PATIENCE / 2, 1 + 2)):
        calls.clear()
        assert timing._milliseconds(call, shape, False) == pytest.approx(seconds * 1e3) and len(calls) == wanted


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
    monkeypatch.setitem(sys.modules, "psa_paddle.integrations.language.inference", None)
    (check,) = answer.demo_answer("float32")
    assert check.status == NOT_POSSIBLE and "psa_paddle.integrations.language.inference" in check.detail


def test_another_answer_fails(monkeypatch):
    from psa_paddle.integrations.language import inference

    figures = dict(sequence_length=9, average_sparsity=0.5, ttft_s=1.0, backends=["eager"], library="paddleformers")
    model = SimpleNamespace(inference_video=lambda *args: "一个", stats=lambda: figures)
    monkeypatch.setattr(inference, "QwenVLInference", lambda *args, **more: model)
    (check,) = answer.demo_answer("float32")
    assert check.status == FAILED and "answers '一个' in place of '首先" in check.detail
