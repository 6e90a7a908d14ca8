"""Plug Pyramid Sparse Attention, TriangleMix or both into a language model of PaddleFormers, and take them out again.

The plug goes through PaddleFormers' own attention registry: nothing is subclassed, no sublayer is added, no weight is
copied. Prefill (more than one query row) is sparse; decode, and whatever the operator cannot express, runs through the
attention that the model had, and the statistics say why.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import paddle

from ....attention import pyramid_attention
from ....config import DEFAULT_TEXT_LENGTH, HEAD_DIMS, AttentionConfig
from ....plan import DenseReason
from ....stats import CallStats, merge_calls
from ...patches import Patches
from .. import families, plugs
from ..choice import AttentionChoice, dense_prefill, triangle_prefill
from ..families import Match
from ..generation import mend_generation, unmend_generation
from ..plugs import bare_model, plug_of
from ..team import team_of
from .dense import causal_mask, first_tokens, own_attention, registry
from .names import places_of
from .reasons import wants_gradients, why_call_dense

NAME = "psa+"  # before the name of the model's own attention, in the registry and in a plugged model's configuration
PLUG = "_psa_plug"  # attribute of a plugged model's attention layers; gone after the restore
READ_OF_LAYERS = ("config", "head_dim")


def own_name(config) -> str:
    """The model's own attention in PaddleFormers' registry, plugged in or not."""
    return config._attn_implementation.removeprefix(NAME)


class Plug:
    """One model's sparse attention, and what its layers did since ``reset``.

    choice: which attention each layer prefills with; config: PSA's part of it; calls: (layer number, ``CallStats``) of
    every prefill call; decode_calls: calls with one query row, all layers; layers: how many the model has; recorder:
    sees the queries and keys of every prefill call, see ``report.Recorder``, None for nobody.
    """

    def __init__(self, model, choice: AttentionChoice, match: Match):
        self.choice = choice
        self.config = choice.config
        self.calls: list[tuple[int, CallStats]] = []
        self.decode_calls = 0
        self.recorder: Any = None
        self._text_lengths = [self.config.forced_text]
        self._after = 0  # rows of the prompt that come after those of this forward
        self._kv_start: list[int] | None = None  # of a forward whose mask is left padding
        self._why_dense = ""  # why a whole forward runs dense
        self._model, self._text = model, match.layout.text_of(model)
        self._layers = [layer.self_attn for layer in self._text.layers]
        self.layers = len(self._layers)
        self._team = team_of(self._text.config)
        self.triangle_layers = [i for i in range(len(self._layers)) if choice.of_layer(i) == "trianglemix"]
        self._vision_tokens = np.array(match.family.vision_ids(model.config), np.int64)
        self._patches = Patches()

    def connect(self) -> None:
        """Lead the model's attention here."""
        for layer in self._layers:
            self._patches.attribute(layer, PLUG, self)
        self._connect()
        mend_generation(self._model)

    def disconnect(self) -> None:
        """Give the model its own attention back."""
        unmend_generation(self._model)
        self._patches.undo()
        self._disconnect()

    def _connect(self) -> None:
        self._patches.pre_hook(self._model.model, self._before_model)
        self._patches.pre_hook(self._text, self._before_text)
        self._rename()

    def _disconnect(self) -> None:
        for place in places_of(self._layers, self._text.config):
            place.set(place.get().removeprefix(NAME))

    def _rename(self) -> None:
        """Name the plug in the configurations, which another model may share and may have renamed meanwhile."""
        for place in places_of(self._layers, self._text.config):
            own = place.get().removeprefix(NAME)
            registry().AttentionInterface.register(NAME + own, partial(_attention, own))
            place.set(NAME + own)

    def reset(self) -> None:
        """Forget the statistics: the next call is the first of a new request."""
        self.calls.clear()
        self.decode_calls = 0

    def expect(self, questions: list[int], after: int) -> None:
        """Say what forwards of the text model alone bring: how many last tokens of each whole prompt are its question,
        which stays at full resolution, and how many rows of the prompt come after this forward's."""
        given = self.config.text_length
        lengths = questions if given is None else [given] * len(questions)
        self._text_lengths, self._after = [max(0, length - after) for length in lengths], after

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
        """Settle what all layers of a forward share; turn a left-padding mask into the first token of each sample, so
        that no L x L mask is made unless a layer needs it."""
        self._rename()
        mask, embeds, past = (kwargs.get(name) for name in ("attention_mask", "inputs_embeds", "past_key_values"))
        tokens = kwargs.get("input_ids", args[0] if args else None) if embeds is None else embeds
        self._kv_start, self._why_dense = None, self._why_whole_dense(embeds, past, kwargs.get("output_attentions"))
        if self._why_dense or mask is None or tokens.shape[1] == 1:
            return None
        keys = tokens.shape[1] + (past.get_seq_length() if past is not None else 0)
        starts = first_tokens(mask, keys)
        if not starts or not any(starts):
            return None
        self._kv_start = starts
        if any(self._cannot(layer) for layer in self._layers):
            return None
        kwargs["attention_mask"] = None
        return args, kwargs

    def _why_whole_dense(self, embeds, past, output_attentions) -> str:
        """Why no layer of a forward may run sparse; empty when some may."""
        if wants_gradients(embeds, past, self._model.parameters()):
            return DenseReason.GRADIENTS
        asked = self._text.config.output_attentions if output_attentions is None else output_attentions
        return DenseReason.WEIGHTS if asked and own_name(self._text.config) == "eager" else ""

    def _cannot(self, layer) -> str:
        """Why this layer cannot run sparse at all; empty when it can."""
        if layer.training and getattr(layer, "attention_dropout", 0.0):
            return DenseReason.DROPOUT
        if layer.head_dim not in HEAD_DIMS:
            return DenseReason.HEAD_DIM.text(layer.head_dim)
        if self._has_window(layer):
            return DenseReason.SLIDING_WINDOW
        return ""

    def _has_window(self, layer) -> bool:
        """Whether a layer has a sliding window, which Phi-3's tell by the decoder layer around them alone."""
        around = self._text.layers[self._number_of(layer)]
        kind = getattr(around, "attention_type", None)
        return kind == "sliding_attention" or getattr(layer, "sliding_window", None) is not None

    def _reason_for_dense(self, layer, qkv, attention_mask, row_indices, dropout, is_causal, kwargs) -> str:
        if qkv[0].shape[2] == 1:
            return DenseReason.DECODE
        masked = attention_mask is not None and self._kv_start is None
        sink = kwargs.get("sink") is not None
        return (
            self._why_dense or why_call_dense(qkv, masked, row_indices, sink, dropout, is_causal) or self._cannot(layer)
        )

    def attend(
        self, own, layer, query, key, value, attention_mask, row_indices, dropout, scaling, is_causal, **kwargs
    ) -> tuple:
        """[B, H, Lq, D] and [B, Hkv, Lk, D] -> ([B, Lq, H * D], None); own: the model's own attention, for the rest."""
        b, h, lq, d = query.shape
        masks, number = (attention_mask, row_indices), self._number_of(layer)
        reason = self._reason_for_dense(layer, (query, key, value), *masks, dropout, is_causal, kwargs)
        if reason:
            if attention_mask is None and self._kv_start is not None and lq > 1:  # taken away for the other layers
                attention_mask = causal_mask(b, lq, key.shape[2], query.dtype, self._kv_start)
            call = CallStats(own, "dense", reason, ((lq, key.shape[2]),) * b)
            masks = attention_mask, row_indices
            result = own_attention(own, layer, query, key, value, *masks, dropout, scaling, is_causal, **kwargs)
        else:
            out, call = self._prefill(number, query, key, value, scaling)
            self._show(number, query, key, scaling, call)
            result = out.reshape([b, lq, h * d]), None
        if reason == DenseReason.DECODE:
            self.decode_calls += 1
        else:
            self.calls.append((number, call))
        return result

    def _config_of(self, layer_idx: int) -> AttentionConfig:
        """PSA's configuration in a layer, with the budgets of this rank's heads."""
        config = self.choice.config_of(layer_idx)
        return config if config.budgets is None else config.replace(budgets=self._team.share(config.budgets))

    def _number_of(self, layer) -> int:
        """By its place: layers need not know theirs."""
        return next(i for i, one in enumerate(self._layers) if one is layer)

    def _show(self, layer_idx: int, query, key, scaling, call: CallStats) -> None:
        """Show a prefill call to the recorder, if there is one."""
        if self.recorder is not None:
            is_psa = self.choice.of_layer(layer_idx) == "psa"
            config = self._config_of(layer_idx).replace(text_length=self._text_lengths[0]) if is_psa else None
            self.recorder.see(layer_idx, query, key, scaling, config, call)

    def _prefill(self, layer_idx: int, query, key, value, scaling):
        """``([B, Lq, H, D], CallStats)`` of the layer's own kind."""
        kind, triangle = self.choice.of_layer(layer_idx), self.choice.triangle
        backend, starts = self.config.backend, self._kv_start
        if kind == "trianglemix" and triangle is not None:
            pattern = replace(triangle, num_last_tokens=max(0, triangle.num_last_tokens - self._after))
            return triangle_prefill(query, key, value, pattern, backend, scaling, starts, self.config.audit_rows)
        if kind == "dense":
            return dense_prefill(query, key, value, backend, scaling, starts)
        return self._sparse(query, key, value, scaling, self._config_of(layer_idx))

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
                query[i : i + 1],
                key[i : i + 1],
                value[i : i + 1],
                config.replace(text_length=lengths[i]),
                scale=scaling,
                kv_start=None if starts is None else starts[i : i + 1],
                heads_last=True,
                return_stats=True,
            )
            for i in range(batch)
        ]
        return paddle.concat([out for out, _ in parts]), merge_calls([call for _, call in parts])


