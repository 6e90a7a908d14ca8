"""PaddleMIX's vision tower, of which a stand-in has the call signatures: the same outcome without its mask."""

import copy

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from shared_paddlemix import Qwen2_5_VLForConditionalGeneration

from psa_paddle.integrations.language.paddleformers.fast import fast_layers_in, use_fast_layers, use_own_layers

HEADS, DIM = 2, 16
WIDTH = HEADS * DIM


class Qwen2_5_VLVisionAttention(nn.Layer):
    """With a mask over all patches."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.calls = HEADS, 0
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden_states, cu_seqlens, rotary_pos_emb=None):
        self.calls += 1
        length = hidden_states.shape[0]
        q, k, v = self.qkv(hidden_states).reshape([length, 3, HEADS, DIM]).transpose([1, 2, 0, 3]).unbind(0)
        cos, sin = (table.tile([1, 2]) for table in (rotary_pos_emb.cos(), rotary_pos_emb.sin()))
        q, k = (x * cos + paddle.concat([-x[..., DIM // 2 :], x[..., : DIM // 2]], -1) * sin for x in (q, k))
        segment = np.searchsorted(cu_seqlens.numpy()[1:], np.arange(length), side="right")
        mask = paddle.to_tensor(np.where(segment[:, None] == segment, 0.0, -1e30).astype(np.float32))
        out = F.softmax(q @ k.transpose([0, 2, 1]) / DIM**0.5 + mask) @ v
        return self.proj(out.transpose([1, 0, 2]).reshape([length, WIDTH]))


class Qwen2_5_VLVisionFlashAttention2(Qwen2_5_VLVisionAttention):
    pass


class Tower(nn.Layer):
    def __init__(self, kind):
        super().__init__()
        self.patch_embed = nn.Layer()
        self.patch_embed.proj = nn.Conv3D(3, WIDTH, (2, 4, 4), (2, 4, 4), bias_attr=False)
        self.patch_embed.forward = lambda x: self.patch_embed.proj(x.reshape([-1, 3, 2, 4, 4])).reshape([-1, WIDTH])
        self.blocks = nn.LayerList([nn.Layer() for _ in range(2)])
        for block in self.blocks:
            block.attn = kind()

    def forward(self, pixels, lengths):
        ends = paddle.to_tensor(np.cumsum([0, *lengths]).astype(np.int32))
        angles = paddle.arange(pixels.shape[0], dtype="float32").unsqueeze(1) * paddle.linspace(1.0, 0.01, DIM // 2)
        x = self.patch_embed(pixels)
        for block in self.blocks:
            x = x + block.attn(x, cu_seqlens=ends, rotary_pos_emb=angles)
        return x


@pytest.fixture(params=[Qwen2_5_VLVisionAttention, Qwen2_5_VLVisionFlashAttention2], ids=["mask", "flash"])
def model(request):
    model = Qwen2_5_VLForConditionalGeneration()
    model.visual = Tower(request.param)
    return model


def calls(model) -> list[int]:
    return [block.attn.calls for block in model.visual.blocks]


def test_sees_the_same_without_a_mask_and_as_before_afterwards(model):
    pixels, lengths = paddle.randn([21, 96]), [4, 8, 4, 5]
    flash = "Flash" in type(model.visual.blocks[0].attn).__name__
    with paddle.no_grad():
        own = model.visual(pixels, lengths).numpy()
        with fast_layers_in(model):
            fast = model.visual(pixels, lengths).numpy()
        assert calls(model) == [2 if flash else 1] * 2
        assert np.array_equal(model.visual(pixels, lengths).numpy(), own)
    assert np.abs(fast - own).max() <= 1e-5 * np.abs(own).max()
    assert not [name for name, layer in model.named_sublayers() if "forward" in vars(layer) and "embed" not in name]


def test_where_gradients_are_wanted_layers_attend_as_before(model):
    with fast_layers_in(model):
        model.visual(paddle.randn([8, 96]), [4, 4]).sum().backward()
    assert calls(model) == [1, 1]


def test_a_model_without_a_tower(model):
    del model.visual
    twin = copy.deepcopy(use_fast_layers(model))
    for one in (model, twin):
        use_own_layers(one)
        assert not [name for name in vars(one) if name.startswith("_psa")]
