"""Plug Pyramid Sparse Attention (arXiv:2512.04025) into CogVideoX and Wan transformers, and take it out again.

Works on the transformers of PaddleMIX's ppdiffusers and on any with the same attention interface; nothing of that
library is imported. Only the processors of self-attention change: no weight is copied, no layer is added.
"""

from __future__ import annotations

from contextlib import contextmanager

from ...config import AttentionConfig
from ...presets import Preset
from ...psa_module import PSAConfig
from .plug import FAMILIES, PLUG, VideoPlug


def _transformer_of(model):
    """The transformer itself, or that of a pipeline.

    Raises:
        TypeError: a pipeline with two transformers, of which only one would be meant.
    """
    if getattr(model, "transformer_2", None) is not None:
        raise TypeError("the pipeline has two transformers; give pipe.transformer and pipe.transformer_2 one by one.")
    return getattr(model, "transformer", model)


def _family_of(transformer):
    for family in FAMILIES:
        if family.recognises(transformer):
            return family
    attn = next((block.attn1 for block in getattr(transformer, "transformer_blocks", []) if hasattr(block, "attn1")), 0)
    if getattr(attn, "fused_projections", False):
        raise TypeError("the transformer's q, k and v projections are fused; call unfuse_qkv_projections() first.")
    names = " or ".join(family.name for family in FAMILIES)
    raise TypeError(f"expected a {names} transformer or its pipeline, got {type(transformer).__name__}.")


def replace_attention_with_psa(model, config: PSAConfig | Preset | None = None, *, verbose: bool | None = None):
    """Make a video transformer attend with Pyramid Sparse Attention; returns what it was given.

    The token grid is learned from the shape of each latent, the denoising step from the timestep, and the text's
    length from the text's embeddings. Text stays at full resolution. The first ``warmup_steps`` steps, and whatever the
    operator cannot express, run through the model's own processors, and the statistics say why.

    Args:
        model: a CogVideoX or Wan transformer, or a pipeline that has one. One that is plugged in already gets the new
            configuration.
        config: a ``PSAConfig``, a preset of a bidirectional model, or None for ``PSAConfig()``. A dense preset gives
            plain softmax through the same processors, for comparison.
        verbose: log one line a denoising step under the name ``psa_paddle``; None: what the preset says, else not.

    Raises:
        TypeError: not such a model or configuration, or a pipeline with two transformers. ValueError: a preset of a
            causal model, or of type prefill.
    """
    preset = config if isinstance(config, Preset) else None
    settings = PSAConfig() if config is None else config if preset is None else preset.config
    if preset is not None and (preset.causal or isinstance(settings, AttentionConfig)):
        raise ValueError(f"preset {preset.name} of {preset.model} is for a language model; take a video model's.")
    if settings is not None and not isinstance(settings, PSAConfig):
        raise TypeError(f"config must be a PSAConfig or a Preset, got {type(config).__name__}.")
    if verbose is None:
        verbose = preset is not None and preset.verbose
    restore_attention(model)
    transformer = _transformer_of(model)
    VideoPlug(transformer, _family_of(transformer), settings, verbose).connect(transformer)
    return model


def restore_attention(model):
    """Undo ``replace_attention_with_psa``, if it was done; returns what it was given."""
    plug = plug_of(model)
    if plug is not None:
        plug.remove()
    return model


@contextmanager
def psa_attention_in(model, config: PSAConfig | Preset | None = None, *, verbose: bool | None = None):
    """``with psa_attention_in(pipe, config) as plug: ...`` plugs in, and restores whatever happens inside."""
    try:
        yield plug_of(replace_attention_with_psa(model, config, verbose=verbose))
    finally:
        restore_attention(model)


def plug_of(model) -> VideoPlug | None:
    """The plug, with ``steps()`` and ``reset``; None when nothing is plugged in."""
    return getattr(_transformer_of(model), PLUG, None)