def _attention(
    own,
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
    """The registry's entry: hands the call to the plug of the layer's model. A model that only shares its
    configuration with a plugged one keeps its own attention."""
    rest = attention_mask, attn_mask_startend_row_indices, dropout, scaling, is_causal
    plug = getattr(module, PLUG, None)
    if plug is None:
        return own_attention(own, module, query, key, value, *rest, **kwargs)
    return plug.attend(own, module, query, key, value, *rest, **kwargs)


def make_plug(model, choice: AttentionChoice) -> Plug:
    """A plug for a PaddleFormers model, not in force yet.

    Raises:
        TypeError: not such a model. ValueError: triangle layers that the model does not have.
    """
    text = check_model(model)
    choice.check_layers(len(text.layers), text.config.num_attention_heads)
    return Plug(model, choice, families.check(model))


def check_model(model):
    """The text model of a PaddleFormers model; TypeError for a model that lacks what the plug reads."""
    family, _, layout = families.check(model, "paddleformers")
    text = layout.text_of(model)
    fits = all(hasattr(layer.self_attn, name) for layer in text.layers for name in READ_OF_LAYERS)
    if not fits or not all(hasattr(model.config, name) for name in family.vision_tokens):
        raise TypeError(families.refusal(model))
    return text


def restore_attention(model):
    """Undo ``replace_attention``; does nothing on a model that is not plugged in. Returns the model."""
    if plug_of(model) is not None:
        plugs.clear(bare_model(model))
    return model
