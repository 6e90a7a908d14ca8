"""Plug Pyramid Sparse Attention, TriangleMix or both into PaddleFormers' Qwen2.5-VL, and take them out again.

The plug goes through PaddleFormers' own attention registry: nothing is subclassed, no sublayer is added, no weight is
copied. Prefill (more than one query row) is sparse; decode, and whatever the operator cannot express, runs through the
attention that the model had, and the statistics say why.
"""

from __future__ import annotations

import numpy as np
import paddle

from ..attention import pyramid_attention
from ..config import DEFAULT_TEXT_LENGTH, HEAD_DIMS, AttentionConfig
from ..stats import CallStats, merge_calls
from .choice import AttentionChoice, dense_prefill, triangle_prefill
from .generation import mend_generation
from .patches import Patches

NAME = "psa"
PLUG = "_psa_plug"  # attribute of a plugged model and of its attention layers; gone after the restore
DECODE = "decode"


def _registry():
    """PaddleFormers' attention registry; imported late, as the plug for PaddleMIX shares this module without it."""
    from paddleformers.nn.attention import interface

    return interface


class Plug:
    """One model with sparse attention plugged in, and what its layers did since ``reset``.

    choice: which attention each layer prefills with; config: PSA's part of it; calls: (layer number, ``CallStats``) of
    every prefill call; decode_calls: calls with one query row, all layers.
    """

    def __init__(self, model, choice: AttentionChoice):
        self.choice = choice
        self.config = config = choice.psa
        self.calls: list[tuple[int, CallStats]] = []
        self.decode_calls = 0
        self._text_lengths = [config.forced_text]
        self._kv_start: list[int] | None = None
        self._text = self._text_model(model)
        self._layers = [layer.self_attn for layer in self._text.layers]
        self.triangle_layers = [i for i in range(len(self._layers)) if choice.of_layer(i) == "trianglemix"]
        tokens = (model.config.image_token_id, model.config.video_token_id)
        self._vision_tokens = np.array([t for t in tokens if t is not None])
        self._patches = Patches()
        for owner in (model, *self._layers):
            self._patches.attribute(owner, PLUG, self)
        self._connect(model)
        mend_generation(model, self._patches)

    @staticmethod
    def _text_model(model):
        return model.model.language_model

    def _connect(self, model) -> None:
        """Lead the library's attention here."""
        configs = {id(c): c for c in [self._text.config, *(layer.config for layer in self._layers)]}
        self._dense_name = self._text.config._attn_implementation
        for c in configs.values():
            self._patches.attribute(c, "_attn_implementation", NAME)
        self._patches.pre_hook(model.model, self._before_model)
        self._patches.pre_hook(self._text, self._before_text)

    def remove(self) -> None:
        self._patches.undo()

    def reset(self) -> None:
        self.calls.clear()
        self.decode_calls = 0

    def _before_model(self, layer, args, kwargs):
        """Find each sample's question: the tokens after its last vision token stay at full resolution."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        self._text_lengths = [self.config.forced_text]
        if self.config.text_length is None and ids is not None and ids.shape[1] > 1:
            vision = np.isin(ids.numpy(), self._vision_tokens)
            self._text_lengths = [
                int(np.flatnonzero(row[::-1])[0]) if row.any() else DEFAULT_TEXT_LENGTH for row in vision
            ]

    def _before_text(self, layer, args, kwargs):
        """Turn a left-padding mask into the first token of each sample, so that no L x L mask is ever made."""
        self._kv_start = None
        mask, embeds = kwargs.get("attention_mask"), kwargs.get("inputs_embeds")
        if mask is None or mask.ndim != 2 or embeds is None or embeds.shape[1] == 1:
            return None
        if paddle.is_grad_enabled() or self._cannot(self._layers[0]):  # the layers may run dense and need the mask
            return None
        past = kwargs.get("past_key_values")
        keys = embeds.shape[1] + (past.get_seq_length() if past is not None else 0)
        host = mask.numpy().astype(bool)
        if host.shape[1] != keys or host.all() or not host[:, -1].all() or (np.diff(host.astype(np.int8)) < 0).any():
            return None
        self._kv_start = host.argmax(1).tolist()
        kwargs["attention_mask"] = None
        return args, kwargs

    def _cannot(self, layer) -> str:
        """Why this layer cannot run sparse at all; empty when it can."""
        if layer.training and layer.attention_dropout:
            return "attention dropout"
        if layer.head_dim not in HEAD_DIMS:
            return f"head dimension {layer.head_dim}"
        if layer.sliding_window is not None:
            return "sliding window"
        return ""

    def _reason_for_dense(self, layer, query, attention_mask, row_indices, is_causal, kwargs) -> str:
        if query.shape[2] == 1:
            return DECODE
        if attention_mask is not None:
            return "attention mask"
        if row_indices is not None:
            return "attn_mask_startend_row_indices"
        if is_causal is False:
            return "not causal"
        if kwargs.get("sink") is not None:
            return "attention sink"
        if paddle.is_grad_enabled() and not query.stop_gradient:
            return "gradients"
        return self._cannot(layer)

    def attend(
        self, layer, query, key, value, attention_mask, row_indices, dropout, scaling, is_causal, **kwargs
    ) -> tuple:
        """[B, H, Lq, D] and [B, Hkv, Lk, D] -> ([B, Lq, H * D], None)."""
        b, h, lq, d = query.shape
        reason = self._reason_for_dense(layer, query, attention_mask, row_indices, is_causal, kwargs)
        if reason:
            call = CallStats(self._dense_name, "dense", reason, ((lq, key.shape[2]),) * b)
            result = _registry().ALL_ATTENTION_FUNCTIONS[self._dense_name](
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
        else:
            out, call = self._prefill(layer.layer_idx, query, key, value, scaling)
            result = out.reshape([b, lq, h * d]), None
        if reason == DECODE:
            self.decode_calls += 1
        else:
            self.calls.append((layer.layer_idx, call))
        return result

    def _prefill(self, layer_idx: int, query, key, value, scaling):
        """``([B, Lq, H, D], CallStats)`` of the layer's own kind."""
        kind, backend, starts = self.choice.of_layer(layer_idx), self.config.backend, self._kv_start
        if kind == "trianglemix":
            return triangle_prefill(query, key, value, self.choice.triangle, backend, scaling, starts)
        if kind == "dense":
            return dense_prefill(query, key, value, backend, scaling, starts)
        return self._sparse(query, key, value, scaling, self.choice.config_of(layer_idx))

    def _sparse(self, query, key, value, scaling, config: AttentionConfig):
        """``([B, Lq, H, D], CallStats)`` of PSA; sample by sample where the questions differ in length."""
        batch, lengths, starts = query.shape[0], self._text_lengths, self._kv_start
        if len(set(lengths)) == 1:
            config = config.replace(text_length=lengths[0])
            return pyramid_attention(
                query, key, value, config, scale=scaling, kv_start=starts, heads_last=True, return_stats=True
            )
        parts = [
            pyramid_attention(
                *(x[i : i + 1] for x in (query, key, value)),
                config.replace(text_length=lengths[i]),
                scale=scaling,
                kv_start=None if starts is None else starts[i : i + 1],
                heads_last=True,
                return_stats=True,
            )
            for i in range(batch)
        ]
        return paddle.concat([out for out, _ in parts]), merge_calls([call for _, call in parts])


