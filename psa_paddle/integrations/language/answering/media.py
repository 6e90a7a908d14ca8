"""Pictures and clips as the vision tower takes them: in patches, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import paddle
from PIL import Image

from ....utils.media import Clip

PORTION = 16384  # patches that the tower sees at once, unless a picture has more: 74 frames of 252 x 336 pixels


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
    pair = processor.video_processor.temporal_patch_size
    step = max(1, PORTION // (h * w))
    for first in range(0, t, step):
        count = min(step, t - first)
        frames = medium.content.frames[first * pair : (first + count) * pair]
        made = processor.video_processor(videos=[frames], do_resize=False, do_sample_frames=False, return_tensors="pd")
        yield made["pixel_values_videos"], [count, h, w]
