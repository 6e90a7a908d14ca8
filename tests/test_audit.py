"""The audit: which rows, what their sums say, and how a user comes to see it."""

import json

import numpy as np
import paddle
import pytest
from audited_heads import HEADS, HOSTILE, ORDINARY, audited_heads

from psa_paddle import AttentionConfig, PSAAttention, PSAConfig, PyramidAdaptiveBlockSparseAttn, pyramid_attention
from psa_paddle import reference as ref
from psa_paddle.plan import Plan
from psa_paddle.stats import (
    AuditedRows,
    CallStats,
    attention_errors,
    audited_rows,
    error_figures,
    error_warning,
    merge_calls,
    totals,
)

LENGTH, ROWS = 2048, 64
RATIOS = {1: (0.0, 0.05), 0: (0.05, 1.0)}
CONFIG = AttentionConfig(
    mask_mode="topk", mask_ratios=RATIOS, block_means=True, text_length=32, dense_below=0, audit_rows=ROWS
)


def tensors(*arrays):
    return [paddle.to_tensor(x) for x in arrays]


@pytest.fixture(scope="module")
def calls():
    """Of two seeds: q, k, v, what the operator gave, its ``CallStats``, and every row's true error and size [H, L]."""
    found = []
    for seed in (0, 1):
        q, k, v = audited_heads(LENGTH, seed=seed)
        out, call = pyramid_attention(*tensors(q, k, v), CONFIG, return_stats=True)
        own = [x[0].astype(np.float64) for x in (q, k, v, out.numpy())]
        true = np.sqrt(ref.audit(*own, np.arange(LENGTH), 32**-0.5, True))
        found.append((q, k, v, out, call, true))
    return found


@pytest.mark.parametrize("n, rows", [(1, 64), (63, 64), (64, 64), (65, 64), (1000, 16), (65536, 64), (1 << 20, 500)])
def test_rows_are_one_of_each_equal_part(n, rows):
    found, sizes = audited_rows(n, rows)
    bounds = np.arange(min(rows, n) + 1) * n // min(rows, n)
    assert len(found) == len(sizes) == min(rows, n) and (sizes == np.diff(bounds)).all()
    assert (bounds[:-1] <= found).all() and (found < bounds[1:]).all()


@pytest.mark.parametrize("period", [64, 128, 108, 256, 1024, 1000])
def test_rows_keep_step_with_no_period(period):
    """Places in a frame, or in a query block, are spread over all of it."""
    places = audited_rows(65536, 64)[0] % period / period
    counts = np.histogram(places, 8, (0, 1))[0]
    assert counts.min() >= 2 and counts.max() <= 16


@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_figure_is_within_its_sampling_error(calls, backend):
    """On heads that the estimate finds and on those that defeat it: most within two, all within three and a half."""
    far = []
    for q, k, v, out, call, true in calls[: 1 if backend == "triton" else 2]:
        if backend == "triton":
            from psa_paddle.kernels import audit_fwd

            sums = audit_fwd(*tensors(q, k, v), out, Plan.of(CONFIG, 32**-0.5, audit_rows=ROWS))
            call = CallStats("triton", "sparse", "", ((LENGTH, LENGTH),), audits=[AuditedRows(sums, (LENGTH,))])
        every, heads = call.attention_errors()
        sums = true.sum(1)
        for found, (error, size) in zip([every, *heads], [sums.sum(0), *sums], strict=True):
            far.append(abs(found.error - error / size) / found.sampling_error)
            assert found.sampling_error < 0.3 * found.error  # it says something
    assert np.mean(np.array(far) < 2) >= 0.9 and max(far) < 3.5


@pytest.mark.parametrize("head", HEADS)
def test_warns_of_heads_that_defeat_the_estimate(calls, head):
    for *_, call, _ in calls:
        sums = np.asarray(call.audits[0].sums)[:, [HEADS.index(head)]]
        words = error_warning({7: error_figures([AuditedRows(sums, (LENGTH,))])})
        assert ("layer 7" in words) == (head in HOSTILE) and (head in ORDINARY) == (words == "")


def test_warning_says_where_and_what_to_do():
    def layer(error, worst):
        return {
            "error": error, "sampling_error": 0.01, "worst_head": 3, "worst_head_error": worst,
            "worst_head_sampling_error": 0.05,
        }  # fmt: skip

    good = layer(0.1, 0.2)
    assert error_warning({0: good, 1: layer(0.2, 0.34)}) == ""  # not clearly above
    words = error_warning({0: good, 1: layer(0.5, 0.7), 2: layer(0.15, 0.9)})
    assert "\n" not in words and "2 of 3 layers" in words and "50%" in words and "90%" in words
    assert "layer 1" in words and "head 3 of layer 2" in words
    assert "preset" in words and "dense" in words and "--audit" in words
    assert error_warning({4: layer(float("nan"), float("nan"))})


