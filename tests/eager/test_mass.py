"""Where the last rows look, against attention written out."""

import numpy as np
import paddle
import pytest

from psa_paddle import eager


@pytest.mark.parametrize("lq, lk, rows", [(40, 40, 5), (7, 40, 7), (7, 40, 16), (1, 9, 1)])
def test_mass_of_keys_is_that_of_exact_attention(lq, lk, rows):
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal((1, h, n, 32)).astype(np.float32) for h, n in ((6, lq), (2, lk)))
    found = eager.key_mass(paddle.to_tensor(q), paddle.to_tensor(k), 0.3, rows)
    wanted = np.zeros(lk)
    taken = range(max(0, lq - rows), lq)
    for h in range(6):
        for i in taken:
            seen = i + lk - lq + 1
            weights = np.exp(0.3 * k[0, h // 3, :seen].astype(np.float64) @ q[0, h, i])
            wanted[:seen] += weights / weights.sum() / 6 / len(taken)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert found.sum() == pytest.approx(1)
