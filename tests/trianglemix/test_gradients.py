"""Grad(M, l) against Paddle's autograd through explicit attention weights and the generator's Middle mask."""

import numpy as np
import paddle
import pytest
from shared import smooth_qkv

from psa_paddle.trianglemix import TriangleMixConfig, TriangleMixMaskGenerator, gradients
from psa_paddle.trianglemix.gradients import middle_gradient

PATTERNS = [(4, 32, 64), (0, 0, 0), (0, 0, 1), (7, 3, 100), (100, 5, 20), (3, 150, 2)]


def explicit(q, k, v, pattern) -> tuple:
    """(dz/dO [H, L, D], v, mean |dz/dA| over Middle) of z = sum(sin(O))."""
    mask = TriangleMixMaskGenerator(TriangleMixConfig(*pattern)).get_attention_mask(q.shape[2], 0, "cpu", "float32")
    q, k, v = (paddle.to_tensor(x) for x in (q, k, v))
    keys, values = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    weights = paddle.nn.functional.softmax(paddle.matmul(q, keys, transpose_y=True) * 0.2 + mask, axis=-1)
    weights.stop_gradient = False
    out = paddle.matmul(weights, values)
    by_weights, by_out = paddle.grad(paddle.sin(out).sum(), [weights, out])
    middle = TriangleMixMaskGenerator(TriangleMixConfig(*pattern))._create_middle_mask(q.shape[2], "cpu", "bool")
    return by_out[0], v[0], float(np.abs(by_weights.numpy())[0][:, middle.numpy()].mean())


@pytest.mark.parametrize("rows", [256, 7], ids=["one block", "blocks of 7"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: "sink{}-window{}-last{}".format(*p))
def test_equals_the_gradient_of_the_weights(pattern, rows, monkeypatch):
    monkeypatch.setattr(gradients, "ROWS", rows)
    grad, value, want = explicit(*smooth_qkv(230, 230, 6, 2, 32), pattern)
    assert float(middle_gradient(grad, value, TriangleMixConfig(*pattern))) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: "sink{}-window{}-last{}".format(*p))
def test_shortest_prompt_with_a_middle(pattern):
    config = TriangleMixConfig(*pattern)
    shortest = next(
        n for n in range(1, 400) if TriangleMixMaskGenerator(config)._create_middle_mask(n, "cpu", "bool").any()
    )
    grad, value, want = explicit(*smooth_qkv(shortest, shortest, 2, 1, 32), pattern)
    assert float(middle_gradient(grad, value, config)) == pytest.approx(want, rel=1e-5)
    with pytest.raises(ValueError, match=f"needs {shortest} tokens"):
        middle_gradient(grad[:, 1:], value[:, 1:], config)
