"""A stand-in for PaddleMIX's Qwen2.5-VL: class names, call signatures, KV cache tuples, masks; random weights."""

from types import SimpleNamespace

import paddle
import paddle.nn.functional as F
from paddle import nn

VIDEO, IMAGE = 90, 91
HEADS, KV_HEADS, DIM, LAYERS, VOCABULARY = 4, 2, 32, 2, 100


def rotate(x, cos, sin, sections):
    """M-RoPE, channel by channel: cos, sin [3, B, L, D]."""
    owner = sum(([i] * n for i, n in enumerate(sections)), []) * 2
    cos, sin = (paddle.stack([table[a, :, :, c] for c, a in enumerate(owner)], axis=-1) for table in (cos, sin))
    half = x.shape[-1] // 2
    turned = paddle.concat([-x[..., half:], x[..., :half]], axis=-1)
    return x * cos.unsqueeze(1) + turned * sin.unsqueeze(1)


class Rotary(nn.Layer):
    def forward(self, x, position_ids):
        rates = 10000.0 ** -(paddle.arange(0, DIM, 2).astype("float32") / DIM)
        angles = position_ids.astype("float32").unsqueeze(-1) * rates
        angles = paddle.concat([angles, angles], axis=-1)
        return angles.cos(), angles.sin()


