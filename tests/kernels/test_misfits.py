"""Tensors that do not fit together are refused by every launcher, with one sentence, before it reads past their end."""

import numpy as np
import pytest
from kernels.kernel_cases import Case, host_qkv

from psa_paddle import bridge, kernels
from psa_paddle.kernels import triangle
from psa_paddle.plan import Plan
from psa_paddle.triangle_pattern import Pattern

CASE = Case(lq=96, lk=128, group=2, hkv=2, batch=2)
PLAN = Plan(
    scale=0.2, causal=True, query_block=64, key_block=32, intervals=((1, 0.0, 0.5), (8, 0.5, 1.0)), terms=4,
)  # fmt: skip
MEANS = PLAN.replace(block_means=True)


def made():
    """What each launcher is given, right as it stands."""
    q, k, v = host_qkv(CASE)
    levels = np.ones((2, 4, 2, 4), np.int8)
    order = np.arange(128, dtype=np.int32)
    scores, tops, tile, _ = kernels.xattn_fwd(q, k, PLAN)
    peaks = kernels.xattn_fwd(q, k, PLAN.replace(importance_method="peak", terms=1)).scores
    found = kernels.lists_from_levels(levels, MEANS, 96, 128)
    return dict(
        q=q, k=k, v=v, kv_start=np.zeros(2, np.int32), levels=levels, x=k, order=order, base=order, peaks=peaks,
        scores=scores, tops=tops, tile=tile, importance=np.ones((2, 4, 2, 4), np.float32),
        cap=np.ones((2, 2, 4), np.int8),
        pooled=kernels.pyramid_fwd(k, v, PLAN)[:2], means=kernels.means_fwd(k, v, PLAN), found=found,
    )  # fmt: skip


def attend(m):
    found = m["found"]._replace(**m.get("replaced", {}))
    pooled = kernels.Pooled(*m["pooled"], *m["means"])
    return kernels.attend_fwd(
        m["q"], m["k"], m["v"], found, plan(m), pooled, kv_start=m["kv_start"], out=m.get("out")
    )  # fmt: skip


def plan(m, **changes):
    return PLAN.replace(**changes, **m.get("blocks", {}))


def select(m, scores, cap=None, lk=128):
    return kernels.select_fwd(scores, plan(m), 96, lk, cap=cap, kv_start=m["kv_start"])


def cluster(m):
    span = {"first": 4, "n": 100, "n_clusters": 5, **m.get("span", {})}
    return kernels.cluster_tokens(m["x"], m["base"], **span, iterations=1, state=m.get("state"))


LAUNCHERS = {
    "psa_fwd": lambda m: kernels.psa_fwd(
        m["q"], m["k"], m["v"], plan(m, **m.get("budgets", {})), kv_start=m["kv_start"], out=m.get("out")
    ),
    "attend_fwd": attend,
    "triangle_fwd": lambda m: triangle.triangle_fwd(
        m["q"], m["k"], m["v"], Pattern(4, 8, 4), 0.2, kv_start=m["kv_start"], out=m.get("out")
    ),
    "pyramid_fwd": lambda m: kernels.pyramid_fwd(m["k"], m["v"], plan(m), kv_start=m["kv_start"]),
    "means_fwd": lambda m: kernels.means_fwd(m["k"], m["v"], plan(m), kv_start=m["kv_start"]),
    "xattn_fwd": lambda m: kernels.xattn_fwd(m["q"], m["k"], plan(m), kv_start=m["kv_start"]),
    "pooling_fwd": lambda m: kernels.pooling_fwd(m["q"], m["k"], plan(m), kv_start=m["kv_start"]),
    "select_blocks": lambda m: kernels.select_blocks(
        m["q"], m["k"], plan(m, importance_method="pooling", **m.get("budgets", {})), m["cap"], kv_start=m["kv_start"]
    ),
    "select_blocks, one level": lambda m: kernels.select_blocks(
        m["q"], m["k"], plan(m, intervals=((1, 0.0, 1.0),)), kv_start=m["kv_start"]
    ),
    "select_fwd, xattn": lambda m: select(
        m, kernels.Scores(m["scores"], m["tops"], m["tile"], m.get("query_stride", 16)), m["cap"]
    ),
    "select_fwd, peaks": lambda m: select(
        m, kernels.Scores(m["peaks"], tile=m.get("tile_of_peaks", 0), query_stride=m.get("query_stride", 16))
    ),
    "select_fwd, map": lambda m: select(m, kernels.Scores(m["importance"]), m["cap"], m.get("lk", 128)),
    "lists_from_levels": lambda m: kernels.lists_from_levels(
        m["levels"], plan(m), 96, m.get("lk", 128), kv_start=m["kv_start"]
    ),
    "permute_tokens": lambda m: kernels.permute_tokens(m["x"], m["order"]),
    "restore_tokens": lambda m: kernels.restore_tokens(m["x"], m["order"]),
    "cluster_tokens": cluster,
}  # fmt: skip

