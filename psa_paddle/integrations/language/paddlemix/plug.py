"""Plug Pyramid Sparse Attention, TriangleMix or both into a language model of PaddleMIX, and take it out again.

PaddleMIX has a class for each kind of attention (eager, SDPA, flash) and no registry, so the plug gives each attention
layer another ``forward``: same weights, same KV cache tuples. Nothing of PaddleMIX is imported. What the operator
cannot express runs through the ``forward`` that the layer had.
"""

from __future__ import annotations

from functools import partial

import paddle

from ....attention import dense_attention
from ....config import HEAD_DIMS
from ....plan import DenseReason
from ....stats import CallStats
from .. import families
from ..choice import AttentionChoice
from ..paddleformers.dense import first_tokens
from ..paddleformers.plug import Plug
from ..paddleformers.reasons import wants_gradients


def rotate_multimodal(x, cos, sin, sections):
    """M-RoPE (arXiv:2409.12191, section 2.1): x [B, H, L, D]; cos, sin [3, B, L, D], angles of time, height and width;
    sections: channels of half a head that take each of them."""
    cos, sin = (
        paddle.concat(
            [part[i % 3] for i, part in enumerate(table.split([*sections, *sections], axis=-1))], axis=-1
        ).unsqueeze(1)
        for table in (cos, sin)
    )
    half = x.shape[-1] // 2
    return x * cos + paddle.concat([-x[..., half:], x[..., :half]], axis=-1) * sin


class MixPlug(Plug):
    """As ``Plug``, for PaddleMIX: each attention layer's ``forward`` leads here."""

    def _connect(self) -> None:
        self._patches.pre_hook(self._model, self._before_model)
        self._patches.pre_hook(self._text, self._before_text)
        make_mask = self._text._prepare_decoder_attention_mask
        self._patches.attribute(self._text, "_prepare_decoder_attention_mask", partial(self._mask, make_mask))
        for layer in self._layers:
            self._patches.attribute(layer, "forward", partial(self._forward, layer, layer.forward))

    def _disconnect(self) -> None:
        """Everything was a patch."""

    def _before_text(self, layer, args, kwargs) -> None:
        """Read a left-padding mask as the first token of each sample; kept for the decoding that follows."""
        mask, embeds, past = (kwargs.get(name) for name in ("attention_mask", "inputs_embeds", "past_key_values"))
        length = kwargs["input_ids"].shape[1] if embeds is None else embeds.shape[1]
        if length == 1:
            return
        self._kv_start, self._why_dense = None, ""
        if wants_gradients(embeds, past, self._model.parameters()):
            self._why_dense = DenseReason.GRADIENTS
        elif kwargs.get("output_attentions"):
            self._why_dense = DenseReason.WEIGHTS
        elif mask is not None:
            keys = length + (0 if not past or past[0] is None else past[0][0].shape[2])
            starts = first_tokens(mask, keys)
            if starts is None:
                self._why_dense = DenseReason.MASK
            elif any(starts):
                self._kv_start = starts

    def _mask(self, make, mask, shape, *arguments, **keywords):
        """No L x L mask for a prefill in which no layer reads one."""
        sparse = shape[1] > 1 and not self._why_dense and not any(self._cannot(layer) for layer in self._layers)
        return None if sparse else make(mask, shape, *arguments, **keywords)

    def _cannot(self, layer) -> str:
        if layer.training and layer.attention_dropout:
            return DenseReason.DROPOUT
        return "" if layer.head_dim in HEAD_DIMS else DenseReason.HEAD_DIM.text(layer.head_dim)

    def _forward(
        self, layer, dense, hidden_states, attention_mask=None, position_ids=None, past_key_value=None, **rest
    ):
        """What the layer's ``forward`` takes and returns: ([B, L, C], None, (k, v) with k, v [B, Hkv, Lk, D])."""
        batch, length, _ = hidden_states.shape
        decoding = length == 1
        if decoding:
            self.decode_calls += 1
        reason = "" if decoding and self._kv_start is not None else DenseReason.DECODE if decoding else self._why_dense
        reason = reason or self._cannot(layer)
        if reason:
            if not decoding:
                past = 0 if past_key_value is None else past_key_value[0].shape[2]
                call = CallStats(
                    self._text.config._attn_implementation, "dense", reason, ((length, length + past),) * batch
                )
                self.calls.append((layer.layer_idx, call))
            keywords = {"attention_mask": attention_mask, "position_ids": position_ids}
            return dense(hidden_states, **keywords, past_key_value=past_key_value, **rest)
        q, k, v = self._qkv(layer, hidden_states, position_ids, rest.get("position_embeddings"))
        if past_key_value is not None:
            k, v = (paddle.concat([old, new], axis=2) for old, new in zip(past_key_value, (k, v), strict=True))
        out, call = self._attend_padded(q, k, v) if decoding else self._prefill(layer.layer_idx, q, k, v, None)
        if not decoding:
            self._show(layer.layer_idx, q, k, None, call)
            self.calls.append((layer.layer_idx, call))
        return layer.o_proj(out.reshape([batch, length, -1])), None, (k, v) if rest.get("use_cache") else None

    @staticmethod
    def _qkv(layer, hidden_states, position_ids, position_embeddings):
        """q [B, H, L, D], k and v [B, Hkv, L, D], rotated, in the weights' dtype."""
        kept, x = layer.q_proj.weight.dtype, hidden_states
        x = x if x.dtype == kept else x.astype(kept)  # an FP32 norm may precede 16-bit weights
        shape = [*x.shape[:2], -1, layer.head_dim]
        projections = (layer.q_proj, layer.k_proj, layer.v_proj)
        q, k, v = (project(x).reshape(shape).transpose([0, 2, 1, 3]) for project in projections)
        cos, sin = position_embeddings or layer.rotary_emb(v, position_ids)
        sections = layer.rope_scaling["mrope_section"]
        return (
            rotate_multimodal(q, cos, sin, sections).astype(v.dtype),
            rotate_multimodal(k, cos, sin, sections).astype(v.dtype),
            v,
        )

    def _attend_padded(self, q, k, v):
        """Decoding of a left-padded batch, dense: PaddleMIX's SDPA and flash classes would attend to the padding."""
        starts = self._kv_start
        return dense_attention(q, k, v, self.config, DenseReason.DECODE, kv_start=starts, heads_last=True)


def make_plug(model, choice: AttentionChoice) -> MixPlug:
    """A plug for a PaddleMIX model, not in force yet.

    Raises:
        TypeError: a model of no family. ValueError: triangle layers that the model does not have.
    """
    match = families.check(model, "paddlemix")
    layers = match.layout.text_of(model).layers
    choice.check_layers(len(layers), layers[0].self_attn.num_heads)
    return MixPlug(model, choice, match)
