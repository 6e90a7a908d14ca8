"""STUBS of the CogVideoX and Wan video transformers, with seeded random weights: their pictures mean nothing.

They have the attention interface, the token order and the call signatures of the real ones (processors, rotary
embedding, latent layout), so that Pyramid Sparse Attention plugs into them as it does into the real models, and a
machine without weights can show and test it.
"""

from __future__ import annotations

import hashlib
import math
from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

TEXT_LENGTH = 26  # divides no block size
TEXT_DIM = 32
CHANNELS = 4
VAE_SCALE = (4, 8, 8)  # frames, height and width of one latent


class StubAttention(nn.Layer):
    """Self-attention or cross-attention whose arithmetic is in ``processor``."""

    def __init__(self, dim: int, heads: int, norm, processor) -> None:
        super().__init__()
        self.heads, self.add_k_proj, self.is_cross_attention = heads, None, False
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_q, self.norm_k = norm(), norm()
        self.to_out = nn.LayerList([nn.Linear(dim, dim), nn.Dropout(0.0)])
        self.processor = processor

    def forward(self, hidden_states, encoder_hidden_states=None, attention_mask=None, **rotary):
        return self.processor(
            self, hidden_states, encoder_hidden_states=encoder_hidden_states, attention_mask=attention_mask, **rotary
        )