Q, K, V = host_qkv(CASE)
QK = ("psa_fwd", "attend_fwd", "triangle_fwd", "xattn_fwd", "pooling_fwd", "select_blocks", "select_blocks, one level")
KV = ("psa_fwd", "attend_fwd", "triangle_fwd", "pyramid_fwd", "means_fwd")
BLOCK = ("psa_fwd", "attend_fwd", "xattn_fwd", "pooling_fwd", "select_blocks", "select_fwd, map", "lists_from_levels")
PADDED = (*dict.fromkeys((*QK, *KV)), "select_fwd, xattn", "select_fwd, map", "lists_from_levels")
SELECT = ("select_fwd, xattn", "select_fwd, map")
MISFITS = {
    "v shorter than k": (KV, dict(v=V[:, :, :60]), ValueError, "k and v must have one shape"),
    "v of another batch": (KV, dict(v=V[:1]), ValueError, "k and v must have one shape"),
    "v of other heads": (KV, dict(v=V[:, :1]), ValueError, "k and v must have one shape"),
    "v of another D": (KV, dict(v=np.zeros((2, 2, 128, 64), np.float32)), ValueError, "k and v must have one shape"),
    "v of another dtype": (KV, dict(v=V.astype(np.float16)), TypeError, "one dtype"),
    "v strided": (KV, dict(v=V.repeat(2, 3)[..., ::2]), ValueError, "contiguous in its last dimension"),
    "v of 3 dimensions": (KV, dict(v=V[0]), ValueError, r"v must be \[B, H, L, D\]"),
    "k of another batch": (QK, dict(k=K[:1], v=V[:1]), ValueError, "agree in batch and head dimension|kv_start"),
    "q of another D": (QK, dict(q=np.zeros((2, 4, 96, 64), np.float32)), ValueError, "batch and head dimension"),
    "q of another dtype": (QK, dict(q=Q.astype(np.float16)), TypeError, "one dtype"),
    "3 query heads over 2": (QK, dict(q=Q[:, :3]), ValueError, "3 query heads cannot share 2 key heads evenly"),
    "1 query head over 2": (QK, dict(q=Q[:, :1]), ValueError, "1 query heads cannot share 2 key heads evenly"),
    "more queries than keys": (QK, dict(k=K[:, :, :64], v=V[:, :, :64]), ValueError, "as many keys as queries"),
    "no queries": (QK, dict(q=Q[:, :, :0]), ValueError, "not empty"),
    "no keys": (KV, dict(k=K[:, :, :0], v=V[:, :, :0]), ValueError, "not empty"),
    "D of 48": (KV, dict(k=K.repeat(2, 3)[..., :48].copy()), ValueError, "with D in"),
    "key_block 48": ((*BLOCK, "pyramid_fwd", "means_fwd"), dict(blocks={"key_block": 48}), ValueError, "key_block"),
    "query_block 32": (BLOCK, dict(blocks={"query_block": 32}), ValueError, "query_block must be 64 or 128"),
    "kv_start of another batch": (PADDED, dict(kv_start=np.zeros(3, np.int32)), ValueError, r"kv_start .*int32 \[2\]"),
    "kv_start int64": (PADDED, dict(kv_start=np.zeros(2, np.int64)), ValueError, "kv_start must be int32"),
    "kv_start strided": (PADDED, dict(kv_start=np.zeros(4, np.int32)[::2]), ValueError, "contiguous"),
    "pooled for other lengths": (("attend_fwd",), dict(pooled=(K[:, :, :84], V[:, :, :84])), ValueError, "pooled_k"),
    "means for other lengths": (("attend_fwd",), dict(means=(K[:, :, :4], V[:, :, :3])), ValueError, "mean_k"),
    "out too short": (("psa_fwd", "attend_fwd", "triangle_fwd"), dict(out=Q[:, :, :50]), ValueError,
                      "out must be float32"),
    "lists of other blocks": (
        ("attend_fwd",), dict(replaced={"lists": np.zeros((2, 4, 2, 3), np.int16)}), ValueError, "lists must be"),
    "counts of other rows": (
        ("attend_fwd",), dict(replaced={"counts": np.zeros((2, 4, 1, 5), np.int32)}), ValueError, "counts must"),
    "levels of other heads": (
        ("attend_fwd",), dict(replaced={"levels": np.zeros((2, 3, 2, 4), np.int8)}), ValueError, "levels must"),
    "levels missing": (("attend_fwd",), dict(replaced={"levels": None}), ValueError, "means need the levels"),
    "map of fewer blocks": (("lists_from_levels", "select_fwd, map"), dict(lk=200), ValueError, "must be"),
    "map of another dtype": (("lists_from_levels",), dict(levels=np.ones((2, 4, 2, 4))), ValueError, "levels must be"),
    "map of 3 dimensions": (("lists_from_levels",), dict(levels=np.ones((4, 2, 4), np.int8)), ValueError, "levels"),
    "scores of other queries": (SELECT[:1], dict(query_stride=32), ValueError, "scores must be"),
    "peaks of other queries": (("select_fwd, peaks",), dict(query_stride=32), ValueError, "scores must be"),
    "peaks of groups that do not divide": (
        ("select_fwd, peaks",), dict(query_stride=24), ValueError, "peaks need xattn's query_stride, a divisor of 64"),
    "peaks with a tile": (("select_fwd, peaks",), dict(tile_of_peaks=1), ValueError, "peaks need .* no tile"),
    "no query_stride": (SELECT[:1], dict(query_stride=0), ValueError, "tops need xattn's tile and query_stride"),
    "tops of another tile": (SELECT[:1], dict(tile=1), ValueError, "tops must be"),
    "budgets of other heads": (
        ("psa_fwd", "select_blocks"), dict(budgets={"budgets": (1.0, 2.0)}), ValueError, "budgets must be 4 factors"),
    "cap of other blocks": ((*SELECT, "select_blocks"), dict(cap=np.ones((2, 2, 5), np.int8)), ValueError,
                            "cap must be int8"),
    "cap of 3 heads": ((*SELECT, "select_blocks"), dict(cap=np.ones((2, 3, 4), np.int8)), ValueError,
                       "heads that divide 4"),
    "order too short": (("permute_tokens", "restore_tokens"), dict(order=np.arange(9, dtype=np.int32)), ValueError,
                        "order must be"),
    "base too short": (("cluster_tokens",), dict(base=np.arange(9, dtype=np.int32)), ValueError, "base must be int32"),
    "base int64": (("cluster_tokens",), dict(base=np.arange(128)), ValueError, "base must be int32"),
    "tokens past the end": (("cluster_tokens",), dict(span={"n": 125}), ValueError, "125 tokens from 4 on"),
    "more clusters than tokens": (("cluster_tokens",), dict(span={"n_clusters": 101}), ValueError, "101 clusters"),
    "centres of another call": (("cluster_tokens",), dict(state=(np.zeros((2, 2, 4, 32), np.float32),) * 2), ValueError,
                                "centres must be"),
}  # fmt: skip
CASES = [(launcher, name) for name, (launchers, *_) in MISFITS.items() for launcher in launchers]


