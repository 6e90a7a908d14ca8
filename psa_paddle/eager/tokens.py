"""Token orders in Paddle ops: the same functions as the kernels', on any Paddle device."""

from __future__ import annotations

import numpy as np
import paddle

SCORES_AT_ONCE = 1 << 24


def token_index(order: np.ndarray, like) -> paddle.Tensor:
    """An order of tokens, int32 [L], on ``like``'s device."""
    return paddle.to_tensor(order.astype(np.int32), place=like.place)


def permute_tokens(x, order):
    """Token ``order[i]`` of x at place i; any dtype.

    Args:
        x: [B, H, L, D].
        order: int32 or int64, [n] for all heads or [B, H, n].

    Returns:
        [B, H, n, D].
    """
    if x.dtype == paddle.float16 and x.place.is_cpu_place():  # Paddle's CPU gather lacks it; any 16 bits will do
        return permute_tokens(x.contiguous().view("bfloat16"), order).view("float16")
    if order.ndim == 1:
        return paddle.gather(x, order, axis=2)
    b, h, length, d = x.shape
    first = (paddle.arange(b * h, dtype="int64") * length).reshape([b, h, 1])
    # Rows of one flat matrix: an index for each token, not for each number.
    return paddle.gather(x.reshape([-1, d]), (order + first).flatten(), axis=0).reshape([b, h, -1, d])


def restore_tokens(y, order, *, heads_last: bool = False):
    """Undo ``permute_tokens``, bitwise: [B, H, L, D], or [B, L, H, D] with ``heads_last``."""
    out = permute_tokens(y, paddle.argsort(order, axis=-1))
    return out.transpose([0, 2, 1, 3]) if heads_last else out


def nearest(x, centres):
    """Index of the nearest centre, int64 [N, L]; x [N, L, D] and centres [N, C, D], float32."""
    half_norm = 0.5 * (centres * centres).sum(-1).unsqueeze(1)
    step = max(1, SCORES_AT_ONCE // (x.shape[0] * centres.shape[1]))
    spans = [x[:, i : i + step] for i in range(0, x.shape[1], step)]
    return paddle.concat([(paddle.bmm(s, centres.transpose([0, 2, 1])) - half_norm).argmax(-1) for s in spans], axis=1)


def means(x, labels, centres):
    """Mean of each cluster, [N, C, D]; a cluster without tokens keeps its centre."""
    n, c, d = centres.shape
    rows = (labels + paddle.arange(n, dtype="int64").unsqueeze(-1) * c).reshape([-1, 1])
    sums = paddle.scatter_nd_add(paddle.zeros([n * c, d]), rows, x.reshape([-1, d]))
    counts = paddle.scatter_nd_add(paddle.zeros([n * c]), rows, paddle.ones([rows.shape[0]])).unsqueeze(-1)
    return paddle.where(counts > 0, sums / counts.clip(min=1.0), centres.reshape([-1, d])).reshape([n, c, d])


def cluster_tokens(x, base, *, first: int, n: int, n_clusters: int, iterations: int, state=None):
    """Tokens cluster after cluster, in the order of ``base`` within each; as ``kernels.cluster_tokens``.

    Returns:
        ``(order, state)``: int64 [B, H, L], and the centres, float32 [B H, C, D].
    """
    b, h, _, d = x.shape
    vision = base[first : first + n]
    flat = permute_tokens(x.detach(), vision).astype("float32").reshape([b * h, n, d])
    centres = state
    if centres is None:
        places = (2 * paddle.arange(n_clusters, dtype="int64") + 1) * n // (2 * n_clusters)
        centres = paddle.gather(flat, places, axis=1)
    for _ in range(iterations):
        centres = means(flat, nearest(flat, centres), centres)
    order = paddle.argsort(nearest(flat, centres), axis=-1, stable=True)
    order = paddle.gather(vision.astype("int64"), order.flatten()).reshape([b, h, n])
    ends = [part.astype("int64").expand([b, h, part.shape[0]]) for part in (base[:first], base[first + n :])]
    return paddle.concat([ends[0], order, ends[1]], axis=2), centres
