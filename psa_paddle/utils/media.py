"""Images and videos from files, URLs and arrays, refused with one sentence before any model is touched."""

from __future__ import annotations

import math
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import requests
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_BYTES = 64 << 20
VIDEO_BYTES = 2 << 30
TIMEOUT = 30  # seconds without an answer
DEFAULT_VIDEO_PIXELS = 360 * 420
DEFAULT_MAX_FRAMES = 768
FACTOR = 28  # pixels a side of one merged vision token
MAX_ASPECT = 200
FRAME_PAIR = 2  # frames of one temporal patch


class MediaError(ValueError):
    """An input that cannot be used, with what to do about it."""


@dataclass
class Clip:
    """Frames uint8 [T, H, W, 3], T even, H and W multiples of 28; fps: frames a second of these frames."""

    frames: np.ndarray
    fps: float


def is_url(source) -> bool:
    return isinstance(source, str) and "://" in source


@contextmanager
def local_file(source, kind: str, max_bytes: int):
    """Path of a local file, or of a download that is removed afterwards.

    Raises:
        MediaError: missing, a folder, empty, not http(s), an HTTP error, larger than ``max_bytes``.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"{kind} must be a path or an http(s) URL, got {type(source).__name__}.")
    if is_url(source):
        with tempfile.TemporaryDirectory(prefix="psa_paddle_") as folder:
            yield _download(source, kind, max_bytes, Path(folder))
        return
    path = Path(os.path.expanduser(source))
    if not path.exists():
        raise MediaError(f"{kind} '{source}' does not exist; check the path.")
    if path.is_dir():
        raise MediaError(f"{kind} '{source}' is a folder; name a file in it.")
    if path.stat().st_size == 0:
        raise MediaError(f"{kind} '{source}' is empty; it may not have been written completely.")
    yield path


def _download(url: str, kind: str, max_bytes: int, folder: Path) -> Path:
    parts = urlparse(url)
    if parts.scheme not in ("http", "https"):
        raise MediaError(f"{kind} URL '{url}' is not http or https; download it yourself and give the path.")
    path = folder / (Path(parts.path).name or "download")
    too_large = MediaError(
        f"{kind} URL '{url}' is larger than {max_bytes >> 20} MiB; download it and shorten it first."
    )
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code >= 400:
                raise MediaError(
                    f"{kind} URL '{url}' answered {answer.status_code} {answer.reason}; check the address."
                )
            if int(answer.headers.get("Content-Length") or 0) > max_bytes:
                raise too_large
            size = 0
            with open(path, "wb") as f:
                for chunk in answer.iter_content(1 << 20):
                    size += len(chunk)
                    if size > max_bytes:
                        raise too_large
                    f.write(chunk)
    except requests.RequestException as error:
        raise MediaError(f"{kind} URL '{url}' could not be downloaded ({type(error).__name__}).") from error
    if size == 0:
        raise MediaError(f"{kind} URL '{url}' answered with an empty file.")
    return path


def load_image(source, max_bytes: int = IMAGE_BYTES) -> Image.Image:
    """An RGB image from a path, an http(s) URL, a PIL image or a uint8 array [H, W], [H, W, 3] or [H, W, 4].

    Raises:
        MediaError, TypeError: when it is none of these or cannot be read.
    """
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8:
            raise TypeError(f"an image array must be uint8 (0-255), got {source.dtype}.")
        if source.ndim not in (2, 3) or (source.ndim == 3 and source.shape[2] not in (3, 4)) or 0 in source.shape:
            raise MediaError(f"an image array must be [H, W], [H, W, 3] or [H, W, 4], got {list(source.shape)}.")
        return Image.fromarray(source).convert("RGB")
    with local_file(source, "image", max_bytes) as path:
        try:
            with Image.open(path) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
        except (UnidentifiedImageError, SyntaxError):
            raise MediaError(f"image '{source}' is not an image file; JPEG, PNG and WebP work.") from None
        except Image.DecompressionBombError:
            raise MediaError(f"image '{source}' has too many pixels; scale it down first.") from None
        except (OSError, ValueError) as error:
            raise MediaError(f"image '{source}' cannot be decoded ({error}); it may be truncated.") from None


def check_sampling(fps: float, max_frames: int, max_pixels: int) -> None:
    """Refuse sampling settings that leave no frame or no pixel."""
    if isinstance(fps, bool) or not isinstance(fps, Real) or not 0 < fps <= 1000:
        raise MediaError(f"fps must be a number above 0 and at most 1000, got {fps!r}.")
    if isinstance(max_frames, bool) or not isinstance(max_frames, Integral) or max_frames < FRAME_PAIR:
        raise MediaError(f"max_frames must be an integer of at least {FRAME_PAIR}, got {max_frames!r}.")
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, Integral) or max_pixels < FACTOR**2:
        raise MediaError(f"max_pixels must be an integer of at least {FACTOR**2}, got {max_pixels!r}.")


def load_video(
    source,
    fps: float = 1.0,
    max_pixels: int = DEFAULT_VIDEO_PIXELS,
    max_frames: int = DEFAULT_MAX_FRAMES,
    max_bytes: int = VIDEO_BYTES,
) -> Clip:
    """Sample a video file or http(s) URL evenly at ``fps`` frames a second, at most ``max_frames``, each scaled so
    that it has at most ``max_pixels`` pixels and sides that are multiples of 28.

    Raises:
        MediaError: settings that make no sense, or a file that is not a video, has no frames or is truncated.
    """
    check_sampling(fps, max_frames, max_pixels)
    fps, max_pixels, max_frames = float(fps), int(max_pixels), int(max_frames)  # NumPy's numbers stop here
    with local_file(source, "video", max_bytes) as path:
        if mp4_is_cut_off(path):
            raise MediaError(f"video '{source}' is truncated: the file ends before its own index says; copy it again.")
        return _decode(str(path), source, fps, max_pixels, max_frames)


def mp4_is_cut_off(path: Path) -> bool:
    """Whether an MP4/MOV file ends inside one of its boxes (ISO/IEC 14496-12, 4.2); the decoder would play the rest."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        if f.read(8)[4:] != b"ftyp":
            return False
        at = 0
        while at < size:
            f.seek(at)
            head = f.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:], "big")
            if length == 0:  # this box reaches to the end of the file
                return False
            at += max(length, 8)
    return at > size


