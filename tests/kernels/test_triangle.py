"""TriangleMix's kernels against a float64 softmax with the exact mask, and against the eager backend."""

from dataclasses import dataclass

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels.kernel_cases import layouts, tensor
from shared import smooth_qkv

from psa_paddle.triangle_pattern import Pattern
from psa_paddle.trianglemix import triangle_attention


@dataclass(frozen=True)
class Case:
    """One call; ``str`` is the test's id."""

    lq: int
    lk: int
    pattern: tuple  # sink, window, last
    d: int = 32
    group: int = 1
    hkv: int = 1
    starts: tuple = (0,)
    dtype: str = "float32"
    layout: str = "bhld"
    scale: float = 0.0

    def __str__(self):
        sink, window, last = self.pattern
        parts = [f"Lq{self.lq}-Lk{self.lk}-D{self.d}-G{self.group}of{self.hkv}-sink{sink}-window{window}-last{last}"]
        parts += [self.dtype, self.layout, *([f"starts{list(self.starts)}"] if any(self.starts) else [])]
        return "-".join(parts + ([f"scale{self.scale:g}"] if self.scale else []))

    @property
    def factor(self) -> float:
        return self.scale or 2.0 / self.d**0.5

    def host(self, seed: int = 0):
        shape = (self.lq, self.lk, self.group * self.hkv, self.hkv, self.d)
        q, k, v = smooth_qkv(*shape, seed=seed, batch=len(self.starts), dtype=np.dtype(self.dtype))
        for b, start in enumerate(self.starts):  # padding may hold anything
            k[b, :, :start], v[b, :, :start] = np.inf, np.nan
        return q, k, v


USUAL = (4, 32, 64)
CASES = [
    Case(1, 1, USUAL),
    Case(1, 300, USUAL, group=4),
    Case(31, 31, (0, 0, 0), group=4, d=64),
    Case(63, 127, (0, 16, 1), group=3),
    Case(129, 129, USUAL, group=7, d=80, dtype="float16"),
    Case(127, 300, (150, 20, 30), hkv=2, d=96),
    Case(300, 300, (0, 130, 77), group=2, d=128),
    Case(300, 300, (3, 5, 5000), group=2),
    Case(300, 300, (2, 5000, 3)),
    Case(300, 300, (5000, 1, 2)),
    Case(200, 1100, (8, 100, 130), group=2, d=64),
    Case(150, 700, USUAL, group=28),
    Case(40, 60, USUAL, group=130),
    Case(200, 230, (3, 20, 50), group=2, starts=(0, 77, 229)),
    Case(230, 230, (3, 20, 500), hkv=2, starts=(100, 100)),
    Case(300, 900, (3, 20, 5000), starts=(0, 700)),
    Case(200, 900, (3, 20, 5000), starts=(100, 0)),  # a split that its tiles do not divide
    Case(129, 129, USUAL, group=2, layout="blhd", dtype="float16"),
    Case(129, 700, (4, 32, 40), group=2, hkv=3, layout="mixed", starts=(0, 5)),
    Case(129, 260, USUAL, group=2, layout="sliced"),
    Case(130, 192, (3, 5, 5000)),  # a tile ends one key after the first row's last
    Case(130, 192, (3, 70, 4)),
    Case(129, 129, USUAL, group=2, scale=-0.4),
    Case(129, 129, USUAL, scale=30.0),
]


def visible(lq: int, lk: int, start: int, pattern) -> np.ndarray:
    """Seed formulas on the positions of a sample that begins at ``start``; bool [Lq, Lk]."""
    sink, window, last = pattern
    i, j, n = np.arange(lk - lq, lk)[:, None] - start, np.arange(lk)[None] - start, lk - start
    return (j >= 0) & (j <= i) & ((j <= sink) | (i - j <= window) | (n - i < last))


