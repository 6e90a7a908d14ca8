"""The order in which attention takes its query blocks."""

import paddle
import pytest
import triton
import triton.language as tl

from psa_paddle import bridge
from psa_paddle.kernels.common import block_at


@triton.jit
def _order_kernel(out, n_places, n_first, n_i, group):
    i_place = tl.program_id(0)
    i_i, i_kv, i_g = block_at(i_place, n_places, n_first, n_i, group)
    tl.store(out + i_place, (i_kv * group + i_g) * n_i + i_i)


@pytest.mark.parametrize("n_first", [0, 2, 5])
def test_every_query_block_has_its_place(n_first):
    n_i, n_kv, group = 5, 3, 2
    out = paddle.full([n_i * n_kv * group], -1, "int64")
    bridge.launch(
        _order_kernel, (len(out),), like=out, out=out, n_places=len(out), n_first=n_first, n_i=n_i, group=group
    )
    rows = out.numpy()
    assert sorted(rows) == list(range(len(rows)))
    first = n_first * n_kv * group
    assert (rows[:first] % n_i >= n_i - n_first).all(), "the last query blocks come first"
    heads = (rows[first:] // (n_i * group)).tolist()
    assert heads == sorted(heads), "then one kv head after the other"
