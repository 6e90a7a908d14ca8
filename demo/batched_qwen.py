"""Qwen2.5-VL of Hugging Face transformers on batches of equal shape: many clips, many questions about each.

The library's own forward loops over vision windows and takes one conversation a row. Here every frame of a batch is
one row of a batched attention, and all questions about a clip share its prefix: question j sees the clip and itself,
never another question, at the positions that it would have alone. ``check`` compares both with the library.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

PATCH, MERGE, PAIR = 14, 2, 2
IMAGE_MEAN, IMAGE_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NAME = "clip_and_questions"


def to_patches(frames, dtype):
    """uint8 [B, T, 3, H, W] -> ([B * T/2, h * w, 1176] normalised patches, (T/2, h, w)); one frame counts twice.

    The four patches that are later merged into one token stand next to each other.
    """
    if frames.shape[1] == 1:
        frames = frames.expand(-1, 2, -1, -1, -1)
    batch, count, _, height, width = frames.shape
    mean, std = (torch.tensor(x, device=frames.device) * 255 for x in (IMAGE_MEAN, IMAGE_STD))
    grid = (count // PAIR, height // PATCH, width // PATCH)
    x = frames.view(batch * grid[0], PAIR, 3, grid[1] // MERGE, MERGE, PATCH, grid[2] // MERGE, MERGE, PATCH)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # rows, h, w, merge, merge, colour, pair, y, x
    shape = (1, 1, 1, 1, 1, 3, 1, 1, 1)
    x = (x - mean.view(shape)) / std.view(shape)
    return x.to(dtype).reshape(batch * grid[0], grid[1] * grid[2], -1), grid


def _rotate_half(x):
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


class VisionTables:
    """Rotary factors and window membership of one frame's patches, in the order of ``to_patches``; kept by grid."""

    def __init__(self):
        self._kept = {}

    def __call__(self, grid, head_dim: int, window: int, device):
        key = (grid[1:], device)
        if key not in self._kept:
            rows, columns = (
                axis.reshape(grid[1] // MERGE, MERGE, grid[2] // MERGE, MERGE).permute(0, 2, 1, 3).reshape(-1)
                for axis in torch.meshgrid(torch.arange(grid[1]), torch.arange(grid[2]), indexing="ij")
            )
            frequencies = 10000.0 ** -(torch.arange(0, head_dim // 2, 2) / (head_dim // 2))
            angles = torch.cat([rows[:, None] * frequencies, columns[:, None] * frequencies], 1)
            angles = torch.cat([angles, angles], 1)
            side = window // PATCH
            windows = (rows // side) * 1000 + columns // side
            same = windows[:, None] == windows[None, :]
            self._kept[key] = tuple(x.to(device) for x in (angles.cos(), angles.sin(), same))
        return self._kept[key]


_tables = VisionTables()


def vision_tokens(visual, frames):
    """uint8 [B, T, 3, H, W] -> tokens of the language model [B, tokens, hidden] and the grid (T/2, h, w) of patches."""
    config = visual.config
    weight = visual.patch_embed.proj.weight
    dtype = torch.bfloat16 if torch.is_autocast_enabled(frames.device.type) else weight.dtype
    patches, grid = to_patches(frames, dtype)
    heads = config.num_heads
    cos, sin, same = _tables(grid, config.hidden_size // heads, config.window_size, frames.device)
    x = F.linear(patches, weight.flatten(1))
    for i, block in enumerate(visual.blocks):
        qkv = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = ((t * cos + _rotate_half(t) * sin).to(qkv.dtype) for t in qkv[:2])
        mask = None if i in config.fullatt_block_indexes else same
        out = F.scaled_dot_product_attention(q, k, qkv[2], attn_mask=mask)
        x = x + block.attn.proj(out.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    tokens = visual.merger(x.flatten(0, 1))
    return tokens.view(frames.shape[0], -1, tokens.shape[-1]), grid


@dataclass(frozen=True)
class Layout:
    """A clip's prefix of ``prefix`` tokens, then ``questions`` suffixes of ``length`` tokens each."""

    prefix: int
    questions: int
    length: int

    def mask(self, device):
        """Bool [questions * length, prefix + questions * length]: what each row of the suffixes may see."""
        row = torch.arange(self.questions * self.length, device=device)
        own = (row[:, None] // self.length == row // self.length) & (row[:, None] >= row)
        return torch.cat([own.new_ones(len(row), self.prefix), own], 1)


def _attend(module, q, k, v, layout: Layout, scaling=None, **kwargs):
    """Attention of one layer: q [B, H, L, D], k and v [B, Hkv, L, D] -> ([B, L, H, D], None)."""
    p, groups = layout.prefix, q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    clip = F.scaled_dot_product_attention(q[:, :, :p], k[:, :, :p], v[:, :, :p], is_causal=True, scale=scaling)
    mask = layout.mask(q.device)
    asked = F.scaled_dot_product_attention(q[:, :, p:], k, v, attn_mask=mask, scale=scaling)
    return torch.cat([clip, asked], 2).transpose(1, 2), None


AttentionInterface.register(NAME, _attend)


def positions(before: int, grid, questions: int, length: int, step) -> torch.Tensor:
    """Rotary positions [3, tokens] (time, height, width) of prefix text, one clip, and every suffix.

    step: time positions from one pair of frames to the next (seconds of a pair times tokens_per_second), as a float
    that is rounded down after multiplying, as the model's processor does.
    """
    text = torch.arange(before).expand(3, -1)
    t, h, w = (torch.arange(n) for n in (grid[0], grid[1] // MERGE, grid[2] // MERGE))
    clip = torch.stack(torch.meshgrid((t * step).long(), h, w, indexing="ij")).reshape(3, -1) + before
    suffix = clip.max() + 1 + torch.arange(length).repeat(questions)
    return torch.cat([text, clip, suffix.expand(3, -1)], 1)


def question_states(model, frames, prefix_ids, suffix_ids, step):
    """Hidden states [B, questions, length, hidden] of every question about every clip.

    frames: uint8 [B, T, 3, H, W]. prefix_ids: int64 [before], the text up to the clip, the same for all.
    suffix_ids: int64 [B, questions, length]. step: float tensor [B], see ``positions``.
    """
    embed = model.model.language_model.embed_tokens
    clip, grid = vision_tokens(model.model.visual, frames)
    batch, questions, length = suffix_ids.shape
    before = embed(prefix_ids).to(clip.dtype)
    x = torch.cat([before.expand(batch, -1, -1), clip, embed(suffix_ids.flatten(1)).to(clip.dtype)], 1)
    places = {s: positions(len(prefix_ids), grid, questions, length, s) for s in set(step.tolist())}
    position_ids = torch.stack([places[s] for s in step.tolist()], 1).to(frames.device)
    layout = Layout(len(prefix_ids) + clip.shape[1], questions, length)
    out = model.model.language_model(
        inputs_embeds=x, position_ids=position_ids, attention_mask={"full_attention": layout}, use_cache=False
    )
    return out.last_hidden_state[:, layout.prefix :].unflatten(1, (questions, length))


@torch.no_grad()
def check(model, prefix_ids, suffix_ids) -> float:
    """Largest relative difference from the library's own forward: vision tokens and states, on noise, in float32.

    prefix_ids: int64 [before]. suffix_ids: int64 [1, questions, length].
    """
    device, inner = prefix_ids.device, model.model
    noise = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (1, 4, 3, 168, 196), generator=noise, dtype=torch.uint8).to(device)
    step = torch.tensor([2.0])
    mine = question_states(model, frames, prefix_ids, suffix_ids, step)[0]
    clip, grid = vision_tokens(inner.visual, frames)
    patches, _ = to_patches(frames, torch.float32)
    theirs = inner.visual(patches.flatten(0, 1), torch.tensor([grid], device=device)).pooler_output
    worst = float((clip[0] - theirs).norm() / theirs.norm())
    text, kept = inner.language_model, inner.language_model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    for ids, states in zip(suffix_ids[0], mine, strict=True):
        x = torch.cat([text.embed_tokens(prefix_ids), theirs, text.embed_tokens(ids)])[None]
        places = positions(len(prefix_ids), grid, 1, len(ids), 2.0)[:, None].to(device)
        out = text(inputs_embeds=x, position_ids=places, use_cache=False).last_hidden_state[0, -len(ids) :]
        worst = max(worst, float((states - out).norm() / out.norm()))
    model.set_attn_implementation(kept)
    return worst
