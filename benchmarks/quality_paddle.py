"""bench_quality.py's driver for Paddle: PaddleFormers' Qwen2.5-VL with the product's plug, on Paddle's own device.

A clip's vision tokens are computed once; its prefix, up to the end of the clip, is prefilled through the plug, and the
questions follow together as a second chunk, all of whose rows stay at full resolution.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import paddle
from common import cpu_name
from paddleformers.nn.attention.interface import AttentionInterface
from paddleformers.transformers.cache_utils import DynamicCache
from quality_settings import LAST, SINK, WINDOW, Setting, inclusive_levels
from world.render import draw
from world_batches import CHECKPOINT, PREFIX, TOKENS_PER_SECOND

from psa_paddle import AttentionConfig, eager
from psa_paddle.attention import pyramid_attention
from psa_paddle.geometry import Geometry
from psa_paddle.integrations.language.choice import AttentionChoice, triangle_prefill
from psa_paddle.integrations.language.loading import load_qwen2_5_vl
from psa_paddle.integrations.language.paddleformers import plug as plug_module
from psa_paddle.integrations.language.paddleformers.plug import plug_of
from psa_paddle.integrations.qwen2_5_vl import attention_in
from psa_paddle.integrations.triangle_layers import measure_middle_gradients
from psa_paddle.plan import Plan
from psa_paddle.stats import CallStats, work_of
from psa_paddle.trianglemix import TriangleMixConfig

PROBE = "bench_quality_probe"
PATTERN = TriangleMixConfig(num_sink_tokens=SINK, sliding_window_size=WINDOW, num_last_tokens=LAST)


def inclusive_attention(q, k, v, config, *, scale, kv_start=None, heads_last=False, return_stats=False):
    """``pyramid_attention`` with the seeds' level assignment, on its importance, similarity cap and attention."""
    geo = Geometry(q.shape[2], k.shape[2], config.query_block, config.key_block, True)
    thresholds = {2: config.sim_2x_threshold, 4: config.sim_4x_threshold, 8: config.sim_8x_threshold}
    cap = eager.selection.key_similarity_cap(k, config.key_block, thresholds).numpy()
    plan = Plan.of(config, scale, "eager")
    levels = inclusive_levels(eager.importance(q, k, plan).numpy(), cap, geo, plan.forced_text)
    out = eager.attend_levels(q, k, v, levels, plan)
    work = work_of(levels, geo, config.block_means)
    call = CallStats("eager", "sparse", "", ((geo.lq, geo.lk),) * q.shape[0], [work], [geo.n_pairs()])
    return (out.transpose([0, 2, 1, 3]) if heads_last else out), call


def choice_of(setting: Setting) -> AttentionChoice:
    """The product's choice; the inclusive rule is patched in below it. Dense goes through the plug too: PaddleFormers'
    own attention of a second chunk is not aligned with the end of the keys."""
    if setting.attention == "dense":
        return AttentionChoice("psa", AttentionConfig(dense_below=2**31))
    if setting.attention in ("psa", "inclusive"):
        return AttentionChoice("psa", setting.config)
    return AttentionChoice(setting.attention, setting.config, PATTERN, list(setting.layers))


@dataclass
class Clip:
    """One clip, ready for every setting. embeddings [1, P, hidden] and positions [3, 1, P] of the prefix; questions'
    ids without the end-of-clip mark and answers, [1, questions, length]."""

    prefix_ids: paddle.Tensor
    embeddings: paddle.Tensor
    positions: paddle.Tensor
    ids: np.ndarray
    answer: np.ndarray
    types: np.ndarray


