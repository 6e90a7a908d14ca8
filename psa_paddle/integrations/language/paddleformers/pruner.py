"""Drop video tokens of a PaddleFormers model between its vision tower and its first layer, and stop doing so.

The tower sees every frame; the text model gets fewer rows, each with the position that it has in the whole prompt. So
does the KV cache, beside which a note says which columns of a mask its rows stand for: ``generate`` keeps counting the
whole prompt.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import paddle

from ....video_tokens import check_video_tokens, choose
from ...patches import Patches
from .. import families
from ..plugs import bare_model

PRUNER = "_psa_pruner"  # attribute of a model whose video tokens are dropped; gone afterwards
NOTE = "_psa_rows"  # attribute of a KV cache that lacks some: its ``Rows``


@dataclass(frozen=True)
class Rows:
    """What the first rows of a pruned prompt stand for.

    columns: int64 [B, rows], places in the whole prompt, -1 for padding; seen: tokens that it had. Rows after these are
    the tokens after those.
    """

    columns: np.ndarray
    seen: int

    def of_mask(self, mask: paddle.Tensor | None, rows: int) -> paddle.Tensor | None:
        """The mask [B, rows] of a whole mask [B, seen and more], which None stands for where it masks nothing."""
        real = self.columns >= 0
        if mask is None:
            if real.all():
                return None
            mask = paddle.ones([len(real), self.seen + rows - real.shape[1]], "int64")
        kept = paddle.take_along_axis(mask[:, : self.seen], paddle.to_tensor(self.columns.clip(0)), 1)
        kept = kept * paddle.to_tensor(real).astype(kept.dtype)
        return paddle.concat([kept, mask[:, self.seen :]], 1)

    def then(self, cached: int, new: np.ndarray, tokens: int) -> Rows:
        """The note after a further forward, of which ``new`` rows of ``tokens`` are left; cached: rows before it."""
        between = self.seen + np.arange(cached - self.columns.shape[1])
        seen = self.seen + len(between)
        between = np.broadcast_to(between, (len(new), len(between)))
        return Rows(np.concatenate([self.columns, between, np.where(new < 0, -1, new + seen)], 1), seen + tokens)


class Pruner:
    """Drops video tokens of one model; how: ``"auto"`` or a share. clips: what was done to each clip since ``reset``,
    bool [frames, places] of what stayed."""

    def __init__(self, model, how: float | str):
        self.how = how
        self.clips: list[np.ndarray] = []
        family, _, layout = families.check(model)
        if not layout.prunes_video:
            raise ValueError(f"video_tokens needs PaddleFormers' Qwen2.5-VL, not {family.name} as this model is built.")
        self._model, self._text = model, layout.text_of(model)
        self._asked: tuple | None = None
        self._patches = Patches()

    def connect(self) -> None:
        """Stand between the model's vision tower and its text model, before any plug."""
        self._patches.attribute(self._model, PRUNER, self)
        self._patches.pre_hook(self._model.model, self._before_model)
        self._patches.pre_hook(self._text, self._before_text, first=True)

    def disconnect(self) -> None:
        """Let the text model read all tokens again."""
        self._patches.undo()

    def reset(self) -> None:
        """Forget the clips so far."""
        self.clips.clear()

    def summary(self) -> dict:
        """In plain types: the setting, how many video tokens there were since ``reset`` and how many of them were
        dropped, and of each clip how many a frame has and how many were dropped of each frame."""
        clips = [{"tokens_of_a_frame": c.shape[1], "dropped_of_frames": (~c).sum(1).tolist()} for c in self.clips]
        dropped = sum(sum(clip["dropped_of_frames"]) for clip in clips)
        return {"setting": self.how, "tokens": sum(c.size for c in self.clips), "dropped": dropped, "clips": clips}

    def stays(self, ids: np.ndarray, embeds: paddle.Tensor, grids) -> np.ndarray:
        """Which tokens stay, bool [B, L], and a note of it in ``clips``.

        ids: [B, L]; embeds: [B, L, hidden], the clips' tokens in their places; grids: frames, height and width of each
        clip in patches, in the order of the batch.
        """
        config, stay = self._model.config, np.ones(ids.shape, bool)
        merge = config.vision_config.spatial_merge_size
        places, rows = np.flatnonzero(ids == config.video_token_id), embeds.reshape([-1, embeds.shape[-1]])
        for frames, height, width in np.asarray(grids).tolist():
            each = height * width // merge**2
            clip, places = places[: frames * each], places[frames * each :]
            tokens = paddle.gather(rows, paddle.to_tensor(clip)).reshape([frames, each, -1])
            kept = choose(tokens, self.how)
            stay.ravel()[clip] = kept.ravel()
            self.clips.append(kept)
        return stay

    def _before_model(self, layer, args, kwargs) -> None:
        """Remember the tokens of a forward that brings clips."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        shown = ids is not None and kwargs.get("pixel_values_videos") is not None
        self._asked = (ids, kwargs["video_grid_thw"]) if shown else None

    def _before_text(self, layer, args, kwargs):
        """Hand the text model fewer rows, and a mask for the rows that its cache has."""
        asked, self._asked = self._asked, None
        cache, embeds, mask = (kwargs.get(name) for name in ("past_key_values", "inputs_embeds", "attention_mask"))
        note, cached = getattr(cache, NOTE, None), 0 if cache is None else cache.get_seq_length()
        if asked is None and note is None:
            return None
        check_masks(mask, kwargs.get("attn_mask_startend_row_indices"))
        if asked is not None:
            ids, stay = asked[0].numpy(), self.stays(asked[0].numpy(), embeds, asked[1].numpy())
            if not stay.all():
                new = columns_of(stay, None if mask is None else mask[:, -ids.shape[1] :].numpy())
                note = (note or Rows(new[:, :0], 0)).then(cached, new, ids.shape[1])
                cache = self._cache(cache, kwargs)
                if cache is not None:
                    setattr(cache, NOTE, note)
                embeds = cut(embeds, new, 0)
                positions = cut(kwargs["position_ids"], new, 1)
                kwargs.update(inputs_embeds=embeds, position_ids=positions, past_key_values=cache, cache_position=None)
        if note is not None:
            kwargs["attention_mask"] = note.of_mask(mask, cached + embeds.shape[1])
        return args, kwargs

    def _cache(self, cache, kwargs):
        """The cache that the text model would make, made before it, so that the note has a place; None for none."""
        use = kwargs.get("use_cache")
        if cache is not None or not (self._text.config.use_cache if use is None else use):
            return cache
        from paddleformers.transformers.cache_utils import DynamicCache

        return DynamicCache(config=self._text.config)


def check_masks(mask, row_indices) -> None:
    """Refuse what cannot be cut to fewer rows; ValueError."""
    if row_indices is not None or (mask is not None and mask.ndim != 2):
        raise ValueError("video_tokens needs a mask of two axes, [B, L]; give that, or video_tokens=None.")


def cut(x: paddle.Tensor, columns: np.ndarray, axis: int) -> paddle.Tensor:
    """Of x [..., B, L, ...] the columns [B, rows], [..., B, rows, ...]; axis: the batch's. -1 may bring any."""
    shape, (batch, rows) = list(x.shape), columns.shape
    flat = (columns.clip(0) + shape[axis + 1] * np.arange(batch)[:, None]).ravel()
    ends = shape[:axis], shape[axis + 2 :]
    x = x.reshape([*ends[0], batch * shape[axis + 1], *ends[1]])
    return paddle.gather(x, paddle.to_tensor(flat), axis=axis).reshape([*ends[0], batch, rows, *ends[1]])


