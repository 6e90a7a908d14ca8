"""The levels that somebody wants to see are those that the operator used."""

import numpy as np
import paddle
import pytest
from shared_demo import SPARSE

from psa_paddle.attention import level_map, pyramid_attention
from psa_paddle.geometry import Geometry
from psa_paddle.stats import work_of

PLAIN = SPARSE.replace(text_length=0)
CAPPED = PLAIN.replace(use_sim_mask=True, sim_2x_threshold=-0.1, sim_4x_threshold=0.0)
MEANS = PLAIN.replace(block_means=True, mask_ratios={1: (0.0, 0.4), 0: (0.4, 1.0)})


def tensors(lq, lk):
    rng = np.random.default_rng(lq)
    return [paddle.to_tensor(rng.standard_normal((1, h, n, 32)).astype(np.float32)) for h, n in ((2, lq), (1, lk))]


CASES = {
    "levels": ("eager", PLAIN, 300, 300),
    "capped": ("eager", CAPPED, 300, 300),
    "means": ("eager", MEANS, 300, 300),
    "fewer queries": ("eager", MEANS, 128, 300),
    "triton, capped": ("triton", CAPPED, 64, 250),
    "triton, means": ("triton", MEANS, 64, 250),
}


@pytest.mark.parametrize("backend, config, lq, lk", CASES.values(), ids=CASES)
def test_work_of_the_map_is_the_work_that_was_done(monkeypatch, backend, config, lq, lk):
    config = config.replace(backend=backend)
    q, k = tensors(lq, lk)
    if backend == "triton":  # in the interpreter, which needs no GPU
        monkeypatch.setattr("psa_paddle.attention.pick_backend", lambda config, *tensors: "triton")
    levels = level_map(q, k, config)
    geo = Geometry(lq, lk, config.query_block, config.key_block, True)
    assert levels.dtype == np.int8 and levels.shape == (1, 2, geo.n_i, geo.n_j)
    _, call = pyramid_attention(q, k, k, config, return_stats=True)
    found = work_of(levels, geo, config.uses_means)[0] / geo.n_pairs()
    np.testing.assert_allclose(found, call.per_head_density(), rtol=1e-6)
    assert 0 < found.max() < 1