def _decode(path: str, name, fps: float, max_pixels: int, max_frames: int) -> Clip:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(path)
        total, rate = len(reader), float(reader.get_avg_fps())
        if total < 1:
            raise MediaError(f"video '{name}' has no frames.")
        if not rate > 0:
            raise MediaError(f"video '{name}' does not say how many frames a second it has.")
        height, width = reader[0].shape[:2]
        indices = sample_indices(total, rate, fps, max_frames)
        height, width = fit_frame(height, width, max_pixels)
        frames = decord.VideoReader(path, width=width, height=height).get_batch(indices).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise MediaError(f"video '{name}' cannot be decoded: it is truncated, has no frames or is no video.") from error
    return Clip(frames, rate * len(indices) / total)


def fit_frame(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """The nearest height and width in multiples of 28 with at most ``max_pixels`` pixels and the same aspect, as
    Qwen2.5-VL's processor chooses them.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise MediaError(f"a frame of {width}x{height} is too thin; its sides may differ {MAX_ASPECT} times at most.")
    fitted = [max(FACTOR, round(side / FACTOR) * FACTOR) for side in (height, width)]
    if fitted[0] * fitted[1] > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        longest = max_pixels // FACTOR // FACTOR * FACTOR  # where the other side cannot shrink below 28
        fitted = [min(longest, max(FACTOR, int(side / shrink / FACTOR) * FACTOR)) for side in (height, width)]
    return fitted[0], fitted[1]


def sample_indices(total: int, rate: float, fps: float, max_frames: int) -> list[int]:
    """Frame numbers, evenly spread, an even number of them: ``total / rate`` seconds at ``fps``, at least two."""
    wanted = min(round(total / rate * fps), total, max_frames)
    wanted = max(FRAME_PAIR, wanted // FRAME_PAIR * FRAME_PAIR)
    return [int((i + 0.5) * total / wanted) for i in range(wanted)]