@pytest.fixture(scope="module")
def right():
    return made()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_takes_what_fits(right, launcher):
    LAUNCHERS[launcher](right)


@pytest.mark.parametrize("launcher, name", CASES, ids=[f"{a}-{b}" for a, b in CASES])
def test_refuses_before_any_launch(right, launcher, name, monkeypatch):
    _, changes, error, words = MISFITS[name]
    monkeypatch.setattr(bridge, "launch", lambda *a, **b: pytest.fail("launched"))
    with pytest.raises(error, match=words) as caught:
        LAUNCHERS[launcher]({**right, **changes})
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


ELSEWHERE = [
    *((launcher, "v") for launcher in KV),
    *((launcher, "q") for launcher in QK),
    *((launcher, "kv_start") for launcher in PADDED),
    *(("attend_fwd", name) for name in ("out", "pooled", "means", "lists", "counts", "levels")),
    *((launcher, "cap") for launcher in (*SELECT, "select_blocks")),
    ("psa_fwd", "out"),
    ("triangle_fwd", "out"),
    ("select_fwd, xattn", "tops"),
    ("permute_tokens", "order"),
    ("restore_tokens", "order"),
    ("cluster_tokens", "base"),
]


@pytest.mark.parametrize("launcher, name", ELSEWHERE, ids=[f"{a}-{b}" for a, b in ELSEWHERE])
def test_refuses_what_is_on_another_device(right, launcher, name, monkeypatch):
    given = {**right, "out": np.zeros_like(right["q"])}
    x = getattr(right["found"], name) if name in ("lists", "counts", "levels") and "attend" in launcher else given[name]
    there = x[1] if isinstance(x, tuple) else x
    monkeypatch.setattr(bridge, "device", lambda x: "gpu:0" if x is there else "cpu")
    monkeypatch.setattr(bridge, "launch", lambda *a, **b: pytest.fail("launched"))
    with pytest.raises(ValueError, match="must be on the device of .*cpu, got gpu:0"):
        LAUNCHERS[launcher](given)
