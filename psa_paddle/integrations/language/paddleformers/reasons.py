"""What of a forward, and of a call of one layer, PSA and TriangleMix cannot express."""

from __future__ import annotations

from collections.abc import Iterable

import paddle

from ....plan import DenseReason


def wants_gradients(embeds, past, parameters: Iterable) -> bool:
    """Whether anything wants gradients: a sparse layer below would change those of the layers above.

    embeds: rows of the first layer, or None; past: a KV cache in any of the libraries' forms, or None.
    """
    if not paddle.is_grad_enabled():
        return False
    cached = past if isinstance(past, (tuple, list)) else [(x.keys, x.values) for x in getattr(past, "layers", ())]
    tensors = [embeds, *(x for entry in cached if entry is not None for x in entry), *parameters]
    return any(x is not None and not x.stop_gradient for x in tensors)


def why_call_dense(qkv, masked: bool, row_indices, sink: bool, dropout, is_causal) -> str:
    """Why a prefill call runs dense, by what it is handed; empty where nothing of it says so.

    qkv: q [B, H, Lq, D], k and v [B, Hkv, Lk, D]; masked: by more than left padding.
    """
    if masked:
        return DenseReason.MASK
    if row_indices is not None:
        return DenseReason.ROW_INDICES
    if is_causal is False:
        return DenseReason.NOT_CAUSAL
    if sink:
        return DenseReason.SINK
    if dropout:
        return DenseReason.DROPOUT
    if qkv[2].shape[3] != qkv[0].shape[3]:
        return DenseReason.VALUE_DIM
    if paddle.is_grad_enabled() and not all(x.stop_gradient for x in qkv):
        return DenseReason.GRADIENTS
    return ""
