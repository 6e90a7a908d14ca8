"""bench_quality.py's driver for torch: Hugging Face's Qwen2.5-VL, attention through psa_paddle's Triton launchers.

A clip's vision tokens are computed once; its prefix is prefilled with each setting, and every question sees the clip
densely and itself: as one prompt would, whose last tokens, the question, stay at full resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from batched_qwen import Layout, positions, vision_tokens
from common import gpu_name
from quality_settings import (
    DENSE,
    LAST,
    SINK,
    TRIANGLE_DENSE_UP_TO,
    WINDOW,
    Setting,
    inclusive_levels,
    triangle_density,
)
from transformers import AttentionInterface, Qwen2_5_VLForConditionalGeneration
from world.render import draw
from world_batches import CHECKPOINT, PREFIX, encode

from psa_paddle import kernels
from psa_paddle.geometry import Geometry
from psa_paddle.kernels.triangle import triangle_fwd
from psa_paddle.plan import Plan
from psa_paddle.triangle_pattern import Pattern

NAME = "bench_quality"


def dense(q, k, v, scale):
    """[B, H, L, D], [B, Hkv, L, D] -> [B, L, H, D], causal."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2)


def inclusive(q, k, v, plan):
    """The seeds' rule on the product's importance, pooling and attention kernels; the levels are made on the host."""
    geo = Geometry(q.shape[2], q.shape[2], plan.query_block, plan.key_block, True)
    pooled_k, pooled_v, cap = kernels.pyramid_fwd(k, v, plan)
    found = kernels.select_blocks(q, k, plan, return_importance=True)
    levels = inclusive_levels(found.importance.cpu().numpy(), cap.cpu().numpy(), geo, plan.forced_text)
    found = kernels.lists_from_levels(torch.from_numpy(levels).to(q.device), plan, geo.lq, geo.lk)
    return kernels.attend_fwd(q, k, v, found, plan, kernels.Pooled(pooled_k, pooled_v)), found.work


def prefill(kind: str, q, k, v, config, scale: float):
    """``([B, L, H, D], density)`` of a clip's prefix in one layer; the density is a scalar on the device or a float."""
    b, h, length, _ = q.shape
    if kind == "dense" or (kind == "trianglemix" and length <= TRIANGLE_DENSE_UP_TO):
        return dense(q, k, v, scale), 1.0
    if kind == "trianglemix":
        out = triangle_fwd(q, k, v, Pattern(SINK, WINDOW, LAST), scale, heads_last=True)
        return out, triangle_density(length)
    # The question follows: the query block in which it starts is kept whole, as one prompt's text_length does.
    plan = Plan.of(config.replace(text_length=1 if length % config.query_block else 0), scale, heads_last=True)
    out, work = inclusive(q, k, v, plan) if kind == "inclusive" else kernels.psa_fwd(q, k, v, plan)
    pairs = Geometry(length, length, config.query_block, config.key_block, True).n_pairs()
    return out, work.sum() / (pairs * b * h)


@dataclass
class Clip:
    """Clips of one shape, ready for every setting: embeddings [B, L, hidden], positions [3, B, L], ids and answers
    [B, questions, length] on the device."""

    x: torch.Tensor
    position_ids: torch.Tensor
    layout: Layout
    ids: torch.Tensor
    answer: torch.Tensor
    types: np.ndarray


