"""What may be asked of a model: the checks of a request, made before any heavy work."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from ...utils.media import Clip
from ...utils.media.sampling import FACTOR


def whole_number(value, name: str, least: int) -> int:
    """The value as an ``int``; NumPy's integers are integers.

    Raises:
        TypeError: no integer. ValueError: below ``least``.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    return int(value)


def check_request(prompt: str, max_tokens: int, streamer=None) -> int:
    """Refuse a question that cannot be asked; returns max_tokens as an ``int``.

    Raises:
        TypeError, ValueError: a prompt that is no text, is empty or holds special tokens; no new token; a streamer
            without ``put`` and ``end``.
    """
    check_text(prompt)
    check_streamer(streamer)
    return check_max_tokens(max_tokens)


def check_max_tokens(max_tokens: int) -> int:
    """max_tokens as an ``int``; TypeError, ValueError: no new token."""
    return whole_number(max_tokens, "max_tokens", 1)


def check_streamer(streamer) -> None:
    """TypeError: a streamer without ``put`` and ``end``."""
    if streamer is not None and not all(callable(getattr(streamer, name, None)) for name in ("put", "end")):
        raise TypeError(f"streamer must have the methods put and end, got {type(streamer).__name__}.")


def check_text(prompt: str) -> None:
    """TypeError, ValueError: a prompt that is no text, is empty or holds special tokens."""
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a string, got {type(prompt).__name__}.")
    if not prompt.strip():
        raise ValueError("prompt is empty; ask something about the input.")
    if "<|" in prompt and "|>" in prompt:
        raise ValueError("prompt contains a special token such as <|image_pad|>; remove it, images are added for you.")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise ValueError("prompt is not valid Unicode (it holds half a character); check the encoding of the terminal.")


def check_images(paths) -> list:
    """The images as a list; ValueError when it is empty, TypeError when it is one image alone or a mapping."""
    if not isinstance(paths, (list, tuple)):
        raise TypeError(f"give a list of images, got {type(paths).__name__}; inference_image takes one image.")
    if not paths:
        raise ValueError("give a list of at least one image.")
    return list(paths)


def image_limits(max_pixels: int | None, factor: int = FACTOR, name: str = "max_pixels") -> dict:
    """What the processor takes so that no image has more pixels; nothing for None, the model's own limit.

    factor: pixels a side of one vision token, which is the least image; name: of the limit, for a refusal.
    """
    if max_pixels is None:
        return {}
    least = factor * factor
    return {"images_kwargs": {"min_pixels": least, "max_pixels": whole_number(max_pixels, name, least)}}


def check_clip(clip: Clip, factor: int) -> Clip:
    """Refuse a clip that was sampled for a model with vision tokens of another size; ValueError."""
    if clip.factor != factor:
        raise ValueError(
            f"the clip's frames are for vision tokens of {clip.factor} pixels a side, this model's have {factor}; give "
            f"load_video factor={factor}."
        )
    return clip


def chat(kinds: list[str], prompt: str) -> list[dict]:
    """The message of a user who shows ``"image"`` or ``"video"`` inputs, in order, and asks about them."""
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": prompt}]
    return [{"role": "user", "content": content}]


def check_positions(tokens: int, max_tokens: int, config) -> None:
    """Refuse a prompt that leaves no room for its answer in the positions that the model was trained for."""
    text = getattr(config, "text_config", None) or config
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and tokens + max_tokens > positions:
        raise ValueError(
            f"the prompt has {tokens} tokens, which with max_tokens={max_tokens} exceeds the {positions} positions "
            "of the model; take fewer frames (fps, max_frames), fewer pixels (max_pixels) or a smaller max_tokens."
        )
