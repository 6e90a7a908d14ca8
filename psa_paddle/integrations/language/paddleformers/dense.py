"""Dense attention by the function that a PaddleFormers model has, handed what that function does not see to itself."""

from __future__ import annotations

import numpy as np
import paddle

ALIGNED_WITHOUT_A_CACHE = ("sdpa", "flashmask")  # sdpa's own causal mask is aligned top-left
IGNORE_SCALING = ("sdpa", "flashmask")


def registry():
    """PaddleFormers' attention registry; imported late, as PaddleMIX comes without it."""
    from paddleformers.nn.attention import interface

    return interface


def causal_mask(batch: int, lq: int, lk: int, dtype, starts: list[int] | None = None):
    """What is added to the logits, [B, 1, Lq, Lk]: query i sees keys <= i + Lk - Lq, of a left-padded batch from
    ``starts`` [B] on; padding, whose output nobody reads, sees all of these."""
    seen = paddle.arange(lk) <= paddle.arange(lk - lq, lk).unsqueeze(1)
    if starts is not None:
        first = paddle.to_tensor(starts).reshape([-1, 1, 1, 1])
        padding = paddle.arange(lk - lq, lk).unsqueeze(1) < first
        seen = (seen & (paddle.arange(lk) >= first)) | (padding & seen)
    mask = paddle.where(seen, 0.0, paddle.finfo(dtype).min).astype(dtype)
    return mask.expand([batch, 1, lq, lk])


def first_tokens(mask, keys: int) -> list[int] | None:
    """First real token of each sample, of a mask [B, keys] that masks left padding alone; None for any other mask."""
    if mask.ndim != 2 or mask.shape[1] != keys:
        return None
    host = mask.numpy().astype(bool)
    if not host[:, -1].all() or (np.diff(host.astype(np.int8)) < 0).any():
        return None
    return host.argmax(1).tolist()


def grouped_attention(query, key, value, mask, scale: float):
    """[B, 1, H * D] of one query row a head, float32 [B, H, 1, D], over the keys and values [B, Hkv, Lk, D] that heads
    share: these are read once, where Paddle's own attention copies them for every head. mask, or None, is added to the
    logits, [B, 1, 1, Lk]."""
    b, h, _, d = query.shape
    heads = query.reshape([b, key.shape[1], -1, d]) * scale
    logits = paddle.matmul(heads, key, transpose_y=True)
    weights = paddle.nn.functional.softmax(logits if mask is None else logits + mask, axis=-1)
    return paddle.matmul(weights, value).reshape([b, 1, h * value.shape[3]])


def own_attention(
    own: str, layer, query, key, value, attention_mask, row_indices, dropout, scaling, is_causal, **kwargs
) -> tuple:
    """[B, H, Lq, D] and [B, Hkv, Lk, D] -> ([B, Lq, H * D], weights or None), as an unplugged model has it.

    own: the model's attention in PaddleFormers' registry. The model was told another name, for which it makes a mask
    only where there is padding; attention_mask, [B, 1, Lq, >= Lk], is added to the logits. ``eager`` is causal
    whatever ``is_causal`` says.
    """
    from paddleformers.nn.attention.interface import ALL_ATTENTION_FUNCTIONS

    b, _, lq, d = query.shape
    lk = key.shape[2]
    if attention_mask is not None:
        attention_mask = attention_mask[..., -lk:]  # a sliding cache has let go of the first keys
    elif row_indices is None and lq > 1:
        cached = lq < lk and is_causal is not False
        if own == "eager" or (cached and own in ALIGNED_WITHOUT_A_CACHE):
            attention_mask = causal_mask(b, lq, lk, query.dtype)
    if own == "flashmask" and attention_mask is not None:
        own = "sdpa"  # flashmask reads row indices alone
    plain = row_indices is None and not dropout and kwargs.get("sink") is None
    if own == "sdpa" and lq == 1 and plain and query.place.is_cpu_place() and query.dtype == paddle.float32:
        return grouped_attention(query, key, value, attention_mask, d**-0.5 if scaling is None else scaling), None
    if own in IGNORE_SCALING and kwargs.get("sink") is None and scaling is not None and scaling != d**-0.5:
        query = query * (scaling * d**0.5)
    return ALL_ATTENTION_FUNCTIONS[own](
        layer,
        query,
        key,
        value,
        attention_mask=attention_mask,
        attn_mask_startend_row_indices=row_indices,
        dropout=dropout,
        scaling=scaling,
        is_causal=is_causal,
        **kwargs,
    )
