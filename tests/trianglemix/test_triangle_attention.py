"""triangle_attention against a softmax with the mask of the generator, and its work against the length."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import smooth_qkv

from psa_paddle.trianglemix import TriangleMixConfig, TriangleMixMaskGenerator, attention, triangle_attention
from psa_paddle.trianglemix.attention import Pattern

# (Lq, Lk, H, Hkv, D): ragged, chunked, every group size and several head dimensions.
SHAPES = [
    (1, 1, 1, 1, 32),
    (31, 31, 4, 1, 64),
    (129, 129, 7, 1, 80),
    (300, 300, 4, 1, 128),
    (127, 300, 2, 2, 96),
    (1, 300, 4, 1, 32),
    (1000, 1000, 7, 7, 32),
    (150, 1000, 8, 2, 64),
]
# (sink, window, last): usual, nothing at all, last > L, window > L, sink > L, no window, a bound inside a block.
PATTERNS = [(4, 32, 64), (0, 0, 0), (0, 16, 1), (3, 5, 5000), (2, 5000, 3), (5000, 1, 2), (8, 0, 200), (0, 130, 77)]


def tensors(*arrays):
    return [paddle.to_tensor(x) for x in arrays]


def run(q, k, v, pattern, **keywords):
    names = ("num_sink_tokens", "sliding_window_size", "num_last_tokens")
    return triangle_attention(*tensors(q, k, v), **dict(zip(names, pattern, strict=True)), **keywords)


def masked_softmax(q, k, v, pattern, scale, dtype=np.float64):
    """softmax(scale q k^T + mask) v of [B, H, L, D] arrays with the generator's mask."""
    lq, lk = q.shape[2], k.shape[2]
    mask = TriangleMixMaskGenerator(TriangleMixConfig(*pattern)).get_attention_mask(lk, 0, "cpu", "float32", True)
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[1] // k.shape[1], 1) for x in (k, v))
    logits = q @ k.swapaxes(2, 3) * dtype(scale) + mask.numpy()[lk - lq :].astype(dtype)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def error_and_budget(out, q, k, v, pattern, scale):
    """The largest error, and twice that of the masked softmax in the inputs' own precision, plus rounding."""
    exact = masked_softmax(q, k, v, pattern, scale)
    rough = masked_softmax(q, k, v, pattern, scale, np.float32).astype(q.dtype).astype(np.float64)
    rounding = 4 * np.finfo(q.dtype).eps * max(1.0, float(np.abs(v.astype(np.float64)).max()))
    return np.abs(out.astype(np.float64) - exact).max(), 2 * np.abs(rough - exact).max() + rounding


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: "sink{}-window{}-last{}".format(*p))
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "Lq{}-Lk{}-H{}of{}-D{}".format(*s))
def test_equals_the_masked_softmax(shape, pattern):
    q, k, v = smooth_qkv(*shape)
    out = run(q, k, v, pattern).numpy()
    error, budget = error_and_budget(out, q, k, v, pattern, shape[4] ** -0.5)
    assert error <= budget


@pytest.mark.parametrize("pattern", [(8, 512, 128), (8, 2500, 300)], ids=["one piece", "pieces"])
def test_long_sequence(pattern):
    """More keys than one product takes, in the last rows and in a wide window."""
    q, k, v = smooth_qkv(4096, 4096, 2, 1, 32)
    out = run(q, k, v, pattern).numpy()
    rows = slice(3000, 4096)
    error, budget = error_and_budget(out[:, :, rows], q[:, :, rows], k, v, pattern, 32**-0.5)
    assert error <= budget
    head = masked_softmax(q[:, :, :1500], k[:, :, :1500], v[:, :, :1500], (*pattern[:2], 0), 32**-0.5)
    assert np.abs(out[:, :, :1500] - head).max() <= budget


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    """Inputs rounded first: only the output's own rounding is left."""
    q, k, v = (paddle.to_tensor(x).astype(dtype) for x in smooth_qkv(300, 300, 4, 1, 64))
    out = triangle_attention(q, k, v, num_sink_tokens=4, sliding_window_size=40, num_last_tokens=30)
    assert out.dtype == q.dtype
    exact = masked_softmax(*(x.astype("float32").numpy() for x in (q, k, v)), (4, 40, 30), 0.125)
    eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    assert np.abs(out.astype("float32").numpy() - exact).max() <= eps * np.abs(exact).max()
    counts = {"num_sink_tokens": 4, "sliding_window_size": 40, "num_last_tokens": 30}
    padded = triangle_attention(q, k, v, **counts, kv_start=[100])
    alone = triangle_attention(q[:, :, 100:], k[:, :, 100:], v[:, :, 100:], **counts)
    assert padded.dtype == q.dtype
    assert np.array_equal(padded.astype("float32").numpy()[:, :, 100:], alone.astype("float32").numpy())
    assert (padded.astype("float32").numpy()[:, :, :100] == 0).all()


