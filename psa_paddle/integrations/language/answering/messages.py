"""Messages in Qwen's format: checked, and their pictures and clips read."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from ....utils.media import DEFAULT_MAX_FRAMES, DEFAULT_VIDEO_PIXELS, Clip, MediaError, load_image, load_video
from ....utils.media.sampling import FACTOR
from ..request import check_clip, check_text, image_limits
from .reports import Report, silent

ROLES = ("system", "user", "assistant")
KEYS = {"text": {"text"}, "image": {"image", "max_pixels"}, "video": {"video", "fps", "max_pixels", "max_frames"}}


@dataclass(frozen=True)
class Looking:
    """How pictures and clips are looked at where a message does not say.

    fps: frames a second of a clip; frame_pixels: the most pixels of a frame; image_pixels: the most of a picture, None
    for the model's own limit; max_frames: the most frames of a clip; factor: pixels a side of one vision token, None
    for a model of text alone.
    """

    fps: float = 1.0
    frame_pixels: int = DEFAULT_VIDEO_PIXELS
    image_pixels: int | None = None
    max_frames: int = DEFAULT_MAX_FRAMES
    factor: int | None = FACTOR


@dataclass
class Message:
    """One message.

    parts: in order, ``{"type": "text", "text": ...}`` or ``{"type": "image" or "video"}``; shown: what the latter show,
    each with ``request.image_limits``' limits.
    """

    role: str
    parts: list[dict] = field(default_factory=list)
    shown: list[tuple[Image.Image | Clip, dict]] = field(default_factory=list)

    def as_dict(self) -> dict:
        """As a chat template takes it."""
        return {"role": self.role, "content": self.parts}


def check_messages(messages) -> list[dict]:
    """The messages as a list; nothing is read from files.

    Raises:
        TypeError, ValueError: not a conversation in Qwen's format that ends with a user's message.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise TypeError('messages must be a list such as [{"role": "user", "content": "What is this?"}].')
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise TypeError(f"message {i} must be a dict of role and content.")
        if message["role"] not in ROLES or (message["role"] == "system" and i):
            raise ValueError(
                f"message {i}: role must be user or assistant (system for the first), got {message['role']!r}."
            )
        check_content(message["content"])
    if messages[-1]["role"] != "user":
        raise ValueError("the last message must be the user's.")
    return list(messages)


def check_content(content) -> list[dict]:
    """A message's content as a list of parts.

    Raises:
        TypeError, ValueError: neither text nor a list of texts, images and videos.
    """
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, (list, tuple)) or not parts:
        raise TypeError("a message's content must be text or a list of texts, images and videos.")
    return [_check_part(part) for part in parts]


def _check_part(part) -> dict:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in KEYS or kind not in part:
        raise TypeError(
            'a part of a message must be {"type": "text", "text": ...}, {"type": "image", "image": ...} or '
            '{"type": "video", "video": ...}.'
        )
    unknown = sorted(set(part) - KEYS[kind] - {"type"})
    if unknown:
        raise ValueError(f"{kind} parts know {', '.join(sorted(KEYS[kind]))}; got {', '.join(unknown)}.")
    if kind == "text":
        check_text(part["text"])
    return dict(part)


def read_message(role: str, content, looking: Looking, report: Report = silent) -> Message:
    """One message with its media read, file by file.

    Raises:
        TypeError, ValueError: see ``check_content``. MediaError: a file that cannot be used.
    """
    message = Message(role)
    for part in check_content(content):
        kind = part["type"]
        if kind == "text":
            message.parts.append({"type": "text", "text": part["text"]})
            continue
        if looking.factor is None:
            raise ValueError("this model takes text alone; ask without images and videos.")
        message.parts.append({"type": kind})
        read = _read_image if kind == "image" else _read_video
        message.shown.append(read(part, looking, looking.factor, report))
    return message


def _read_image(part: dict, looking: Looking, factor: int, report: Report) -> tuple[Image.Image, dict]:
    source, limits = part["image"], image_limits(part.get("max_pixels", looking.image_pixels), factor)
    if isinstance(source, str) and source.startswith("data:"):
        source = _from_data(source)
    image = load_image(_local(source), downloading=partial(report, "download"))
    report("media", 1, 1)
    return image, limits


def _read_video(part: dict, looking: Looking, factor: int, report: Report) -> tuple[Clip, dict]:
    source = part["video"]
    if isinstance(source, Clip):
        return check_clip(source, factor), {}
    settings = {
        "fps": part.get("fps", looking.fps),
        "max_pixels": part.get("max_pixels", looking.frame_pixels),
        "max_frames": part.get("max_frames", looking.max_frames),
    }
    progress, downloading = partial(report, "media"), partial(report, "download")
    clip = load_video(_local(source), **settings, factor=factor, progress=progress, downloading=downloading)
    return clip, {}


def _local(source):
    """A path of a ``file://`` URL; anything else as it is."""
    return source.removeprefix("file://") if isinstance(source, str) else source


def _from_data(url: str) -> Image.Image:
    """The picture of a ``data:image/...;base64,`` URL."""
    try:
        return Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2], validate=True)))
    except (binascii.Error, OSError):
        raise MediaError("an image's data: URL does not hold a picture in base64.") from None