def _psa_attention_forward(
    module,
    query,
    key,
    value,
    attention_mask=None,
    attn_mask_startend_row_indices=None,
    dropout=0.0,
    scaling=None,
    is_causal=None,
    **kwargs,
):
    """The registry's entry: hands the call to the plug of the layer's model."""
    return getattr(module, PLUG).attend(
        module, query, key, value, attention_mask, attn_mask_startend_row_indices, dropout, scaling, is_causal, **kwargs
    )


def replace_attention(model, choice: AttentionChoice):
    """Make a PaddleFormers Qwen2.5-VL model prefill as ``choice`` says, until ``restore_attention``; returns it.

    Raises:
        TypeError: not such a model. ValueError: triangle layers that the model does not have.
    """
    text = check_model(model)
    choice.check_layers(len(text.layers), text.config.num_attention_heads)
    restore_attention(model)
    _registry().AttentionInterface.register(NAME, _psa_attention_forward)
    Plug(model, choice)
    return model


def check_model(model):
    """The text model of PaddleFormers' Qwen2.5-VL; TypeError for another model."""
    text = getattr(getattr(model, "model", None), "language_model", None)
    if text is None:
        raise TypeError(f"expected PaddleFormers' Qwen2_5_VLForConditionalGeneration, got {type(model).__name__}.")
    return text


def restore_attention(model):
    """Undo ``replace_attention``; does nothing on a model that is not plugged in. Returns the model."""
    plug = plug_of(model)
    if plug is not None:
        plug.remove()
    return model


def plug_of(model) -> Plug | None:
    """The model's plug, with ``calls`` and ``reset``; None when it has none."""
    return getattr(model, PLUG, None)
