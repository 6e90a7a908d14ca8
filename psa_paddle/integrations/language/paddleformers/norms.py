"""RMS norms of PaddleFormers' models where no fused kernel takes them: on a CPU Paddle's power is a hundred times as
slow as a product."""

from __future__ import annotations

from functools import partial

import paddle

from ...patches import Patches


def connect_norms(model, patches: Patches) -> None:
    """Give each norm that is not fused another ``forward``, which gives the same to rounding."""
    from paddleformers.nn.norm import RMSNorm

    for layer in model.sublayers():
        if type(layer) is RMSNorm and not layer.config.get("fuse_rms_norm", True):
            patches.attribute(layer, "forward", partial(normed, layer))


def normed(layer, hidden_states):
    """x [..., C] over its root mean square, in the weight's dtype."""
    with paddle.amp.auto_cast(False):
        x = hidden_states.astype("float32")
        x = paddle.rsqrt((x * x).mean(-1, keepdim=True) + layer.variance_epsilon) * hidden_states
    return x.astype(layer.weight.dtype) * layer.weight
