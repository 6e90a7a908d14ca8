"""The parts of a PaddleFormers model that an answer is made with, one after another."""

from __future__ import annotations

from itertools import chain

import numpy as np
import paddle
import paddle.nn.functional as F

from ..families import Match
from ..team import ALONE, Team
from .media import Medium, portions
from .prompt import expand
from .reports import Report

END_TOKENS = ("<|im_end|>", "<|endoftext|>")


class Parts:
    """Vision tower, embedding, text model and head of a model, its processor, and its row of the families.

    vision_tokens: the token that stands for ``"image"`` and ``"video"``; none for a model of text alone.

    A row of a prompt is an embedding, [hidden], behind which stands what the vision tower gives for each of the first
    layers to add (Qwen3-VL's deepstack), [layers x hidden], zeros for text; nothing where no tower gives any.
    """

    def __init__(self, model, processor, match: Match, team: Team = ALONE):
        self.model, self.processor, self.family, self._team = model, processor, match.family, team
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

    def tokens_of(self, text: str, media: list[Medium]) -> list[int]:
        """The tokens of a chat template's text, each medium with as many as the tower gives for it."""
        text, places = self._places(text, media)
        ids = self.processor.tokenizer(text)["input_ids"]
        return expand(ids, places, self.vision_tokens)

    def _places(self, text: str, media: list[Medium]) -> tuple[str, list[tuple[str, int]]]:
        """The text with a vision token for each place, and kind and length of the places. A clip is one place, or one
        for each pair of frames, with its time before it, where the model is told times in words."""
        places, stamps = [], []
        for medium in media:
            tokens = medium.patches // self.tower.spatial_merge_size**2
            stamped = medium.kind == "video" and self.family.time_stamps
            count = medium.grid[0] if stamped else 1
            places += [(medium.kind, tokens // count)] * count
            if stamped:
                stamps.append(np.array(medium.times).reshape([count, -1]).mean(1))
        if not stamps:
            return text, places
        names = ("vision_start_token", "video_token", "vision_end_token")
        clip = "".join(getattr(self.processor, name) for name in names)
        between = text.split(clip)
        told = ["".join(f"<{seconds:.1f} seconds>{clip}" for seconds in times) for times in stamps]
        if len(between) != len(told) + 1:
            raise RuntimeError(f"the prompt has {len(between) - 1} places for {len(told)} clips.")
        return "".join(chain.from_iterable(zip(between, [*told, ""], strict=True))), places

    def end_tokens(self) -> list[int]:
        """The tokens that end an answer."""
        tokenizer, names = self.processor.tokenizer, self.processor.tokenizer.get_vocab()
        said = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        ends = [names[name] for name in END_TOKENS if name in names] + [tokenizer.eos_token_id]
        return sorted({end for end in [*ends, *(said if isinstance(said, list) else [said])] if end is not None})

    def padding(self) -> int:
        """The token that fills up a batch."""
        pad = self.processor.tokenizer.pad_token_id
        return self.end_tokens()[0] if pad is None else pad

    def look(self, media: list[Medium], report: Report) -> paddle.Tensor | None:
        """What the vision tower makes of the media, the rows of their tokens in their order; None without media."""
        if not media:
            return None
        total, done, features = sum(medium.patches for medium in media), 0, []
        dtype = self.tower.patch_embed.proj.weight.dtype
        for medium in media:
            for pixels, grid in portions(self.processor, medium):
                seen = self.tower(pixels.astype(dtype), grid_thw=paddle.to_tensor([grid]))
                features.append(paddle.concat([seen[0], *seen[1]], -1) if isinstance(seen, tuple) else seen)
                done += grid[0] * grid[1] * grid[2]
                report("vision", done, total)
        return self._team.of_first(paddle.concat(features))

    def embed(self, ids: np.ndarray, features: paddle.Tensor | None) -> paddle.Tensor:
        """The rows of tokens [B, L], with the tower's features in the places of vision tokens."""
        embeds = self.text.embed_tokens(paddle.to_tensor(ids)).astype(self.text.embed_tokens.weight.dtype)
        if features is None:
            return embeds
        places = np.flatnonzero(np.isin(ids, list(self.vision_tokens.values())))
        if len(places) != features.shape[0]:
            raise RuntimeError(f"{len(places)} vision tokens, but the tower gave {features.shape[0]}.")
        hidden, wide = embeds.shape[-1], features.shape[-1]
        flat = F.pad(embeds.reshape([-1, hidden]), [0, wide - hidden])
        rows = paddle.scatter(flat, paddle.to_tensor(places), features.astype(embeds.dtype))
        return rows.reshape([*embeds.shape[:2], wide])

    def positions(self, ids: np.ndarray, media: list[Medium], mask: np.ndarray | None):
        """M-RoPE's positions [3, B, L] of whole conversations, and [B, 1], the position of the token after each; of
        text alone three times the same."""
        if self.tower is None:
            real = np.ones_like(ids) if mask is None else mask
            counted = np.maximum(real.cumsum(1) - 1, 0)
            positions = paddle.to_tensor(counted).unsqueeze(0).expand([3, *ids.shape])
            return positions, paddle.to_tensor(counted[:, -1:] + 1)
        grids = {kind: [list(m.grid) for m in media if m.kind == kind] for kind in ("image", "video")}
        seconds = [m.seconds for m in media if m.kind == "video" and not self.family.time_stamps]
        positions, deltas = self.model.model.get_rope_index(
            input_ids=paddle.to_tensor(ids),
            image_grid_thw=paddle.to_tensor(grids["image"]) if grids["image"] else None,
            video_grid_thw=paddle.to_tensor(grids["video"]) if grids["video"] else None,
            attention_mask=None if mask is None else paddle.to_tensor(mask),
            **({"second_per_grid_ts": paddle.to_tensor(seconds)} if seconds else {}),
        )
        if mask is not None and not media:  # the library then keeps one number, the first sample's
            deltas = paddle.to_tensor(mask.sum(1, keepdims=True) - mask.shape[1])
        return positions, deltas.reshape([-1, 1]).astype("int64") + ids.shape[1]

    def logits(self, embeds, positions, cache, mask: np.ndarray | None) -> paddle.Tensor:
        """One forward of the text model on rows [B, L, ...] after what the cache holds; logits [B, vocabulary] of the
        last row. mask: [B, cached + L], 0 where padding stands."""
        hidden = self.text.config.hidden_size
        out = self.text(
            inputs_embeds=embeds[..., :hidden],
            position_ids=positions[0] if self.tower is None else positions,
            past_key_values=cache,
            attention_mask=None if mask is None else paddle.to_tensor(mask),
            use_cache=True,
            return_dict=True,
            **self._added(embeds[..., hidden:], hidden),
        )
        return self.head(out.last_hidden_state[:, -1:])[:, -1]

    @staticmethod
    def _added(rows, hidden: int) -> dict:
        """What the first layers add to the rows, as the text model takes it."""
        if rows.shape[-1] == 0:
            return {}
        layers = rows.reshape([-1, rows.shape[-1]]).split(rows.shape[-1] // hidden, -1)
        return {"visual_pos_masks": paddle.ones(rows.shape[:2], "bool"), "deepstack_visual_embeds": layers}