class Qwen2_5_VLAttention(nn.Layer):
    """Eager: reads the additive mask."""

    def __init__(self, layer_idx):
        super().__init__()
        self.layer_idx, self.is_causal, self.attention_dropout = layer_idx, True, 0.0
        self.num_heads, self.num_key_value_heads, self.head_dim = HEADS, KV_HEADS, DIM
        self.rope_scaling = {"mrope_section": [4, 6, 6]}
        width = HEADS * DIM
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, KV_HEADS * DIM)
        self.v_proj, self.o_proj = nn.Linear(width, KV_HEADS * DIM), nn.Linear(width, width, bias_attr=False)
        self.rotary_emb = Rotary()

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_ids=None,
        past_key_value=None,
        output_attentions=False,
        use_cache=False,
        cache_position=None,
        position_embeddings=None,
    ):
        b, length, width = hidden_states.shape
        q, k, v = (
            project(hidden_states).reshape([b, length, heads, DIM]).transpose([0, 2, 1, 3])
            for project, heads in ((self.q_proj, HEADS), (self.k_proj, KV_HEADS), (self.v_proj, KV_HEADS))
        )
        q, k = (rotate(x, *position_embeddings, self.rope_scaling["mrope_section"]) for x in (q, k))
        if past_key_value is not None:
            k, v = (paddle.concat([old, new], axis=2) for old, new in zip(past_key_value, (k, v), strict=True))
        cache = (k, v) if use_cache else None
        k, v = (x.repeat_interleave(HEADS // KV_HEADS, axis=1) for x in (k, v))
        out = self._attend(q, k, v, attention_mask).transpose([0, 2, 1, 3])
        return self.o_proj(out.reshape([b, length, width])), None, cache

    def _attend(self, q, k, v, mask):
        return F.softmax(q @ k.transpose([0, 1, 3, 2]) / DIM**0.5 + mask, axis=-1) @ v


class Qwen2_5_VLSdpaAttention(Qwen2_5_VLAttention):
    """Ignores the mask."""

    def _attend(self, q, k, v, mask):
        q, k, v = (x.transpose([0, 2, 1, 3]) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[1] > 1).transpose([0, 2, 1, 3])


class Qwen2_5_VLFlashAttention2(Qwen2_5_VLSdpaAttention):
    """Gets no mask."""


CLASSES = {
    "eager": Qwen2_5_VLAttention,
    "sdpa": Qwen2_5_VLSdpaAttention,
    "flash_attention_2": Qwen2_5_VLFlashAttention2,
}


class DecoderLayer(nn.Layer):
    def __init__(self, kind, index):
        super().__init__()
        self.norm = nn.LayerNorm(HEADS * DIM)
        self.self_attn = CLASSES[kind](index)

    def forward(self, hidden_states, **keywords):
        out, _, cache = self.self_attn(hidden_states=self.norm(hidden_states), **keywords)
        return hidden_states + out, cache


class Qwen2_5_VLModel(nn.Layer):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(VOCABULARY, HEADS * DIM)
        self.layers = nn.LayerList([DecoderLayer(config._attn_implementation, i) for i in range(LAYERS)])
        self.rotary_emb = Rotary()

    @staticmethod
    def _prepare_decoder_attention_mask(attention_mask, input_shape, past_key_values_length, dtype):
        length, keys = input_shape[1], input_shape[1] + past_key_values_length
        causal = paddle.tril(paddle.ones([length, keys], dtype="bool"), keys - length)
        seen = causal.unsqueeze([0, 1]) & attention_mask.astype("bool").unsqueeze([1, 2])
        return paddle.where(seen, 0.0, -1e30)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
    ):
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        past_key_values = past_key_values or [None] * LAYERS
        past = 0 if past_key_values[0] is None else past_key_values[0][0].shape[2]
        if attention_mask is None:
            attention_mask = paddle.ones([x.shape[0], x.shape[1] + past], dtype="bool")
        mask = None
        if self.config._attn_implementation != "flash_attention_2":
            mask = self._prepare_decoder_attention_mask(attention_mask, x.shape[:2], past, x.dtype)
        if position_ids is None:
            position_ids = paddle.arange(past, past + x.shape[1]).reshape([1, 1, -1]).expand([3, x.shape[0], -1])
        keywords = {"attention_mask": mask, "position_ids": position_ids, "output_attentions": bool(output_attentions)}
        keywords.update(use_cache=use_cache, position_embeddings=self.rotary_emb(x, position_ids))
        caches = ()
        for layer, cache in zip(self.layers, past_key_values, strict=True):
            x, new = layer(x, past_key_value=cache, **keywords)
            caches += (new,)
        return x, caches


class Qwen2_5_VLForConditionalGeneration(nn.Layer):
    def __init__(self, attn_implementation="eager", seed=0):
        super().__init__()
        paddle.seed(seed)
        self.config = SimpleNamespace(
            _attn_implementation=attn_implementation,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            tie_word_embeddings=False,
        )
        self.model = Qwen2_5_VLModel(self.config)
        self.lm_head = nn.Linear(HEADS * DIM, VOCABULARY, bias_attr=False)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
        **kwargs,
    ):
        if inputs_embeds is None:
            inputs_embeds = self.model.embed_tokens(input_ids)
        hidden, caches = self.model(
            input_ids=None,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
        )
        return SimpleNamespace(logits=self.lm_head(hidden), past_key_values=caches)

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, past_key_values=None, **kwargs):
        places = (attention_mask.astype("int64").cumsum(-1) - 1).clip(min=0)
        if past_key_values is not None:
            input_ids, places = input_ids[:, -1:], places[:, -1:]
        position_ids = places.unsqueeze(0).expand([3, -1, -1])
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": True,
        }

    def update_model_kwargs_for_generation(self, outputs, model_kwargs, is_encoder_decoder=False):
        mask = model_kwargs["attention_mask"]
        one = paddle.ones([mask.shape[0], 1], dtype=mask.dtype)
        return {
            **model_kwargs,
            "past_key_values": outputs.past_key_values,
            "attention_mask": paddle.concat([mask, one], axis=1),
        }

    def generate(self, input_ids, attention_mask=None, max_new_tokens=4, **kwargs):
        """New tokens [B, max_new_tokens], greedy, and None."""
        length = input_ids.shape[1]
        kwargs["attention_mask"] = paddle.ones_like(input_ids) if attention_mask is None else attention_mask
        for _ in range(max_new_tokens):
            outputs = self(**self.prepare_inputs_for_generation(input_ids, **kwargs))
            kwargs = self.update_model_kwargs_for_generation(outputs, kwargs)
            input_ids = paddle.concat([input_ids, outputs.logits[:, -1].argmax(-1, keepdim=True)], axis=1)
        return input_ids[:, length:], None