@pytest.mark.parametrize("lq", [300, 130], ids=["prefill", "chunk"])
@pytest.mark.parametrize("starts", [[0, 77, 210], [60, 60, 60]], ids=["ragged", "one start"])
def test_left_padded_batch_equals_its_samples(lq, starts):
    q, k, v = smooth_qkv(lq, 300, 4, 2, 32, batch=3)
    for b, start in enumerate(starts):
        k[b, :, :start], v[b, :, :start] = np.nan, np.inf  # what stands in the padding must not matter
    out = run(q, k, v, (3, 20, 50), kv_start=starts).numpy()
    for b, start in enumerate(starts):
        first = max(0, start - (300 - lq))
        alone = q[b : b + 1, :, first:], k[b : b + 1, :, start:], v[b : b + 1, :, start:]
        error, budget = error_and_budget(out[b : b + 1, :, first:], *alone, (3, 20, 50), 32**-0.5)
        assert error <= budget
        assert (out[b, :, :first] == 0).all()


def test_batch_without_padding_and_own_scale():
    q, k, v = smooth_qkv(200, 260, 4, 2, 64, batch=2)
    error, budget = error_and_budget(run(q, k, v, (2, 30, 20), scale=0.5).numpy(), q, k, v, (2, 30, 20), 0.5)
    assert error <= budget


def test_all_key_heads_at_once_equals_one_at_a_time(monkeypatch):
    """On other devices than a CPU the key heads of the batch go together."""
    q, k, v = smooth_qkv(2500, 2500, 4, 2, 32, batch=2)
    one = run(q, k, v, (4, 100, 150)).numpy()
    seen = []
    matmul = paddle.matmul

    def spy(x, y, **keywords):
        seen.append(x.shape[0])
        return matmul(x, y, **keywords)

    monkeypatch.setattr(attention.paddle, "matmul", spy)
    monkeypatch.setattr(attention, "_heads_at_once", lambda q, bias, heads: heads)
    together = run(q, k, v, (4, 100, 150)).numpy()
    assert set(seen) == {4}
    assert np.abs(together - one).max() < 1e-5


def test_chunks_equal_one_call():
    """Without last rows a prompt may be computed in chunks."""
    q, k, v = smooth_qkv(500, 500, 4, 2, 32)
    whole = run(q, k, v, (4, 60, 0)).numpy()
    first = run(q[:, :, :170], k[:, :, :170], v[:, :, :170], (4, 60, 0)).numpy()
    second = run(q[:, :, 170:], k, v, (4, 60, 0)).numpy()
    assert np.abs(np.concatenate([first, second], 2) - whole).max() < 1e-5


def test_hidden_keys_do_not_matter():
    q, k, v = smooth_qkv(600, 600, 2, 1, 32)
    out = run(q, k, v, (4, 30, 20)).numpy()
    k[:, :, 100:150] += 3.0
    changed = np.abs(run(q, k, v, (4, 30, 20)).numpy() - out).max((0, 1, 3))
    assert (changed[:100] == 0).all() and (changed[180:581] == 0).all()
    assert (changed[110:180] > 0).all() and (changed[581:] > 0).all()


def test_gradients():
    q, k, v = smooth_qkv(200, 200, 2, 1, 32)
    grads = []
    for own in (True, False):
        x = tensors(q, k, v)
        for t in x:
            t.stop_gradient = False
        if own:
            out = triangle_attention(*x, num_sink_tokens=2, sliding_window_size=20, num_last_tokens=30)
        else:
            mask = TriangleMixMaskGenerator(TriangleMixConfig(2, 20, 30)).get_attention_mask(
                200, 0, "cpu", "float32", True
            )
            logits = paddle.matmul(x[0], x[1], transpose_y=True) * 32**-0.5 + mask
            out = paddle.matmul(paddle.nn.functional.softmax(logits, axis=-1), x[2])
        (out * out).sum().backward()
        grads.append([t.grad.numpy() for t in x])
    for ours, want in zip(*grads, strict=True):
        assert np.abs(ours - want).max() <= 1e-4 * np.abs(want).max()


def work(monkeypatch, length):
    """(query-key products, most numbers in one tensor of logits) of a call with L keys."""
    counts = []
    matmul = paddle.matmul

    def spy(x, y, transpose_y=False):
        if transpose_y:
            counts.append(x.shape[0] * x.shape[1] * y.shape[1])
        return matmul(x, y, transpose_y=transpose_y)

    q, k, v = smooth_qkv(length, length, 2, 1, 32)
    with monkeypatch.context() as patch:
        patch.setattr(attention.paddle, "matmul", spy)
        run(q, k, v, (8, 200, 65))
    return sum(counts), max(counts)