def columns_of(stay: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The places of what stays, int64 [B, rows], padded on the left with -1; padding that stood there goes.

    stay: bool [B, L]; mask: [B, L], 0 where padding stands.
    """
    if mask is not None:
        stay = stay & np.logical_or.accumulate(mask.astype(bool), 1)
    found = [np.flatnonzero(row) for row in stay]
    longest = max(map(len, found))
    return np.stack([np.pad(row, (longest - len(row), 0), constant_values=-1) for row in found])


def pruner_of(model) -> Pruner | None:
    """What drops the model's video tokens, with ``summary`` and ``reset``; None where nothing does."""
    return getattr(bare_model(model), "__dict__", {}).get(PRUNER)


def prune_video_tokens(model, video_tokens: float | str):
    """Make a model read fewer tokens of its clips, until ``keep_video_tokens``; returns the model.

    The logits of a forward, and labels for them, are of what is left; ``generate`` needs nothing else. A model that
    drops tokens already gets the new setting.

    Args:
        model: PaddleFormers' Qwen2.5-VL; a ``QwenVLInference`` stands for its model.
        video_tokens: ``"auto"`` or a share, see ``video_tokens.choose``.

    Raises:
        TypeError, ValueError: another model, or no such setting.
    """
    bare, how = bare_model(model), check_video_tokens(video_tokens)
    if how is None:
        raise ValueError("video_tokens must be 'auto' or a share; keep_video_tokens reads all.")
    pruner = Pruner(bare, how)
    keep_video_tokens(bare)
    pruner.connect()
    return model


def keep_video_tokens(model):
    """Undo ``prune_video_tokens``; does nothing on a model that reads all its tokens. Returns the model."""
    pruner = pruner_of(model)
    if pruner is not None:
        pruner.disconnect()
    return model


@contextmanager
def video_tokens_in(model, video_tokens: float | str):
    """``with video_tokens_in(model, 0.5): ...`` puts back what was before, whatever happens inside."""
    before = pruner_of(model)
    try:
        yield prune_video_tokens(model, video_tokens)
    finally:
        keep_video_tokens(model)
        if before is not None:
            before.connect()