class Driver:
    PACKAGES = ("paddlepaddle", "paddleformers")

    def __init__(self, checkpoint=CHECKPOINT):
        self.model, self.processor = load_qwen2_5_vl(str(checkpoint), "float32")
        self.text = self.model.model.language_model
        self.layers = len(self.text.layers)
        AttentionInterface.register(PROBE, self._probe)
        self._recorded = None
        self.machine = f"{cpu_name() if paddle.get_device() == 'cpu' else paddle.get_device()}, float32"

    def inputs(self, batch, text: str):
        """The processor's inputs of one clip, drawn, with ``text`` after it."""
        frames = draw(batch.plan)[0].transpose(0, 2, 3, 1)
        fps = 2 * TOKENS_PER_SECOND / float(batch.step[0])  # a pair of frames lasts step / tokens_per_second
        prompt = PREFIX + "<|video_pad|><|vision_end|>" + text
        return self.processor(text=[prompt], videos=[frames], fps=fps, do_resize=False, return_tensors="pd")

    @paddle.no_grad()
    def load(self, batch) -> Clip:
        """Draw a ``world_batches.Batch`` of one clip and compute its vision tokens."""
        if len(batch.ids) != 1:
            raise ValueError("the Paddle driver takes one clip at a time; use --tokens 1.")
        inputs, inner = self.inputs(batch, ""), self.model.model
        ids = inputs["input_ids"]
        clip = paddle.concat(inner.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"]))
        embeddings = inner.get_input_embeddings()(ids)
        place = ids == self.model.config.video_token_id
        embeddings = embeddings.masked_scatter(place.unsqueeze(-1).expand_as(embeddings), clip.astype("float32"))
        positions, _ = inner.get_rope_index(
            ids, None, inputs["video_grid_thw"], second_per_grid_ts=inputs["second_per_grid_ts"]
        )
        types = np.array([[q.type for q in asked] for asked in batch.questions])
        return Clip(ids, embeddings, positions, batch.ids[..., 1:], batch.answer[..., 1:], types)

    def video_tokens(self, clip: Clip, frames: int):
        """[frames, places, hidden] of the clip's vision tokens."""
        rows = paddle.to_tensor(np.flatnonzero(self._is_video(clip)))
        return paddle.gather(clip.embeddings[0], rows).reshape([frames, -1, clip.embeddings.shape[-1]])

    def shorter(self, clip: Clip, kept: np.ndarray) -> Clip:
        """The clip with the vision tokens [frames, places] that stay."""
        stay = ~self._is_video(clip)
        stay[~stay] = kept.ravel()
        rows, axes = paddle.to_tensor(np.flatnonzero(stay)), {"prefix_ids": 1, "embeddings": 1, "positions": 2}
        return replace(clip, **{name: paddle.gather(getattr(clip, name), rows, axis) for name, axis in axes.items()})

    def _is_video(self, clip: Clip) -> np.ndarray:
        return clip.prefix_ids.numpy()[0] == self.model.config.video_token_id

    @contextmanager
    def plugged(self, setting: Setting):
        """The model with a setting's attention; yields its plug."""
        rule = mock.patch.object(plug_module, "pyramid_attention", inclusive_attention)
        with rule if setting.attention == "inclusive" else nullcontext(), attention_in(self.model, choice_of(setting)):
            yield plug_of(self.model)

    def prefix(self, clip: Clip):
        """KV cache of the prefix."""
        return self.model.model(
            input_ids=clip.prefix_ids, inputs_embeds=clip.embeddings, position_ids=clip.positions, use_cache=True,
            return_dict=True,
        ).past_key_values  # fmt: skip

    @paddle.no_grad()
    def tokens(self, clip: Clip, setting: Setting):
        """``(found, density)``: the likeliest next token after every token of the questions but the last, int64 [1,
        questions, length - 1]; mean density over the layers."""
        with self.plugged(setting) as plug:
            cache, chunk = self.prefix(clip), DynamicCache(config=self.text.config)
            density = float(np.mean([1.0 - call.sparsity() for _, call in plug.calls]))
            questions, length = clip.ids.shape[1:]
            for layer, part in enumerate(cache.layers):
                chunk.update(*(x.expand([questions, *x.shape[1:]]) for x in (part.keys, part.values)), layer)
            start = int(clip.positions.max()) + 1
            places = paddle.arange(start, start + length).expand([3, questions, -1])
            ids = paddle.to_tensor(clip.ids[0])
            out = self.model.model(
                input_ids=ids, inputs_embeds=self.text.embed_tokens(ids), position_ids=places, past_key_values=chunk,
                use_cache=True, return_dict=True,
            )  # fmt: skip
            return self.model.lm_head(out.last_hidden_state[:, :-1]).argmax(-1).numpy()[None], density

    def _probe(self, module, query, key, value, *args, scaling=None, **kwargs):
        out = eager.dense_attention(query, key, value, True, scaling)
        self._recorded.append((query, key, value, scaling, out))
        b, h, length, d = query.shape
        return out.transpose([0, 2, 1, 3]).reshape([b, length, h * d]), None

    @paddle.no_grad()
    def record(self, clip: Clip) -> list:
        """Each layer's prefix on the dense trajectory: what ``error`` takes."""
        self._recorded, config = [], self.text.config
        name, config._attn_implementation = config._attn_implementation, PROBE
        try:
            self.prefix(clip)
            return self._recorded
        finally:
            config._attn_implementation = name

    @paddle.no_grad()
    def error(self, recorded: list, setting: Setting) -> float:
        """Relative attention error, mean over the layers."""
        errors = []
        for layer, (q, k, v, scale, want) in enumerate(recorded):
            kind, out = setting.of_layer(layer), want.transpose([0, 2, 1, 3])
            if kind == "trianglemix":
                out, _ = triangle_prefill(q, k, v, PATTERN, "auto", scale, None)
            elif kind != "dense":
                run = inclusive_attention if kind == "inclusive" else pyramid_attention
                config = setting.config.replace(text_length=1)  # the end-of-clip mark, as in the plug
                out, _ = run(q, k, v, config, scale=scale, heads_last=True, return_stats=True)
            want = want.transpose([0, 2, 1, 3])
            errors.append(float((out - want).norm() / want.norm()))
        return float(np.mean(errors))

    def judge(self, clip: Clip, found, reference):
        """Counts: right [1, questions], tokens equal to the reference's, tokens of the answers."""
        answer = clip.answer[..., 1:]
        right = ((found == clip.ids[..., 1:]) | ~answer).all(-1)
        return right, int(((found == reference) & answer).sum()), int(answer.sum())

    def triangle_order(self, batches) -> list[int]:
        """Layers by the product's Grad(M, l), least first, over the first question of every clip."""
        samples = []
        for batch in batches:
            first = int(np.flatnonzero(batch.answer[0, 0])[0])
            question = self.processor.tokenizer.decode(batch.ids[0, 0, 1:first].tolist())
            inputs = self.inputs(batch, question)
            samples.append((inputs, int(batch.ids[0, 0, first])))
        found = measure_middle_gradients(self.model, samples, PATTERN).middle_qk_gradients
        return np.argsort([np.mean(found[layer]) for layer in range(self.layers)], kind="stable").tolist()
