"""One forward pass after the other on the same prompts, each with other layers sparse: how much the answers change."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import numpy as np
import paddle
import paddle.nn.functional as F

from ....config import DEFAULT_TEXT_LENGTH, AttentionConfig
from ....stats import read_calls
from ....trianglemix import TriangleMixConfig
from ...patches import Patches
from .. import families
from ..attention import attention_in, plug_of
from ..choice import AttentionChoice
from ..samples import single_prompt


class Probe(AttentionChoice):
    """A choice that can be another one for every forward pass: ``layers`` maps a layer to PSA's configuration or to
    TriangleMix's; the others are dense."""

    layers: dict[int, AttentionConfig | TriangleMixConfig]

    def __init__(self, psa: AttentionConfig, triangle: TriangleMixConfig | None):
        super().__init__("psa" if triangle is None else "mix", psa, triangle, None if triangle is None else [0])
        object.__setattr__(self, "layers", {})

    def of_layer(self, layer: int) -> str:
        """``"psa"``, ``"trianglemix"`` or ``"dense"``, in the pass that is next."""
        config = self.layers.get(layer)
        return "dense" if config is None else "psa" if isinstance(config, AttentionConfig) else "trianglemix"

    def config_of(self, layer: int) -> AttentionConfig:
        """PSA's configuration in a layer of that kind, in the pass that is next."""
        config = self.layers[layer]
        if not isinstance(config, AttentionConfig):
            raise TypeError(f"layer {layer} runs {type(config).__name__}, not PSA.")
        return config


class Sample:
    """A prompt with the answer that dense attention gives.

    inputs: what the model takes; rows: how many of the last rows are looked at; text: last tokens that stay at level 1;
    vision: what the vision tower returned, call by call; known: (n, what layer n - 1 returns while the first n layers
    are dense); dense: log-probabilities, float32 [rows, vocabulary].
    """

    def __init__(self, inputs: dict):
        self.inputs, self.rows, self.text = inputs, 0, 0
        self.vision: list = []
        self.known: tuple = (0, None)
        self.dense: paddle.Tensor

    @property
    def tokens(self) -> int:
        """Length of the prompt, with its answer once that is known."""
        return self.inputs["input_ids"].shape[1]