def test_work_is_linear_and_memory_of_the_logits_constant(monkeypatch):
    counted = {n: work(monkeypatch, n) for n in (2048, 4096, 6144, 8192)}
    step = counted[4096][0] - counted[2048][0]
    assert counted[6144][0] - counted[4096][0] == step
    assert counted[8192][0] - counted[6144][0] == step
    # A row of 2 heads: 9 sink keys, the window, and at most a block; 64 last rows see every key.
    assert step <= 2 * (2048 * (9 + 200 + 128) + 64 * 2048)
    assert counted[8192][1] == counted[2048][1]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(0, 300),
    st.sampled_from([(1, 1), (4, 1), (4, 2), (7, 1)]),
    st.sampled_from([32, 64, 80, 96, 128]),
    st.tuples(st.integers(0, 450), st.integers(0, 450), st.integers(0, 450)),
    st.integers(0, 1000),
)
def test_fuzz(lq, more, heads, dim, pattern, seed):
    q, k, v = smooth_qkv(lq, lq + more, *heads, dim, seed=seed)
    error, budget = error_and_budget(run(q, k, v, pattern).numpy(), q, k, v, pattern, dim**-0.5)
    assert error <= budget


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(0, 60)] * 3), st.integers(1, 60), st.integers(1, 30), st.integers(1, 25))
def test_fuzz_ranges_hold_what_is_visible(pattern, lk, rows, width):
    """Whatever the block and the pieces: together they are the columns, and ``hidden`` is the mask."""
    mask = TriangleMixMaskGenerator(TriangleMixConfig(*pattern))._create_triangle_mask(lk, "cpu", "bool").numpy()
    shape = Pattern(*pattern)
    bound = min(shape.first_full(lk), lk)
    for low, high, full in ((0, bound, False), (bound, lk, True)):
        for first in range(low, high, rows):
            stop = min(first + rows, high)
            got = np.zeros((stop - first, lk), bool)
            for piece in attention.cut(shape.ranges(first, stop, full), width):
                cols = np.concatenate([np.arange(*part) for part in piece])
                hidden = shape.hidden(first, stop, full, piece)
                assert len(cols) <= width and not got[:, cols].any()
                got[:, cols] = True if hidden is None else ~hidden
            assert np.array_equal(got, mask[first:stop])


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.integers(0, 60)] * 3), st.integers(1, 60), st.integers(0, 59))
def test_fuzz_count_of_visible_pairs(pattern, lk, skipped):
    mask = TriangleMixMaskGenerator(TriangleMixConfig(*pattern))._create_triangle_mask(lk, "cpu", "bool").numpy()
    lq = max(1, lk - skipped)
    assert Pattern(*pattern).seen_pairs(lq, lk) == mask[lk - lq :].sum()


GOOD = [paddle.zeros([1, 4, 64, 32]), paddle.zeros([1, 2, 96, 32]), paddle.zeros([1, 2, 96, 32])]
COUNTS = {"num_sink_tokens": 1, "sliding_window_size": 2, "num_last_tokens": 3}
REFUSED = {
    "numpy": ([np.zeros((1, 4, 64, 32)), *GOOD[1:]], {}, TypeError, "paddle.Tensor"),
    "three dimensions": ([GOOD[0][0], *GOOD[1:]], {}, ValueError, "4 dimensions"),
    "two dtypes": ([GOOD[0].astype("float16"), *GOOD[1:]], {}, TypeError, "one dtype"),
    "more queries than keys": ([paddle.zeros([1, 4, 97, 32]), *GOOD[1:]], {}, ValueError, "97 queries and 96 keys"),
    "heads that do not divide": ([paddle.zeros([1, 3, 64, 32]), *GOOD[1:]], {}, ValueError, "evenly"),
    "negative sink": (GOOD, {"num_sink_tokens": -1}, ValueError, "num_sink_tokens"),
    "negative window": (GOOD, {"sliding_window_size": -1}, ValueError, "sliding_window_size"),
    "half a last token": (GOOD, {"num_last_tokens": 0.5}, TypeError, "num_last_tokens"),
    "scale NaN": (GOOD, {"scale": float("nan")}, ValueError, "finite"),
    "two starts": (GOOD, {"kv_start": [0, 1]}, ValueError, "one start for each"),
    "nothing but padding": (GOOD, {"kv_start": [96]}, ValueError, "no attention"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    qkv, keywords, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        triangle_attention(*qkv, **{**COUNTS, **keywords})
