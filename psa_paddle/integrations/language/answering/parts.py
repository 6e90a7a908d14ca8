"""The parts of a PaddleFormers model that an answer is made with, one after another."""

from __future__ import annotations

import numpy as np
import paddle

from ..families import Match
from .media import Medium, portions
from .reports import Report


class Parts:
    """Vision tower, embedding, text model and head of a model, its processor, and its row of the families.

    vision_tokens: the token that stands for ``"image"`` and ``"video"``.
    """

    def __init__(self, model, processor, match: Match):
        self.model, self.processor = model, processor
        self.tower, self.text, self.head = match.layout.tower_of(model), match.layout.text_of(model), model.lm_head
        names = match.family.vision_tokens
        self.vision_tokens = {name.removesuffix("_token_id"): getattr(model.config, name) for name in names}

    @property
    def layers(self) -> int:
        """Layers of the text model."""
        return len(self.text.layers)

    def new_cache(self):
        """An empty KV cache that keeps every key, also where a layer slides."""
        from paddleformers.transformers.cache_utils import DynamicCache

        return DynamicCache()

    def tokens_of(self, medium: Medium) -> int:
        """How many tokens a medium takes in the prompt."""
        return medium.patches // self.tower.spatial_merge_size**2

    def look(self, media: list[Medium], report: Report) -> paddle.Tensor | None:
        """What the vision tower makes of the media, [tokens, hidden] in their order; None without media."""
        total, done, features = sum(medium.patches for medium in media), 0, []
        dtype = self.tower.patch_embed.proj.weight.dtype
        for medium in media:
            for pixels, grid in portions(self.processor, medium):
                features.append(self.tower(pixels.astype(dtype), grid_thw=paddle.to_tensor([grid])))
                done += grid[0] * grid[1] * grid[2]
                report("vision", done, total)
        return paddle.concat(features) if features else None

    def embed(self, ids: np.ndarray, features: paddle.Tensor | None) -> paddle.Tensor:
        """Embeddings [B, L, hidden] of tokens [B, L], with the tower's features in the places of vision tokens."""
        embeds = self.text.embed_tokens(paddle.to_tensor(ids)).astype(self.text.embed_tokens.weight.dtype)
        if features is None:
            return embeds
        places = np.flatnonzero(np.isin(ids, list(self.vision_tokens.values())))
        if len(places) != features.shape[0]:
            raise RuntimeError(f"{len(places)} vision tokens, but the tower gave {features.shape[0]}.")
        flat = embeds.reshape([-1, embeds.shape[-1]])
        return paddle.scatter(flat, paddle.to_tensor(places), features.astype(embeds.dtype)).reshape(embeds.shape)

    def positions(self, ids: np.ndarray, media: list[Medium], mask: np.ndarray | None):
        """M-RoPE's positions [3, B, L] of whole conversations, and [B, 1], the position of the token after each."""
        grids = {kind: [list(m.grid) for m in media if m.kind == kind] for kind in ("image", "video")}
        seconds = [m.seconds for m in media if m.kind == "video"]
        positions, deltas = self.model.model.get_rope_index(
            input_ids=paddle.to_tensor(ids),
            image_grid_thw=paddle.to_tensor(grids["image"]) if grids["image"] else None,
            video_grid_thw=paddle.to_tensor(grids["video"]) if grids["video"] else None,
            second_per_grid_ts=paddle.to_tensor(seconds) if seconds else None,
            attention_mask=None if mask is None else paddle.to_tensor(mask),
        )
        if mask is not None and not media:  # the library then keeps one number, the first sample's
            deltas = paddle.to_tensor(mask.sum(1, keepdims=True) - mask.shape[1])
        return positions, deltas.reshape([-1, 1]).astype("int64") + ids.shape[1]

    def logits(self, embeds, positions, cache, mask: np.ndarray | None) -> paddle.Tensor:
        """One forward of the text model on rows [B, L, hidden] after what the cache holds; logits [B, vocabulary] of
        the last row. mask: [B, cached + L], 0 where padding stands."""
        out = self.text(
            inputs_embeds=embeds,
            position_ids=positions,
            past_key_values=cache,
            attention_mask=None if mask is None else paddle.to_tensor(mask),
            use_cache=True,
            return_dict=True,
        )
        return self.head(out.last_hidden_state[:, -1:])[:, -1]