class Driver:
    """See the module; ``device``: ``"cuda"``, or ``"cpu"`` with TRITON_INTERPRET=1, which is for tests."""

    PACKAGES = ("torch", "transformers", "triton")

    def __init__(self, checkpoint=CHECKPOINT, device: str = "cuda"):
        self.device = torch.device(device)
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every shape
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.model.to(self.device).requires_grad_(False)
        self.text = self.model.model.language_model
        self.layers = len(self.text.layers)
        AttentionInterface.register(NAME, self._attend)
        self.text.config._attn_implementation = NAME
        self._prefix = torch.tensor(encode(PREFIX), device=self.device)
        self._setting, self._density, self._recorded, self._probe = DENSE, [], None, None
        self.machine = gpu_name() if self.device.type == "cuda" else "CPU, Triton's interpreter"

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def _attend(self, module, q, k, v, layout: Layout, scaling=None, **kwargs):
        """One layer: the prefix as the setting says, the questions densely over the prefix and themselves."""
        q, k, p = q.to(v.dtype), k.to(v.dtype), layout.prefix
        clip = [x[:, :, :p] for x in (q, k, v)]
        if self._recorded is not None:
            self._recorded.append((clip, scaling))
        out, density = prefill(self._setting.of_layer(module.layer_idx), *clip, self._setting.config, scaling)
        self._density.append(density)
        wide_k, wide_v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
        mask = layout.mask(q.device)
        asked = F.scaled_dot_product_attention(q[:, :, p:], wide_k, wide_v, attn_mask=mask, scale=scaling)
        out = torch.cat([out, asked.transpose(1, 2)], 1)
        if self._probe is not None:
            self._probe(module.layer_idx, out, v)
        return out, None

    @torch.no_grad()
    def load(self, batch) -> Clip:
        """Draw a ``world_batches.Batch`` and compute its vision tokens."""
        ids, answer = (torch.from_numpy(x).to(self.device) for x in (batch.ids, batch.answer))
        with self._autocast():
            clip, grid = vision_tokens(self.model.model.visual, draw(batch.plan, self.device))
            parts = [self.text.embed_tokens(t).to(clip.dtype) for t in (self._prefix, ids.flatten(1))]
        x = torch.cat([parts[0].expand(len(ids), -1, -1), clip, parts[1]], 1)
        layout = Layout(len(self._prefix) + clip.shape[1], *ids.shape[1:])
        places = [positions(len(self._prefix), grid, *ids.shape[1:], s) for s in batch.step.tolist()]
        types = np.array([[q.type for q in asked] for asked in batch.questions])
        return Clip(x, torch.stack(places, 1).to(self.device), layout, ids, answer, types)

    def video_tokens(self, clip: Clip, frames: int):
        """[frames, places, hidden] of a single clip's vision tokens."""
        return clip.x[0, len(self._prefix) : clip.layout.prefix].unflatten(0, (frames, -1))

    def shorter(self, clip: Clip, kept: np.ndarray) -> Clip:
        """A single clip with the vision tokens [frames, places] that stay."""
        stay = np.ones(clip.x.shape[1], bool)
        stay[len(self._prefix) : clip.layout.prefix] = kept.ravel()
        rows = torch.from_numpy(np.flatnonzero(stay)).to(self.device)
        layout = replace(clip.layout, prefix=clip.layout.prefix - int((~kept).sum()))
        return replace(clip, x=clip.x[:, rows], position_ids=clip.position_ids[:, :, rows], layout=layout)

    def _states(self, clip: Clip, x=None):
        with self._autocast():
            out = self.text(
                inputs_embeds=clip.x if x is None else x, position_ids=clip.position_ids, use_cache=False,
                attention_mask={"full_attention": clip.layout},
            ).last_hidden_state  # fmt: skip
            return out[:, clip.layout.prefix :].unflatten(1, (clip.layout.questions, clip.layout.length))

    @torch.no_grad()
    def tokens(self, clip: Clip, setting: Setting):
        """``(found, density)``: the likeliest next token after every token of the questions but the last, int64 [B,
        questions, length - 1], on the device; mean density over the layers."""
        self._setting = setting
        self._density.clear()
        with self._autocast():
            found = self.model.lm_head(self._states(clip)[..., :-1, :]).argmax(-1)
        return found, sum(self._density) / self.layers

    @torch.no_grad()
    def record(self, clip: Clip) -> list:
        """Each layer's prefix on the dense trajectory: what ``errors`` takes."""
        self._recorded, self._setting = [], DENSE
        try:
            self._states(clip)
            return [(qkv, scale, dense(*qkv, scale)) for qkv, scale in self._recorded]
        finally:
            self._recorded = None

    @torch.no_grad()
    def error(self, recorded: list, setting: Setting):
        """Relative attention error, mean over layers and clips; a scalar on the device."""
        errors = []
        for layer, (qkv, scale, want) in enumerate(recorded):
            out, _ = prefill(setting.of_layer(layer), *qkv, setting.config, scale)
            difference = (out.float() - want.float()).flatten(1).norm(dim=1)
            errors.append((difference / want.float().flatten(1).norm(dim=1)).mean())
        return torch.stack(errors).mean()

    def judge(self, clip: Clip, found, reference):
        """Counts as NumPy: right [B, questions], tokens equal to the reference's, tokens of the answers."""
        answer = clip.answer[..., 1:]
        right = ((found == clip.ids[..., 1:]) | ~answer).all(-1)
        return right.cpu().numpy(), int(((found == reference) & answer).sum()), int(answer.sum())

    def triangle_order(self, batches) -> list[int]:
        """Layers by Grad(M, l) of ``psa_paddle.trianglemix.gradients``, least first, over the first question of every
        clip: the mean over the Middle region and the heads of |dz / dA|, z the logit of the first answer token."""
        totals = np.zeros(self.layers)
        for batch in batches:
            for b in range(len(batch.ids)):
                totals += self._middle_gradients(batch, b)
        return np.argsort(totals, kind="stable").tolist()

    def _middle_gradients(self, batch, b: int):
        """Grad(M, l) of clip ``b`` and its first question, [layers]."""
        clip, first = self.load(batch), int(np.flatnonzero(batch.answer[b, 0])[0])
        layout = Layout(clip.layout.prefix, 1, first)
        length = layout.prefix + first
        one = Clip(
            clip.x[b : b + 1, :length], clip.position_ids[:, b : b + 1, :length], layout, clip.ids, clip.answer, None
        )
        found = np.zeros(self.layers)
        rows = torch.arange(length, device=self.device)
        gap = rows[:, None] - rows
        middle = (rows > SINK) & (gap > WINDOW) & (length - rows[:, None] >= LAST)

        def keep(layer, out, v):
            def hook(grad):  # [1, L, H, D]
                heads = grad[0].transpose(0, 1).float()
                values = v[0].detach().float().repeat_interleave(len(heads) // v.shape[1], 0)
                weights = sum((g @ x.T).abs() for g, x in zip(heads, values, strict=True))
                found[layer] = float(weights[middle].mean()) / len(heads)

            out.register_hook(hook)

        self._probe, self._setting = keep, DENSE
        try:
            with torch.enable_grad():
                states = self._states(one, one.x.float().requires_grad_())
                token = int(batch.ids[b, 0, first])
                self.model.lm_head(states[0, 0, -1].float())[token].backward()
        finally:
            self._probe = None
        return found
