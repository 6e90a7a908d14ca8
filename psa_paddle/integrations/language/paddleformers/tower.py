"""A model's vision tower, with the same outcome to rounding in less time and memory.

PaddleFormers 1.2 calls attention once for each window of Qwen2.5-VL, hundreds of times a layer, and with a mask over
all patches of a clip for Qwen3-VL; PaddleMIX makes such a mask where it has no FlashAttention. Here the windows, or
frames, of one length go through one call: on a GPU Paddle's own attention for short ones and our kernel for long ones,
elsewhere our matrix products, whose memory is linear in the patches. Patches are embedded by a product in place of a
convolution that takes each of its strides once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import paddle
import paddle.nn.functional as F

from .... import eager
from ....attention import dense_attention
from ....config import HEAD_DIMS, AttentionConfig
from ....plan import DenseReason
from ...patches import Patches

SHORT = 1024  # patches up to which Paddle's attention is taken on a GPU
FLASH = "FlashAttention2"  # PaddleMIX's class that takes all segments in one call
WHOLE = AttentionConfig(causal=False)


class Segments:
    """Runs of patches that see themselves alone: windows, frames or pictures.

    groups: (length, how many) of each length; order: int64 [L], patches by the length of their segment, None where that
    is how they come; back: int64 [L], its inverse; cos, sin: [L, D], the angles of patches in this order.
    """

    def __init__(self, ends: np.ndarray, angles: tuple[paddle.Tensor, paddle.Tensor]):
        lengths = np.diff(ends)
        by_length = np.argsort(lengths, kind="stable")
        self.groups = list(zip(*(x.tolist() for x in np.unique(lengths, return_counts=True)), strict=True))
        self.order = self.back = None
        self.cos, self.sin = angles
        if (np.diff(lengths) < 0).any():
            order = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in by_length])
            self.order, self.back = paddle.to_tensor(order), paddle.to_tensor(np.argsort(order))
            self.cos, self.sin = (paddle.gather(x, self.order) for x in angles)

    def parts(self, *tensors) -> Iterator[list]:
        """The patches of each length in turn, [H, L, D] -> [H, segments, length, D]."""
        first = 0
        for length, count in self.groups:
            last = first + length * count
            yield [x[:, first:last].reshape([x.shape[0], count, length, x.shape[2]]) for x in tensors]
            first = last


class FastTower:
    """Stands in the layers of one vision tower, from ``connect`` until the patches are undone."""

    def __init__(self):
        self._segments: list[tuple[paddle.Tensor, Segments]] = []

    def connect(self, tower, patches: Patches) -> None:
        """Give the tower, its patch embedding and its attention layers another ``forward``."""
        patches.attribute(tower, "forward", partial(self._see, tower.forward))
        patches.attribute(tower.patch_embed, "forward", partial(embed, tower.patch_embed.proj))
        for block in tower.blocks:
            if type(block.attn).__name__.endswith(FLASH):
                continue
            patches.attribute(block.attn, "forward", partial(self._attend, block.attn, block.attn.forward))

    def _see(self, forward, *args, **kwargs):
        """What all layers of one call share is made once, and forgotten."""
        try:
            return forward(*args, **kwargs)
        finally:
            self._segments.clear()

    def _attend(self, layer, own, hidden_states, cu_seqlens, **how):
        """An attention layer, [L, C] -> [L, C]; cu_seqlens: where segments begin, and L."""
        if paddle.is_grad_enabled() and not (hidden_states.stop_gradient and layer.qkv.weight.stop_gradient):
            return own(hidden_states, cu_seqlens=cu_seqlens, **how)
        segments = self._segments_of(cu_seqlens, **how)
        x = hidden_states if segments.order is None else paddle.gather(hidden_states, segments.order)
        heads, wide = layer.num_heads, layer.qkv(x)
        half = wide.shape[1] // (6 * heads)
        columns = paddle.split(wide, [half] * 4 * heads + [2 * half] * heads, 1)  # halves of q and k, then v
        halves, v = columns[: 4 * heads], paddle.stack(columns[4 * heads :])
        qk = turn(paddle.stack(halves[::2]), paddle.stack(halves[1::2]), segments.cos, segments.sin)
        found = [attend(*part, (2 * half) ** -0.5) for part in segments.parts(qk[:heads], qk[heads:], v)]
        out = paddle.concat(found, 1) if len(found) > 1 else found[0]
        out = out.transpose([1, 0, 2]).reshape([x.shape[0], -1])
        return layer.proj(out if segments.back is None else paddle.gather(out, segments.back))

    def _segments_of(self, cu_seqlens, rotary_pos_emb=None, position_embeddings=None, **how) -> Segments:
        """rotary_pos_emb: angles [L, D / 2], PaddleMIX's; position_embeddings: cosines and sines of them [L, D]."""
        for known, segments in self._segments:
            if known is cu_seqlens:
                return segments
        if position_embeddings is None:
            angles = paddle.concat([rotary_pos_emb, rotary_pos_emb], -1)
            position_embeddings = angles.cos(), angles.sin()
        self._segments.append((cu_seqlens, Segments(cu_seqlens.numpy(), position_embeddings)))
        return self._segments[-1][1]


def embed(convolution, patches):
    """What a convolution makes of patches that it takes one by one: [n, channels x pixels] -> [n, C]."""
    weight = convolution.weight.flatten(1)
    out = paddle.matmul(patches.reshape([-1, weight.shape[1]]).astype(weight.dtype), weight, transpose_y=True)
    return out if convolution.bias is None else out + convolution.bias


def turn(first, second, cos, sin):
    """The rotary embedding, in float32 as the tower has it: halves of heads [H, L, D / 2] and angles [L, D] to heads
    [H, L, D] in the halves' dtype."""
    (cos_a, cos_b), (sin_a, sin_b) = (paddle.split(table.astype("float32"), 2, -1) for table in (cos, sin))
    a, b = first.astype("float32"), second.astype("float32")
    return paddle.concat([a * cos_a - b * sin_a, b * cos_b + a * sin_b], -1).astype(first.dtype)


def attend(q, k, v, scale: float):
    """Every segment's attention, [H, segments, length, D] -> [H, patches, D]."""
    heads, count, length, dim = q.shape
    if not q.place.is_gpu_place():
        out = eager.dense_attention(q, k, v, False, scale)
    elif (length <= SHORT and q.dtype != paddle.float32) or dim > max(HEAD_DIMS):
        out = by_paddle(q, k, v)
    else:
        out = by_kernel(q, k, v, scale)
    return out.reshape([heads, count * length, dim])


def by_paddle(q, k, v):
    """By Paddle's attention, which scales as the tower does; a segment is a sample."""
    q, k, v = (x.transpose([1, 2, 0, 3]) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=False).transpose([2, 0, 1, 3])


def by_kernel(q, k, v, scale: float):
    """By our kernel, which has some head dimensions alone: zeros beside the others change no product."""
    dim = q.shape[-1]
    wide = next(d for d in HEAD_DIMS if d >= dim) - dim
    q, k, v = (F.pad(x, [0, wide], data_format="NCHW") if wide else x for x in (q, k, v))
    return dense_attention(q, k, v, WHOLE, DenseReason.ASKED_FOR, scale=scale)[0][..., :dim]
