"""Pictures of every kind as RGB, the way a viewer would show them."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .downloads import Progress
from .errors import MediaError, refusal, shown
from .kinds import HEAD_BYTES, kind_of
from .sampling import check_aspect
from .sources import IMAGE_BYTES, open_source

WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
WHITE_LEVELS = (1.0, 255.0, 65535.0)  # of real numbers, of bytes, of 16-bit numbers
MAX_PIXELS = 178_956_970  # 512 MiB of RGB; Pillow's own limit


def load_image(source, max_bytes: int = IMAGE_BYTES, *, downloading: Progress | None = None) -> Image.Image:
    """An RGB image from a path, an http(s) URL, a PIL image or a uint8 array [H, W], [H, W, 3] or [H, W, 4].

    Turned upright as its EXIF data say; transparency lies on white; 16-bit gray is scaled to 8 bits, and so are 32-bit
    and real numbers, see ``to_eight_bits``; of an animation the first frame.

    downloading: called with the bytes of a download that have come, and how many there will be, 0 where nobody knows.

    Raises:
        MediaError, TypeError: when it is none of these, cannot be read, or is over 200 times as long as wide.
    """
    if isinstance(source, Image.Image):
        return _decode(source, "the PIL image")
    if isinstance(source, np.ndarray):
        return _decode(_from_array(source), "the image array")
    with open_source(source, "image", max_bytes, downloading) as file:
        name = f"image '{shown(source)}'"
        kind = kind_of(file.read(HEAD_BYTES))
        file.seek(0)
        if kind.family == "video":
            raise MediaError(f"{name} is {kind.name}, not an image file; ask about it as a video.")
        if kind.family in ("sound", "other"):
            raise MediaError(f"{name} is {kind.name}, not an image file; JPEG, PNG and WebP work.")
        try:
            with Image.open(file) as image:
                return _decode(image, name)
        except (UnidentifiedImageError, SyntaxError):
            what = "" if kind.family == "unknown" else f" that can be read here ({kind.name})"
            raise MediaError(f"{name} is not an image file{what}; JPEG, PNG and WebP work.") from None
        except Image.DecompressionBombError:
            raise _too_large(name) from None
        except Exception as error:  # decoders raise whatever damaged bytes lead to
            raise refusal(name, error) from None


def _too_large(name: str) -> MediaError:
    return MediaError(f"{name} has more than {MAX_PIXELS:,} pixels; scale it down first.")


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise TypeError(f"an image array must be uint8 (0-255), got {pixels.dtype}.")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)) or 0 in pixels.shape:
        raise MediaError(f"an image array must be [H, W], [H, W, 3] or [H, W, 4], got {list(pixels.shape)}.")
    return Image.fromarray(pixels)


def _decode(image: Image.Image, name: str) -> Image.Image:
    if image.width < 1 or image.height < 1:
        raise MediaError(f"{name} has no pixels.")
    check_aspect(image.height, image.width, name)
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name)
    try:
        return to_rgb(upright(image), name)
    except Exception as error:  # decoders raise whatever damaged bytes lead to
        raise refusal(name, error) from None


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data say; EXIF data that cannot be read turn nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, EOFError):  # the pixels, not the EXIF data
        raise
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return image


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Any mode of Pillow as RGB; what is transparent shows white."""
    if image.mode in WIDE_MODES:
        clear = image.info.get("transparency")  # of a PNG: the level that is transparent
        values, image = np.asarray(image), to_eight_bits(image, name)
        if isinstance(clear, int):
            image.paste(255, mask=Image.fromarray(values == clear))
    if image.mode == "La":  # Pillow knows the way to RGBA from LA alone
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Gray of 16 bits, 32 bits or real numbers as 8 bits.

    16 bits: white is 65535. The others: white is the least of 1 (real numbers only), 255 and 65535 that nothing
    exceeds; numbers below 0 or above 65535 are stretched so that the least is black and the greatest white.
    """
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise MediaError(f"{name} has values that are not finite numbers.")
    low, high = 0.0, 65535.0
    if not image.mode.startswith("I;16"):
        least, greatest = float(values.min()), float(values.max())
        levels = WHITE_LEVELS[0 if image.mode == "F" else 1 :]
        white = next((level for level in levels if greatest <= level), None)
        low, high = (least, greatest) if least < 0 or white is None else (0.0, white)
    scale = 255.0 / (high - low) if high > low else 0.0
    return Image.fromarray(np.rint((values.astype(np.float32) - low) * scale).astype(np.uint8))