class StubCogVideoXProcessor:
    """Plain attention over text and video together; rotary embedding on the video part."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        text = encoder_hidden_states.shape[1]
        x = paddle.concat([encoder_hidden_states, hidden_states], axis=1)
        b, length, dim = x.shape
        split = [b, length, attn.heads, dim // attn.heads]
        q = attn.norm_q(attn.to_q(x).reshape(split).transpose([0, 2, 1, 3]))
        k = attn.norm_k(attn.to_k(x).reshape(split).transpose([0, 2, 1, 3]))
        q, k = (self._rotate(y, text, *image_rotary_emb) for y in (q, k))
        v = attn.to_v(x).reshape(split)
        out = F.scaled_dot_product_attention(
            q.transpose([0, 2, 1, 3]), k.transpose([0, 2, 1, 3]), v, attn_mask=attention_mask
        )
        out = attn.to_out[1](attn.to_out[0](out.reshape([b, length, dim])))
        return out[:, text:], out[:, :text]

    @staticmethod
    def _rotate(x, text: int, cos, sin):
        part = x[:, :, text:]
        turned = paddle.stack([-part[..., 1::2], part[..., 0::2]], axis=-1).flatten(start_axis=3)
        return paddle.concat([x[:, :, :text], part * cos + turned * sin], axis=2)


class StubWanProcessor:
    """Plain attention: of the video over itself, or over the text."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(source)), attn.to_v(source)
        q, k, v = (x.reshape([x.shape[0], x.shape[1], attn.heads, -1]) for x in (q, k, v))
        if rotary_emb is not None:
            q, k = (self._rotate(x.transpose([0, 2, 1, 3]), rotary_emb).transpose([0, 2, 1, 3]) for x in (q, k))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask).flatten(start_axis=2)
        return attn.to_out[1](attn.to_out[0](out))

    @staticmethod
    def _rotate(x, frequencies):
        pairs = paddle.as_complex(x.astype("float64").reshape([*x.shape[:-1], x.shape[-1] // 2, 2]))
        return paddle.as_real(pairs * frequencies).flatten(start_axis=3).astype(x.dtype)


def rotary_angles(grid, dim: int) -> np.ndarray:
    """Angles [tokens, dim / 2], float64: a quarter of the pairs for depth, the rest shared by height and width."""
    depth = dim // 8
    sizes = (depth, (dim // 2 - depth) // 2, dim // 2 - depth - (dim // 2 - depth) // 2)
    places = np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")
    parts = [p.reshape(-1, 1) * 10000.0 ** -(np.arange(n) / n) for p, n in zip(places, sizes, strict=True)]
    return np.concatenate(parts, axis=1)


class _StubTransformer(nn.Layer):
    """What both stubs share: patches of 2 x 2, a timestep embedding added to every token, residual blocks."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        dim = heads * head_dim
        self.head_dim = head_dim
        self.embed = nn.Linear(4 * CHANNELS, dim)
        self.text_embed = nn.Linear(TEXT_DIM, dim)
        self.time_embed = nn.Linear(dim, dim)
        self.norm_out = nn.LayerNorm(dim)
        self.proj_out = nn.Linear(dim, 4 * CHANNELS)

    def _time(self, timestep):
        dim = self.time_embed.weight.shape[0]
        rates = paddle.to_tensor(10000.0 ** -(np.arange(dim // 2) / (dim // 2)), dtype="float32")
        angles = timestep.astype("float32").reshape([-1, 1]) * rates
        return self.time_embed(paddle.concat([angles.cos(), angles.sin()], axis=-1)).unsqueeze(1)

    def _patches(self, latent):
        """[B, F, C, H, W] -> [B, F * H / 2 * W / 2, 4 * C]"""
        b, frames, channels, height, width = latent.shape
        x = latent.reshape([b, frames, channels, height // 2, 2, width // 2, 2]).transpose([0, 1, 3, 5, 2, 4, 6])
        return x.reshape([b, -1, 4 * channels])

    def _picture(self, tokens, shape):
        """Undo ``_patches``: [B, tokens, 4 * C] -> [B, F, C, H, W]"""
        b, frames, channels, height, width = shape
        x = self.proj_out(self.norm_out(tokens)).reshape([b, frames, height // 2, width // 2, channels, 2, 2])
        return x.transpose([0, 1, 4, 2, 5, 3, 6]).reshape(shape)


class StubCogVideoXBlock(nn.Layer):
    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(heads * head_dim)
        self.attn1 = StubAttention(
            heads * head_dim, heads, lambda: nn.LayerNorm(head_dim, epsilon=1e-6), StubCogVideoXProcessor()
        )

    def forward(self, video, text, rotary):
        more, more_text = self.attn1(self.norm1(video), encoder_hidden_states=self.norm1(text), image_rotary_emb=rotary)
        return video + more, text + more_text


class StubCogVideoXTransformer(_StubTransformer):
    """STUB. Latents [B, F, C, H, W]; text first; classifier-free guidance as a batch of two."""

    channels_first = False

    def __init__(self, layers: int = 2, heads: int = 2, head_dim: int = 32) -> None:
        super().__init__(heads, head_dim)
        self.config = SimpleNamespace(patch_size=2, patch_size_t=None)
        self.transformer_blocks = nn.LayerList([StubCogVideoXBlock(heads, head_dim) for _ in range(layers)])

    def forward(self, hidden_states, encoder_hidden_states, timestep, image_rotary_emb=None, return_dict=True):
        _, frames, _, height, width = hidden_states.shape
        angles = np.repeat(rotary_angles((frames, height // 2, width // 2), self.head_dim), 2, axis=1)
        rotary = tuple(paddle.to_tensor(part, dtype="float32") for part in (np.cos(angles), np.sin(angles)))
        video = self.embed(self._patches(hidden_states)) + self._time(timestep)
        text = self.text_embed(encoder_hidden_states)
        for block in self.transformer_blocks:
            video, text = block(video, text, rotary)
        return (self._picture(video, hidden_states.shape),)


class StubWanBlock(nn.Layer):
    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        dim = heads * head_dim
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn1 = StubAttention(dim, heads, lambda: nn.LayerNorm(dim), StubWanProcessor())
        self.attn2 = StubAttention(dim, heads, lambda: nn.LayerNorm(dim), StubWanProcessor())

    def forward(self, video, text, rotary):
        video = video + self.attn1(self.norm1(video), rotary_emb=rotary)
        return video + self.attn2(self.norm2(video), encoder_hidden_states=text)


class StubWanTransformer(_StubTransformer):
    """STUB. Latents [B, C, F, H, W]; text in a cross-attention; classifier-free guidance as two calls."""

    channels_first = True

    def __init__(self, layers: int = 2, heads: int = 2, head_dim: int = 32) -> None:
        super().__init__(heads, head_dim)
        self.config = SimpleNamespace(patch_size=(1, 2, 2))
        self.blocks = nn.LayerList([StubWanBlock(heads, head_dim) for _ in range(layers)])

    def forward(self, hidden_states, timestep, encoder_hidden_states, return_dict=True):
        latent = hidden_states.transpose([0, 2, 1, 3, 4])
        _, frames, _, height, width = latent.shape
        angles = rotary_angles((frames, height // 2, width // 2), self.head_dim)
        rotary = paddle.to_tensor(np.exp(1j * angles)).reshape([1, 1, *angles.shape])
        video = self.embed(self._patches(latent)) + self._time(timestep)
        text = self.text_embed(encoder_hidden_states)
        for block in self.blocks:
            video = block(video, text, rotary)
        return (self._picture(video, latent.shape).transpose([0, 2, 1, 3, 4]),)


STUBS = {"stub-cogvideox": StubCogVideoXTransformer, "stub-wan": StubWanTransformer}


class StubVideoPipeline:
    """STUB of a text-to-video pipeline: Euler steps from noise, a bilinear enlargement in place of a VAE."""

    def __init__(self, name: str, seed: int = 0, **shape) -> None:
        paddle.seed(seed)
        self.transformer = STUBS[name](**shape)
        self.transformer.eval()

    @paddle.no_grad()
    def __call__(
        self, prompt, *, height, width, num_frames, num_inference_steps, guidance_scale=5.0, seed=0, on_step=None
    ):
        """Frames in [0, 1], float32 [num_frames, height, width, 3]; on_step: called with the number of each step."""
        rng = np.random.default_rng(seed)
        size = ((num_frames - 1) // VAE_SCALE[0] + 1, CHANNELS, height // VAE_SCALE[1], width // VAE_SCALE[2])
        latent = paddle.to_tensor(rng.standard_normal((1, *size)), dtype="float32")
        texts = [self._text(prompt), self._text("")] if guidance_scale > 1 else [self._text(prompt)]
        sigmas = np.linspace(1.0, 0.0, num_inference_steps + 1)
        for step, (now, then) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True), start=1):
            flows = self._flows(latent, texts, paddle.to_tensor([1000.0 * now]))
            flow = flows[0] if len(flows) == 1 else flows[1] + guidance_scale * (flows[0] - flows[1])
            latent = latent + float(then - now) * flow
            if on_step is not None:
                on_step(step)
        return self._decode(latent[0], num_frames, height, width)

    def _flows(self, latent, texts, timestep) -> list:
        if self.transformer.channels_first:
            video = latent.transpose([0, 2, 1, 3, 4])
            calls = [self.transformer(hidden_states=video, timestep=timestep, encoder_hidden_states=t) for t in texts]
            return [call[0].transpose([0, 2, 1, 3, 4]) for call in calls]
        n = len(texts)
        video, timestep = paddle.concat([latent] * n), timestep.expand([n])
        return self.transformer(video, paddle.concat(texts), timestep=timestep)[0].chunk(n)

    @staticmethod
    def _text(prompt: str):
        """[1, TEXT_LENGTH, TEXT_DIM], the same for the same prompt."""
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "little")
        values = np.random.default_rng(seed).standard_normal((1, TEXT_LENGTH, TEXT_DIM))
        return paddle.to_tensor(values, dtype="float32")

    @staticmethod
    def _decode(latent, num_frames: int, height: int, width: int) -> np.ndarray:
        large = F.interpolate(latent[:, :3], size=[height, width], mode="bilinear", align_corners=False)
        index = np.minimum(np.arange(num_frames) / VAE_SCALE[0], latent.shape[0] - 1)
        frames, part = large.numpy(), (index % 1).reshape(-1, 1, 1, 1)
        first, second = np.floor(index).astype(int), np.ceil(index).astype(int)
        mixed = frames[first] * (1 - part) + frames[second] * part
        return (1 / (1 + np.exp(-mixed / math.sqrt(2)))).transpose(0, 2, 3, 1).astype(np.float32)
