"""Images and videos from files, URLs and arrays, refused with one sentence before any model is touched."""

from .errors import MediaError
from .images import load_image
from .sampling import DEFAULT_MAX_FRAMES, DEFAULT_VIDEO_PIXELS, check_sampling, fit_frame, sample_times
from .sources import IMAGE_BYTES, VIDEO_BYTES, is_url
from .videos import Clip, load_video

__all__ = [
    "DEFAULT_MAX_FRAMES", "DEFAULT_VIDEO_PIXELS", "IMAGE_BYTES", "VIDEO_BYTES", "Clip", "MediaError", "check_sampling",
    "fit_frame", "is_url", "load_image", "load_video", "sample_times",
]  # fmt: skip