def masked_softmax(case: Case, q, k, v, dtype=np.float64) -> np.ndarray:
    """softmax(scale q k^T) v over the visible keys; rows of padding are zeros."""
    out = np.zeros(q.shape, dtype)
    for b, start in enumerate(case.starts):
        seen = visible(case.lq, case.lk, start, case.pattern)
        for h in range(q.shape[1]):
            keys, values = (np.where(np.arange(case.lk)[:, None] >= start, x[b, h // case.group], 0) for x in (k, v))
            logits = q[b, h].astype(dtype) @ keys.astype(dtype).T * dtype(case.factor)
            logits = np.where(seen, logits, -np.inf)
            top = logits.max(-1, keepdims=True)
            weights = np.exp(logits - np.where(np.isinf(top), 0, top))
            total = weights.sum(-1, keepdims=True)
            out[b, h] = weights / np.where(total == 0, 1, total) @ values.astype(dtype)
    return out


def run(case: Case, q, k, v, **more):
    names = ("num_sink_tokens", "sliding_window_size", "num_last_tokens")
    return triangle_attention(
        *map(tensor, (q, k, v), layouts(case.layout)), **dict(zip(names, case.pattern, strict=True)), scale=case.factor,
        kv_start=case.starts if any(case.starts) else None, **{"backend": "triton", **more},
    )  # fmt: skip


def assert_close(out, case: Case, q, k, v):
    """|out - ref64| <= 2 |the same softmax in float32, rounded - ref64| + rounding."""
    exact = masked_softmax(case, q, k, v)
    rough = masked_softmax(case, q, k, v, np.float32).astype(case.dtype).astype(np.float64)
    real = v.astype(np.float64)[np.isfinite(v)]
    rounding = 4 * np.finfo(case.dtype).eps * max(1.0, np.abs(real).max())
    error = np.abs(out.astype(np.float64) - exact)
    assert error.max() <= 2 * np.abs(rough - exact).max() + rounding, np.argwhere(error == error.max())[0].tolist()
    for b, start in enumerate(case.starts):
        assert not out[b, :, : max(0, start - (case.lk - case.lq))].any(), "rows of padding must be zeros"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_masked_softmax(case):
    q, k, v = case.host()
    assert_close(run(case, q, k, v).numpy(), case, q, k, v)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 150),
    st.integers(0, 150),
    st.integers(1, 9),
    st.tuples(*[st.integers(0, 320)] * 3),
    st.integers(0, 299),
    st.integers(0, 1000),
)
def test_fuzz(lq, more, group, pattern, start, seed):
    case = Case(lq, lq + more, pattern, group=group, starts=(start % (lq + more), 0))
    q, k, v = case.host(seed)
    assert_close(run(case, q, k, v).numpy(), case, q, k, v)


def test_two_backends_one_answer_and_one_count():
    case = Case(200, 300, (3, 40, 50), group=2, starts=(0, 120))
    q, k, v = case.host()
    got, stats = run(case, q, k, v, heads_last=True, return_stats=True)
    want, eager = run(case, q, k, v, heads_last=True, return_stats=True, backend="eager")
    assert got.shape == want.shape == [2, 200, 2, 32]
    assert np.abs(got.numpy() - want.numpy()).max() < 1e-5
    assert (stats.backend, eager.backend, stats.mode) == ("triton", "eager", "sparse")
    assert stats.lengths == ((200, 300), (180, 180))
    pairs = [visible(n, m, 0, (3, 40, 50)).sum() for n, m in stats.lengths]
    every = [visible(n, m, 0, (0, 0, 5000)).sum() for n, m in stats.lengths]
    assert stats.per_head_density() == eager.per_head_density() == pytest.approx([sum(pairs) / sum(every)] * 2)


def test_at_most_three_launches_and_the_same_bits_again(monkeypatch):
    from psa_paddle import bridge

    launched = []
    launch = bridge.launch

    def spy(kernel, *args, **kwargs):
        launched.append(kernel)
        launch(kernel, *args, **kwargs)

    monkeypatch.setattr(bridge, "launch", spy)
    case = Case(100, 1100, (4, 60, 40), group=2)
    q, k, v = case.host()
    first = run(case, q, k, v).numpy()
    assert len(launched) == 3 and np.array_equal(run(case, q, k, v).numpy(), first)


@pytest.mark.parametrize("tiles", [1, 7, 28, 1024, 5000])
@pytest.mark.parametrize("lk", [1, 511, 513, 4096, 131072])
def test_splits_tile_the_keys(tiles, lk):
    from psa_paddle.kernels.triangle import FULL_PROGRAMS, split_keys

    splits, chunk = split_keys(tiles, lk, 64)
    assert chunk % 64 == 0 and (splits - 1) * chunk < lk <= splits * chunk
    assert splits == 1 or tiles * splits < FULL_PROGRAMS + tiles


def test_merged_splits_equal_one_pass(monkeypatch):
    from psa_paddle.kernels import triangle

    case = Case(60, 1300, (4, 60, 5000), group=3, starts=(0, 1270))
    q, k, v = case.host()
    split = run(case, q, k, v).numpy()
    monkeypatch.setattr(triangle, "FULL_PROGRAMS", 1)
    assert np.abs(run(case, q, k, v).numpy() - split).max() < 1e-5


def test_writes_paddles_layout_and_nothing_else():
    from psa_paddle.kernels.triangle import triangle_fwd

    case = Case(100, 700, (4, 30, 40), group=2)
    q, k, v = (tensor(x) for x in case.host())
    call = dict(pattern=Pattern(4, 30, 40), scale=1.0)
    buffer = paddle.full([1, 103, 2, 40], 7.0)
    triangle_fwd(q, k, v, **call, out=buffer.transpose([0, 2, 1, 3])[:, :, 2:102, :32])
    host = buffer.numpy()
    np.testing.assert_array_equal(host[:, 2:102, :, :32], triangle_fwd(q, k, v, **call, heads_last=True).numpy())
    host[:, 2:102, :, :32] = 7.0
    assert (host == 7.0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_numbers_stay_in_their_head(bad):
    case = Case(100, 600, (4, 30, 40), hkv=2)
    q, k, v = case.host()
    want = masked_softmax(case, q, k, v)
    v[0, 0, 5], k[0, 0, 9] = bad, bad
    with np.errstate(invalid="ignore"):
        out = run(case, q, k, v).numpy()
    assert np.abs(out[0, 1] - want[0, 1]).max() < 1e-4 and np.isnan(out[0, 0]).any()


def test_expanded_heads():
    case = Case(100, 130, USUAL, group=2)
    q, k, v = case.host()
    one = tensor(q[:, :1]).expand([1, 2, 100, 32])
    out = triangle_attention(
        one, tensor(k), tensor(v), num_sink_tokens=4, sliding_window_size=32, num_last_tokens=64, backend="triton"
    ).numpy()
    np.testing.assert_allclose(out[:, 0], out[:, 1], atol=1e-6)  # the interpreter's products round by their place


def test_gradients_are_refused_rather_than_lost():
    case = Case(40, 60, USUAL)
    q, k, v = (tensor(x) for x in case.host())
    q.stop_gradient = False
    call = dict(num_sink_tokens=1, sliding_window_size=2, num_last_tokens=3, backend="triton")
    with pytest.raises(ValueError, match="no gradients"):
        triangle_attention(q, k, v, **call)
    with paddle.no_grad():
        assert triangle_attention(q, k, v, **call).shape == [1, 1, 40, 32]


def test_refusals():
    from psa_paddle.kernels.triangle import triangle_fwd

    q, k, v = (tensor(x) for x in Case(40, 60, USUAL, group=3).host())
    call = dict(pattern=Pattern(1, 2, 3), scale=1.0)
    with pytest.raises(ValueError, match="must not be negative"):
        triangle_fwd(q, k, v, Pattern(1, -1, 3), 1.0)
    with pytest.raises(ValueError, match="as many keys as queries"):
        triangle_fwd(q, k[:, :, :30], v[:, :, :30], **call)
    with pytest.raises(ValueError, match="k and v must have one shape"):
        triangle_fwd(q, k, v[:, :, :50], **call)
    with pytest.raises(TypeError, match="one dtype"):
        triangle_fwd(q, k, v.astype("float16"), **call)
    with pytest.raises(ValueError, match="out must be"):
        triangle_fwd(q, k, v, **call, out=paddle.zeros([1, 3, 41, 32]))
    with pytest.raises(ValueError, match="kv_start"):
        triangle_fwd(q, k, v, **call, kv_start=paddle.zeros([2], "int32"))
    with pytest.raises(ValueError, match="backend must be one of"):
        triangle_attention(q, k, v, num_sink_tokens=1, sliding_window_size=2, num_last_tokens=3, backend="cuda")