class DivergenceMeter:
    """``with DivergenceMeter(...) as meter`` plugs a probe in, and takes it out whatever happens inside.

    layers, heads: of the model; samples: see ``add``; density: what the sparse layers of the last pass kept, on
    average.
    """

    def __init__(self, model, config: AttentionConfig, triangle: TriangleMixConfig | None):
        if plug_of(model) is not None:
            raise ValueError("the model has sparse attention plugged in; call restore_attention(model) first.")
        self._model, self._config, self._probe = model, config, Probe(config, triangle)
        self.samples: list[Sample] = []
        self._current: Sample
        self._logits: paddle.Tensor
        self._seen = 0
        self.density = 1.0

    def __enter__(self) -> DivergenceMeter:
        model = self._model
        with ExitStack() as stack:
            stack.enter_context(attention_in(model, self._probe))
            stack.enter_context(paddle.no_grad())
            patches = Patches()
            stack.callback(patches.undo)
            family, _, layout = families.check(model)
            tower = layout.tower_of(model)
            if tower is not None:
                patches.attribute(tower, "forward", partial(self._vision, tower.forward))
            patches.pre_hook(model.lm_head, self._before_head)
            stack.callback(model.lm_head.register_forward_post_hook(self._after_head).remove)
            layers = layout.text_of(model).layers
            self._vision_ids = family.vision_ids(model.config)
            self.layers, self.heads = len(layers), layers[0].self_attn.num_heads
            for i, layer in enumerate(layers):
                patches.attribute(layer, "forward", partial(self._layer, i, layer.forward))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """(tokens, last tokens that stay at level 1) of every sample, with its answer."""
        return [(sample.tokens, sample.text) for sample in self.samples]

    def add(self, inputs, answer_tokens: int) -> None:
        """Take a prompt up: have it answered, append the answer, keep what dense attention predicts for it.

        Raises:
            TypeError, ValueError: see ``single_prompt``.
        """
        self._current = sample = Sample(single_prompt(inputs))
        self._probe.layers.clear()
        self._seen = 0
        found, _ = self._model.generate(
            **sample.inputs, max_new_tokens=answer_tokens, decode_strategy="greedy_search", **self._padding()
        )
        answer = self._without_end(found[0].tolist())
        if answer:
            ids = sample.inputs["input_ids"]
            sample.inputs["input_ids"] = paddle.concat([ids, paddle.to_tensor([answer], dtype=ids.dtype)], axis=1)
        sample.rows = len(answer) + 1
        sample.text = self._text_length(sample.inputs["input_ids"].numpy()[0])
        sample.dense = self._predictions(sample)
        self.samples.append(sample)

    def loss(self, layers: dict) -> float:
        """Mean divergence (nats) over the answers' tokens when the given layers run sparse: layer -> configuration.

        Raises:
            ValueError: a layer that was to be sparse ran dense; why, and on what.
        """
        self._probe.layers.clear()
        self._probe.layers.update(layers)
        sums, rows, densities = 0.0, 0, []
        for sample in self.samples:
            found = self._predictions(sample)
            sums += float((sample.dense.exp() * (sample.dense - found)).sum())
            rows += sample.rows
            for one in read_calls(plug_of(self._model).calls):
                if one.layer in layers and one.mode == "dense":
                    raise ValueError(
                        f"layer {one.layer} ran dense on a sample of {sample.tokens} tokens ({one.reason}), where "
                        "there is nothing to measure; give longer samples."
                    )
                if one.layer in layers:
                    densities.append(1.0 - one.sparsity)
        self.density = float(np.mean(densities)) if densities else 1.0
        return sums / rows

    def _predictions(self, sample: Sample):
        """Log-probabilities of the sample's rows, float32 [rows, vocabulary]."""
        plug_of(self._model).reset()
        self._current, self._seen = sample, 0
        self._model(**sample.inputs, use_cache=False)
        return F.log_softmax(self._logits.astype("float32"), axis=-1)

    def _layer(self, i: int, forward, *args, **kwargs):
        """A decoder layer; what is dense below the first sparse layer is computed once for the passes with that one."""
        sample, first = self._current, min(self._probe.layers, default=0)
        if i >= first:
            return forward(*args, **kwargs)
        if sample.known[0] > first:
            sample.known = (0, None)
        n, found = sample.known
        if i >= n:
            found = forward(*args, **kwargs)
            if i == first - 1:
                sample.known = (first, found)
        return found

    def _vision(self, forward, *args, **kwargs):
        """The vision tower, once for each sample."""
        vision, self._seen = self._current.vision, self._seen + 1
        if len(vision) < self._seen:
            vision.append(forward(*args, **kwargs))
        return vision[self._seen - 1]

    def _before_head(self, layer, args, kwargs):
        return ((args[0][:, -self._current.rows :], *args[1:]), kwargs) if self._current.rows else None

    def _after_head(self, layer, args, logits) -> None:
        self._logits = logits[0]

    def _ends(self) -> list[int]:
        """Token ids that end an answer."""
        ends = getattr(getattr(self._model, "generation_config", None), "eos_token_id", None)
        return [] if ends is None else ends if isinstance(ends, list) else [ends]

    def _padding(self) -> dict:
        return {"eos_token_id": self._ends(), "pad_token_id": self._ends()[0]} if self._ends() else {}

    def _without_end(self, answer: list[int]) -> list[int]:
        ends = set(self._ends())
        return answer[: next((i for i, token in enumerate(answer) if token in ends), len(answer))]

    def _text_length(self, ids: np.ndarray) -> int:
        """As the plug chooses it."""
        vision = np.flatnonzero(np.isin(ids, self._vision_ids))
        if self._config.text_length is not None or not len(vision):
            return min(len(ids), self._config.text_length or DEFAULT_TEXT_LENGTH)
        return len(ids) - 1 - int(vision[-1])