def test_sampling_error_covers_where_rows_differ():
    """Over many drawn calls with rows of other sizes, the true figure is within two sampling errors about nine times in
    ten; every row audited leaves no sampling error."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        size = 1 / np.sqrt(np.arange(1, 3001))  # as the first rows of causal attention are
        error = size * np.where(rng.random(3000) < 0.2, 1.0, 0.1)
        sums = np.stack([error, size], -1)[None, None] ** 2
        picked = sums[:, :, audited_rows(3000, 64)[0]]
        ((found, _),) = [attention_errors([AuditedRows(picked, (3000,))])]
        inside.append(abs(found.error - error.sum() / size.sum()) < 2 * found.sampling_error)
        ((all_rows, _),) = [attention_errors([AuditedRows(sums, (3000,))])]
        assert all_rows.error == pytest.approx(error.sum() / size.sum()) and all_rows.sampling_error == 0
    assert np.mean(inside) > 0.85


def test_calls_of_a_layer_count_by_their_rows(calls):
    """Two chunks, or two samples of other lengths: each row stands for as many as it did in its own call."""
    one = AuditedRows(np.tile([[[[4.0, 16.0]]]], (1, 1, 16, 1)), (1600,))  # half of it is wrong
    two = AuditedRows(np.tile([[[[0.0, 16.0]]]], (1, 1, 16, 1)), (3200,))
    every, _ = attention_errors([one, two])
    assert every.error == pytest.approx(0.5 / 3)
    assert attention_errors([AuditedRows(np.zeros((1, 1, 16, 2)), (1600,))])[0].error == 0
    merged = merge_calls([CallStats("eager", "sparse", "", ((1, 1),), [np.ones((1, 1))], [1], [a]) for a in (one, two)])
    assert merged.attention_errors()[0] == every


@pytest.mark.parametrize("backend, heads_last", [("eager", False), ("eager", True), ("triton", True)])
def test_left_padded_batch_is_audited_as_its_samples(backend, heads_last):
    config = CONFIG.replace(backend=backend, query_block=64, key_block=32, audit_rows=16)
    q, k, v = (np.concatenate([x[:, 1:2], x[:, 3:4]]) for x in audited_heads(300))
    starts = [0, 110]
    keywords = {"heads_last": heads_last, "return_stats": True}
    _, call = pyramid_attention(*tensors(q[:, :, 70:], k, v), config, kv_start=starts, **keywords)
    errors = []
    for b, start in enumerate(starts):
        first = max(70, start)
        own = tensors(q[b : b + 1, :, first:], k[b : b + 1, :, start:], v[b : b + 1, :, start:])
        _, alone = pyramid_attention(*own, config.replace(backend="eager"), return_stats=True)
        errors += alone.audits
    got, want = call.attention_errors(), attention_errors(errors)
    for a, b in zip([got[0], *got[1]], [want[0], *want[1]], strict=True):
        assert [a.error, a.sampling_error] == pytest.approx([b.error, b.sampling_error], rel=1e-3)
    assert want[0].error > 0.05


def test_only_what_runs_sparse_is_audited_and_only_when_asked(calls):
    q, k, v, out, _, _ = calls[0]
    qkv = tensors(q[:, :, :300], k[:, :, :300], v[:, :, :300])
    for config in (CONFIG.replace(dense_below=301), CONFIG.replace(audit_rows=0)):
        _, call = pyramid_attention(*qkv, config, return_stats=True)
        assert call.audits == [] and call.attention_errors() is None and totals([(0, call)])["audit_warning"] == ""
        assert totals([(0, call)])["layers"][0]["audit"] is None
    exact, call = pyramid_attention(*qkv, CONFIG.replace(mask_ratios={1: (0.0, 1.0)}), return_stats=True)
    assert call.attention_errors()[0].error < 1e-5
    plain = pyramid_attention(*qkv, CONFIG.replace(audit_rows=0))
    assert np.array_equal(pyramid_attention(*qkv, CONFIG, return_stats=True)[0].numpy(), plain.numpy())


def test_any_number_of_rows_is_audited():
    """Rows go sixteen at a time; what is left over may be one."""
    q, k, v = audited_heads(300)
    out, call = pyramid_attention(*tensors(q, k, v), CONFIG.replace(audit_rows=17), return_stats=True)
    own = [x[0].astype(np.float64) for x in (q, k, v, out.numpy())]
    want = ref.audit(*own, audited_rows(300, 17)[0], 32**-0.5, True)
    np.testing.assert_allclose(np.asarray(call.audits[0].sums)[0], want, rtol=1e-3, atol=1e-6)


def test_gradients_do_not_pass_through_the_audit():
    q, k, v = tensors(*(x[:, :2, :200] for x in audited_heads(200)))
    q.stop_gradient = False
    out, call = pyramid_attention(q, k, v, CONFIG, return_stats=True)
    assert call.audits[0].sums.stop_gradient and not out.stop_gradient


def test_layers_and_their_log(calls, tmp_path):
    q, k, v = tensors(*calls[0][:3])
    layer = PyramidAdaptiveBlockSparseAttn(CONFIG, layer_idx=3, log_dir=str(tmp_path), session_name="s")
    layer(q, k, v)
    layer.flush_log()
    record = json.loads((tmp_path / "s.jsonl").read_text())
    summary = json.loads((tmp_path / "s_summary.json").read_text())
    want = error_figures(calls[0][4].audits)
    assert record["audit"] == {name: pytest.approx(x) for name, x in want.items()}
    assert summary["layers"]["3"]["audit"] == record["audit"] and summary["audit_warning"] == error_warning({3: want})
    psa = PSAAttention(PSAConfig(mask_ratios=RATIOS, dense_below=0, audit_rows=16))
    psa(*(x[:, :, :500] for x in (q, k, v)))
    assert psa.last_call.attention_errors()[0].error > 0.01


@pytest.mark.parametrize(
    "rows, error, words",
    [(-1, ValueError, "negative"), (8, ValueError, "0 or at least 16"), (2.5, TypeError, "an integer")],
)
def test_refuses_rows(rows, error, words):
    with pytest.raises(error, match=words):
        AttentionConfig(audit_rows=rows)
