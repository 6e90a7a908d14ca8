"""Choose TriangleMix's layers for a PaddleFormers model by autograd (arXiv:2507.21526v2, figure 1)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager

import paddle
from paddleformers.nn.attention.interface import AttentionInterface

from ....trianglemix import TriangleMixAnalyzer, TriangleMixConfig
from ....trianglemix.config import check_int
from ....trianglemix.gradients import middle_gradient, middle_rows
from ...patches import Patches
from ..paddleformers.dense import own_attention
from ..paddleformers.names import places_of
from ..paddleformers.plug import check_model, own_name
from ..plugs import bare_model, plug_of
from ..samples import single_prompt

NAME = "trianglemix_probe"
PROBE = "_trianglemix_probe"  # attribute of a probed model's attention layers; gone afterwards


def choose_triangle_layers(model, samples: Iterable, n: int, config: TriangleMixConfig | None = None) -> list[int]:
    """The ``n`` layers on whose Middle Q-K region the answers to ``samples`` depend least, ascending by index.

    Args: as ``measure_middle_gradients``; ``n`` may not exceed the model's layers.

    Raises:
        TypeError, ValueError: see ``measure_middle_gradients``; an ``n`` that is no number of layers.
    """
    layers = len(check_model(bare_model(model)).layers)
    if check_int("n", n) > layers:
        raise ValueError(f"{n} triangle layers are wanted, but the model has {layers}.")
    return measure_middle_gradients(model, samples, config).get_triangle_layers(n)


def measure_middle_gradients(model, samples: Iterable, config: TriangleMixConfig | None = None) -> TriangleMixAnalyzer:
    """Record for every sample and layer how much the first answer token depends on the layer's Middle Q-K region.

    The measure is the average gradient Grad(M, l) that figure 1 of the paper plots: z is the logit of the first token
    after the prompt, A the attention weights of layer l, Grad(M, l) the mean of |dz/dA_ij| over the region M and heads.
    The model's own attention computes the forward and the backward pass; dz/dA follows from its gradients, a few rows
    at a time. The last layer's is always 0: the token depends on its last row alone.

    Args:
        model: of one of ``families.FAMILIES``, built by PaddleFormers, without a plug. Its parameters get no gradient.
        samples: what the processor returns for one prompt (batch 1, no padding), each alone or as
            ``(inputs, token)`` with the id of the right first answer token; alone, the model's own choice is taken.
        config: bounds of the region; its layers are not read. ``TriangleMixConfig()`` by default.

    Returns:
        ``TriangleMixAnalyzer`` with one record a layer and sample.

    Raises:
        TypeError: not such a model or samples. ValueError: no samples, a batch, padding, a prompt without a Middle
            region, a token outside the vocabulary, a model that is plugged in, or gradients that are not finite.
    """
    model = bare_model(model)
    text, config = check_model(model), config or TriangleMixConfig()
    if plug_of(model) is not None:
        raise ValueError("the model has sparse attention plugged in; call restore_attention(model) first.")
    analyzer = TriangleMixAnalyzer(len(text.layers))
    with _probing(model, text, config) as found, paddle.enable_grad():
        for sample in samples:
            inputs, token = sample if isinstance(sample, tuple) else (sample, None)
            logits = model(**_checked(inputs, config), use_cache=False, return_dict=True).logits[0, -1]
            token = int(logits.argmax()) if token is None else check_int("a sample's token", token)
            if token >= logits.shape[0]:
                raise ValueError(f"token {token} is not in the vocabulary of {logits.shape[0]}.")
            logits[token].backward()
            for layer in range(analyzer.num_layers):
                analyzer.record_middle_qk_gradient(layer, found.pop(layer))
    if not analyzer.middle_qk_gradients[0]:
        raise ValueError("give at least one sample.")
    return analyzer


def _checked(inputs, config: TriangleMixConfig) -> dict:
    """``single_prompt``, of a length that has a Middle region."""
    inputs = single_prompt(inputs)
    length = inputs["input_ids"].shape[1]
    if not middle_rows(config, length):
        raise ValueError(f"a sample of {length} tokens has no Middle Q-K region with this pattern; use longer ones.")
    return inputs


@contextmanager
def _probing(model, text, config: TriangleMixConfig):
    """Attention whose backward pass leaves Grad(M, l) of each layer in the dict that this yields, and gradients of
    nothing but the text layers' activations."""
    layers = [layer.self_attn for layer in text.layers]
    own = own_name(text.config)
    trainable = [p for p in model.parameters() if not p.stop_gradient]
    patches, found = Patches(), {}

    def probe(layer, query, key, value, **kwargs):
        out, weights = own_attention(own, layer, query, key, value, **kwargs)
        value, number = value.detach()[0], next(i for i, one in enumerate(layers) if one is layer)

        def keep(grad):  # Paddle cannot pass on what a hook raises: nothing is judged here
            per_head = grad[0].reshape([grad.shape[1], -1, value.shape[2]]).transpose([1, 0, 2])
            found[number] = middle_gradient(per_head, value, config)

        out.register_hook(keep)
        return out, weights

    def leaf(layer, args, kwargs):
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            embeds = text.embed_tokens(kwargs.get("input_ids", args[0] if args else None))
        kwargs |= {"input_ids": None, "inputs_embeds": embeds.detach()}
        kwargs["inputs_embeds"].stop_gradient = False
        return (), kwargs

    def last_row(layer, args, kwargs):
        return (args[0][:, -1:], *args[1:]), kwargs

    try:
        AttentionInterface.register(NAME, _probe_forward)
        for place in places_of(layers, text.config):
            patches.attribute(*place, NAME)
        for layer in layers:
            patches.attribute(layer, PROBE, probe)
        patches.pre_hook(text, leaf)
        patches.pre_hook(model.lm_head, last_row)
        for p in trainable:
            p.stop_gradient = True
        yield found
    finally:
        for p in trainable:
            p.stop_gradient = False
        patches.undo()


def _probe_forward(module, query, key, value, attn_mask_startend_row_indices=None, is_causal=None, **kwargs):
    """The registry's entry: hands the call to the probe of the layer's model."""
    rest = {"row_indices": attn_mask_startend_row_indices, "is_causal": is_causal, **kwargs}
    return getattr(module, PROBE)(module, query, key, value, **rest)
