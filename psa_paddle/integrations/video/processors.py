"""Attention processors of video transformers that hand q, k and v to a plug.

A processor does what the model's own does around the attention itself: projections, norms, rotary embedding, output
projection. Its signature is the model library's; what it replaces stays at hand for what the plug cannot express.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from ...plan import DenseReason


def rotate_pairs(x, cos, sin):
    """Rotary embedding on neighbouring channels: x [B, H, L, D]; cos, sin [L, D] -> [B, H, L, D] in x's dtype."""
    even, odd = x.reshape([*x.shape[:-1], -1, 2]).unbind(axis=-1)
    turned = paddle.stack([-odd, even], axis=-1).flatten(start_axis=3)
    cos, sin = cos[None, None], sin[None, None]
    return (x.astype("float32") * cos + turned.astype("float32") * sin).astype(x.dtype)


def rotate_complex(x, frequencies):
    """Rotary embedding as complex numbers in float64: x [B, H, L, D]; frequencies complex [1, 1, L, D / 2]."""
    pairs = x.astype("float64").reshape([*x.shape[:-1], -1, 2])
    return paddle.as_real(paddle.as_complex(pairs) * frequencies).flatten(start_axis=3).astype(x.dtype)


class _Processor:
    """Takes the place of a layer's ``processor``.

    Args:
        plug: says what runs dense, and attends (``VideoPlug``).
        layer_idx: number under which the plug counts the layer's calls.
        original: the model's own processor.
    """

    def __init__(self, plug, layer_idx: int, original) -> None:
        self.plug, self.layer_idx, self.original = plug, layer_idx, original

    def _heads(self, x, attn):
        """[B, L, H * D] -> [B, H, L, D]"""
        return x.reshape([x.shape[0], x.shape[1], attn.heads, -1]).transpose([0, 2, 1, 3])

    def _project_out(self, out, attn):
        """[B, H, L, D] -> [B, L, C]"""
        out = out.transpose([0, 2, 1, 3]).flatten(start_axis=2)
        return attn.to_out[1](attn.to_out[0](out))


class CogVideoXProcessor(_Processor):
    """CogVideoX: text and video in one sequence, text first, rotary embedding on the video part."""

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None, **extra
    ):
        """[B, Lvideo, C] and text [B, Ltext, C] -> ([B, Lvideo, C], [B, Ltext, C])."""
        text = 0 if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        unusual = DenseReason.NO_TEXT if encoder_hidden_states is None else ", ".join(sorted(extra))
        if self.plug.runs_dense(self.layer_idx, attn, hidden_states, text, attention_mask, unusual):
            return self.original(
                attn,
                hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=attention_mask,
                image_rotary_emb=image_rotary_emb,
                **extra,
            )
        tokens = paddle.concat([encoder_hidden_states, hidden_states], axis=1)
        q, k, v = (self._heads(project(tokens), attn) for project in (attn.to_q, attn.to_k, attn.to_v))
        q = q if attn.norm_q is None else attn.norm_q(q)
        k = k if attn.norm_k is None else attn.norm_k(k)
        if image_rotary_emb is not None:
            q, k = (
                paddle.concat([x[:, :, :text], rotate_pairs(x[:, :, text:], *image_rotary_emb)], axis=2) for x in (q, k)
            )
        out = self._project_out(self.plug.attend(self.layer_idx, q, k, v, text, plain_attention), attn)
        return out[:, text:], out[:, :text]


class WanProcessor(_Processor):
    """Wan's self-attention: video tokens alone, norms over all heads, complex rotary embedding."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None, **extra):
        """[B, L, C] -> [B, L, C]"""
        unusual = DenseReason.CROSS if encoder_hidden_states is not None else ", ".join(sorted(extra))
        if self.plug.runs_dense(self.layer_idx, attn, hidden_states, 0, attention_mask, unusual):
            return self.original(
                attn,
                hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=attention_mask,
                rotary_emb=rotary_emb,
                **extra,
            )
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        q = q if attn.norm_q is None else attn.norm_q(q)
        k = k if attn.norm_k is None else attn.norm_k(k)
        q, k, v = (self._heads(x, attn) for x in (q, k, v))
        if rotary_emb is not None:
            q, k = rotate_complex(q, rotary_emb), rotate_complex(k, rotary_emb)
        out = self.plug.attend(self.layer_idx, q, k, v, 0, F.scaled_dot_product_attention)
        return self._project_out(out.astype(q.dtype), attn)


def plain_attention(q, k, v):
    """[B, L, H, D] three times -> [B, L, H, D], by the function that CogVideoX calls: ppdiffusers' own, where it is."""
    return getattr(F, "scaled_dot_product_attention_", F.scaled_dot_product_attention)(q, k, v)
