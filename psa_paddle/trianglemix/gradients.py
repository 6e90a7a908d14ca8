"""How much an output depends on a layer's Middle Q-K region: Grad(M, l) of TriangleMix (arXiv:2507.21526v2, figure 1).

The gradient of a scalar z by the attention weights A of a layer is dz/dA_ij = dz/dO_i . v_j, with O the layer's
attention output: no L x L tensor has to be kept from the forward pass, whatever computed it.
"""

from __future__ import annotations

import paddle

from .config import TriangleMixConfig

ROWS = 256  # query rows of a block


def middle_rows(config: TriangleMixConfig, length: int) -> range:
    """Query rows of a prompt of ``length`` tokens from which the triangle pattern hides some key."""
    first = config.num_sink_tokens + config.sliding_window_size + 2
    return range(first, min(length, length - config.num_last_tokens + 1))


def middle_gradient(grad, value, config: TriangleMixConfig):
    """Mean of |dz/dA_ij| over the Middle Q-K region and the heads, float32 [].

    Args:
        grad: dz/dO, [H, L, D], any floating-point dtype.
        value: [Hkv, L, D]; query head h reads kv head h // (H / Hkv).
        config: bounds of the region: ``j > num_sink_tokens``, ``i - j > sliding_window_size`` and
            ``L - i >= num_last_tokens``.

    Raises:
        ValueError: a prompt so short that the region is empty.
    """
    (heads, length, dim), kv_heads = grad.shape, value.shape[0]
    low, window, rows = config.num_sink_tokens + 1, config.sliding_window_size, middle_rows(config, length)
    if not rows:
        needed = rows.start + max(1, config.num_last_tokens)
        raise ValueError(
            f"{length} tokens have no Middle Q-K region; with this pattern a prompt needs {needed} tokens."
        )
    grad = grad.astype("float32").reshape([kv_heads, heads // kv_heads, length, dim])
    value = value.astype("float32")
    total = paddle.zeros([])
    for start in range(rows.start, rows.stop, ROWS):
        stop = min(start + ROWS, rows.stop)
        high = stop - 1 - window  # the last row of the block hides keys [low, high)
        weights = paddle.matmul(grad[:, :, start:stop].flatten(1, 2), value[:, low:high], transpose_y=True)
        hidden = paddle.arange(low, high) < (paddle.arange(start, stop) - window).unsqueeze(1)
        weights = weights.abs().reshape([-1, stop - start, high - low]).sum(0)
        total = total + (weights * hidden.astype("float32")).sum()
    pairs = sum(i - window - low for i in rows)
    return total / float(pairs * heads)
