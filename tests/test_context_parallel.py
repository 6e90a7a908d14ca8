"""Rows of a prompt over several processes: real ones, on loopback, by gloo."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import paddle.distributed as dist
import pytest
from shared_context import CASES, LENGTH, in_one_call, same, tensors
from shared_demo import ROOT

from psa_paddle import AttentionConfig, ContextParallel, context_parallel_attention


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Number of processes -> what each of them found."""
    folder = tmp_path_factory.mktemp("context")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/shared_context.py"), str(folder), "2", "4"]
    subprocess.run(command, env=environment, check=True, timeout=120)
    return {n: [json.loads((folder / f"{n}-{rank}.json").read_text()) for rank in range(n)] for n in (2, 4)}


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_rows_are_bitwise_those_of_one_call(found, name, ranks):
    for one in found[ranks]:
        case = one["rows"][name]
        assert case["bitwise"] and case["standing"] and case["gathered"]
        stats, want = dict(case["stats"]), dict(case["want"])
        if "error" in want:  # of other rows, as many
            assert stats.pop("error") == pytest.approx(want.pop("error"), rel=0.1)
        assert stats.pop("densities") == pytest.approx(want.pop("densities"), rel=1e-12)
        assert stats == want


def test_the_cases_are_of_all_kinds(found):
    rows = found[2][0]["rows"]
    assert {rows[name]["want"]["mode"] for name in CASES} == {"sparse", "dense"}
    assert 0 < min(rows["pooled levels with a cap"]["want"]["densities"]) < 0.9


@pytest.mark.parametrize("ranks", [2, 4])
def test_triangle_rows_that_begin_before_the_last_chunk_differ_by_rounding(found, ranks):
    assert max(one["rows"]["late"] for one in found[ranks]) < 1e-6


@pytest.mark.parametrize("ranks", [2, 4])
def test_other_dtypes_are_gathered(found, ranks):
    assert all(one["rows"]["other dtypes"] and one["rows"]["ids"] for one in found[ranks])


SAID = {
    "rows": "ValueError: process 1 of the group: q must have its own 768 rows of 1300, got 767.",
    "keys": "ValueError: process 1 of the group: causal attention needs as many keys as queries",
    "kind": "TypeError: process 1 of the group: q must be a paddle.Tensor, got ndarray.",
    "heads": "ValueError: the processes of the group must agree about q's shape but for rows: process 0 has [2, 4, 32]",
    "preset": "ValueError: the processes of the group must agree about intervals: process 0 has",
    "key block": "ValueError: the processes of the group must agree about key_block: process 0 has 64, process 1 has",
    "no preset": "ValueError: process 1 of the group: there is no preset 'best'; use quality",
    "both ways": "ValueError: process 0 of the group: context parallelism is for causal attention",
    "gradients": "ValueError: process 0 of the group: context parallelism has no gradients; call it under",
    "length": "ValueError: the processes of the group must agree about length: process 0 has 1300, process 1 has 1299.",
    "gathered rows": "ValueError: process 1 of the group: x must have its own 768 rows along axis 2, got 767.",
    "gathered heads": "ValueError: the processes of the group must agree about axis 1: process 0 has 4, process 1",
    "split": "ValueError: x must have 1300 rows along axis 2, got",
    "context": "TypeError: context must be a ContextParallel, got NoneType.",
}


@pytest.mark.parametrize("name", SAID)
def test_a_mistake_of_one_process_is_an_error_of_all(found, name):
    for one in found[2]:
        assert one["misuse"][name].startswith(SAID[name])
    assert set(found[2][0]["misuse"]) == set(SAID)


def test_one_process_is_the_whole():
    q, k, v = tensors(batch=1)
    context = ContextParallel(LENGTH)
    assert (context.rank, context.ranks, context.rows) == (0, 1, LENGTH) and same(context.split(q), q)
    for config in (CASES["balanced"][0], CASES["triangle"][0]):
        want, _ = in_one_call(config, q, k, v)
        out, stats = context_parallel_attention(q, k, v, config, context=context, return_stats=True)
        assert same(context.gather(out), want) and context.gather_stats(stats).lengths == ((LENGTH, LENGTH),)
    with pytest.raises(ValueError, match="^k and v must have their own 1300 rows or all 1300, got 1301"):
        longer = paddle.zeros([1, 2, LENGTH + 1, 32])
        context_parallel_attention(q, longer, longer, context=context)


@pytest.mark.parametrize("method", ["split", "gather"])
@pytest.mark.parametrize(
    "x,axis,error,words",
    [
        (None, 2, TypeError, "x must be a paddle.Tensor, got NoneType.$"),
        (np.zeros([1, 1, 300]), 2, TypeError, "x must be a paddle.Tensor, got ndarray.$"),
        (paddle.zeros([1, 1, 300]), 3, ValueError, "x of 3 dimensions has no axis 3.$"),
        (paddle.zeros([1, 1, 300]), -4, ValueError, "x of 3 dimensions has no axis -4.$"),
        (paddle.zeros([1, 1, 300]), 1, ValueError, "300 rows along axis 1, got 1.$"),
    ],
)
def test_what_has_no_such_rows_is_refused(method, x, axis, error, words):
    with pytest.raises(error, match=words):
        getattr(ContextParallel(300), method)(x, axis=axis)


def test_a_group_that_cannot_be_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"^this process is not in the group \[1, 2\]"):
        ContextParallel(LENGTH, SimpleNamespace(rank=-1, nranks=2, ranks=[1, 2]))
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="^call paddle.distributed.init_parallel_env"):
        ContextParallel(LENGTH)


def test_audited_rows_are_shared_among_the_chunks():
    q, k, v = tensors(batch=1)
    config = AttentionConfig(dense_below=0, audit_rows=33)
    _, stats = context_parallel_attention(q, k, v, config, context=ContextParallel(LENGTH), return_stats=True)
    assert [audit.sums.shape[2] for audit in stats.audits] == [17, 17]
    out = context_parallel_attention(q, k, v, config, context=ContextParallel(LENGTH))
    assert out.shape == q.shape
