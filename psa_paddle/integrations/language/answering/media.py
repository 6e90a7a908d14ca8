"""Pictures and clips as the vision tower takes them: in patches, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import paddle
from PIL import Image

from ....utils.media import Clip

# Patches that the tower sees at once, unless a picture has more: 74 frames of 252 x 336 pixels on a GPU; on a CPU as
# many as its caches take.
PORTIONS = {"gpu": 16384, "cpu": 4096}


@dataclass(frozen=True, eq=False)
class Medium:
    """One picture or clip of a prompt.

    kind: ``"image"`` or ``"video"``; grid: patches in time, height and width; content: what is shown, None once the
    model has seen it; times: seconds at which a clip's frames are seen; seconds: from one patch in time to the next;
    limits: what the image processor is told about sizes.
    """

    kind: str
    grid: tuple[int, int, int]
    content: Image.Image | Clip | None
    times: tuple[float, ...] = ()
    seconds: float = 0.0
    limits: dict = field(default_factory=dict)

    @property
    def patches(self) -> int:
        """Patches before they are merged."""
        t, h, w = self.grid
        return t * h * w

    def seen(self) -> Medium:
        """The same without its pixels."""
        return replace(self, content=None)


def medium_of(processor, content: Image.Image | Clip, limits: dict | None = None) -> Medium:
    """What a picture or a clip becomes; nothing is computed from its pixels yet. limits: ``request.image_limits``'."""
    if isinstance(content, Clip):
        video = processor.video_processor
        t, h, w = content.frames.shape[:3]
        grid = (t // video.temporal_patch_size, h // video.patch_size, w // video.patch_size)
        return Medium("video", grid, content, tuple(content.times), video.temporal_patch_size / content.fps)
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    image = processor.image_processor
    told = (limits or {}).get("images_kwargs", {})
    sizes = {"min_pixels": image.size["shortest_edge"], "max_pixels": image.size["longest_edge"], **told}
    height, width = smart_resize(content.height, content.width, image.patch_size * image.merge_size, **sizes)
    return Medium("image", (1, height // image.patch_size, width // image.patch_size), content, limits=told)


def portions(processor, medium: Medium) -> Iterator[tuple[paddle.Tensor, list[int]]]:
    """Patches [n, channels x pixels] and their grid, in order: a picture whole, a clip by whole frames. No patch of one
    portion attends to another's, so that the tower gives what it gives for all of them at once."""
    if medium.kind == "image":
        made = processor.image_processor(images=[medium.content], return_tensors="pd", **medium.limits)
        yield made["pixel_values"], list(medium.grid)
        return
    assert isinstance(medium.content, Clip)
    t, h, w = medium.grid
    video, on_cpu = processor.video_processor, paddle.get_device() == "cpu"
    step = max(1, PORTIONS["cpu" if on_cpu else "gpu"] // (h * w))
    for first in range(0, t, step):
        count, pair = min(step, t - first), video.temporal_patch_size
        frames = medium.content.frames[first * pair : (first + count) * pair]
        if on_cpu and video.do_rescale and video.do_normalize:
            yield paddle.to_tensor(patches_of(video, frames)), [count, h, w]
        else:
            made = video(videos=[frames], do_resize=False, do_sample_frames=False, return_tensors="pd")
            yield made["pixel_values_videos"], [count, h, w]


def patches_of(video, frames: np.ndarray) -> np.ndarray:
    """What the video processor makes of frames uint8 [T, H, W, 3], float32 [patches, channels x pixels], a fifth of its
    time on a CPU: patches are cut out while pixels are still bytes."""
    pair, side, merge = video.temporal_patch_size, video.patch_size, video.merge_size
    t, h, w = (n // size for n, size in zip(frames.shape, (pair, side, side), strict=False))
    cut = frames.reshape([t, pair, h // merge, merge, side, w // merge, merge, side, 3])
    pixels = cut.transpose([0, 2, 5, 3, 6, 8, 1, 4, 7]).reshape([t * h * w, 3, -1]).astype(np.float32)
    mean, std = (np.array(x, np.float32)[:, None] for x in (video.image_mean, video.image_std))
    scale = np.float32(1 / video.rescale_factor)
    pixels -= mean * scale
    pixels /= std * scale
    return pixels.reshape([t * h * w, -1])
