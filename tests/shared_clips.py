"""Prompts with clips for the tiny model, and what it says of them where dropped tokens are masked instead."""

import numpy as np
import paddle
from shared_tiny import IMAGE, VIDEO, VISION_END, VISION_START

GRID = (6, 4, 4)  # frames, height and width in patches
PLACES = 4  # tokens of a frame
CHANGES = 0.4  # share of the patches of a frame that are new; the others are those of the frame before


def clip_pixels(rng) -> np.ndarray:
    """Patches of a clip of which some places stand still: a token's four patches change together."""
    frames = rng.standard_normal((GRID[0], PLACES, 4 * 3 * 2 * 14 * 14)).astype(np.float32)
    for i in range(1, GRID[0]):
        still = rng.random(PLACES) >= CHANGES
        frames[i][still] = frames[i - 1][still]
    return frames.reshape(-1, 3 * 2 * 14 * 14)


def clip_prompts(samples, seed=0, mask=True) -> dict:
    """A left-padded batch; each sample is a list of numbers, so many tokens of text, and of ``"clip"`` and
    ``"image"``."""
    rng, rows, clips, images = np.random.default_rng(seed), [], [], []
    for sample in samples:
        row = []
        for part in sample:
            if part == "clip":
                row += [VISION_START, *[VIDEO] * (GRID[0] * PLACES), VISION_END]
                clips.append(clip_pixels(rng))
            elif part == "image":
                row += [VISION_START, *[IMAGE] * 16, VISION_END]
                images.append(rng.standard_normal((64, 3 * 2 * 14 * 14)).astype(np.float32))
            else:
                row += rng.integers(2, IMAGE, part).tolist()
        rows.append(row)
    longest = max(map(len, rows))
    ids, real = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :], real[i, longest - len(row) :] = row, 1
    inputs = {"input_ids": ids, "attention_mask": real if mask else None}
    if clips:
        seconds = rng.uniform(0.5, 3, len(clips)).astype(np.float32)
        inputs |= {"pixel_values_videos": np.concatenate(clips), "video_grid_thw": np.array([GRID] * len(clips))}
        inputs["second_per_grid_ts"] = seconds
    if images:
        inputs |= {"pixel_values": np.concatenate(images), "image_grid_thw": np.array([[1, 8, 8]] * len(images))}
    return {name: paddle.to_tensor(value) for name, value in inputs.items() if value is not None}


def stays(model, inputs, how) -> np.ndarray:
    """Which tokens stay, bool [B, L]: ``choose`` of the tower's tokens of each clip."""
    from psa_paddle.video_tokens import choose

    ids = inputs["input_ids"].numpy()
    stay = np.ones(ids.shape, bool)
    if "pixel_values_videos" in inputs:
        with paddle.no_grad():
            clips = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
        stay[ids == VIDEO] = np.concatenate([choose(c.reshape([GRID[0], PLACES, -1]), how).ravel() for c in clips])
    return stay


def masked_logits(model, inputs, stay, ids=None) -> paddle.Tensor:
    """Logits [B, L, vocabulary] of the whole prompt where nothing sees the keys that do not stay; ids: the prompt's and
    some after them."""
    prompt, mask = inputs["input_ids"], inputs.get("attention_mask")
    ids = prompt if ids is None else ids
    more = ids.shape[1] - prompt.shape[1]
    mask = paddle.ones_like(prompt) if mask is None else mask
    mask = paddle.concat([mask, paddle.ones([len(prompt), more], "int64")], 1)
    media = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    grids = {name: media.get(name) for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")}
    positions, _ = model.model.get_rope_index(ids, **grids, attention_mask=mask)
    seen = mask.numpy().astype(bool) & np.pad(stay, ((0, 0), (0, more)), constant_values=True)
    square = np.tril(np.ones((ids.shape[1],) * 2, bool)) & seen[:, None, None]
    square |= np.eye(ids.shape[1], dtype=bool)  # a row that sees nothing is no number
    inputs = {**media, "input_ids": ids, "position_ids": positions, "attention_mask": paddle.to_tensor(square)}
    with paddle.no_grad():
        return model(**inputs, use_cache=False).logits


def masked_greedy(model, inputs, stay, tokens: int) -> list[list[int]]:
    """New tokens, each from a forward of its own."""
    ids = inputs["input_ids"]
    for _ in range(tokens):
        logits = masked_logits(model, inputs, stay, ids)
        ids = paddle.concat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[:, inputs["input_ids"].shape[1] :].tolist()
