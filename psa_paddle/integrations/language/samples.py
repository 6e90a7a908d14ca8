"""What measurements on a model are made on."""

from __future__ import annotations

from ...utils.media import Clip
from .families import Family
from .request import chat


def single_prompt(inputs) -> dict:
    """The inputs of one prompt, without an attention mask that masks nothing.

    Raises:
        TypeError: not what a processor returns. ValueError: a batch, or padding.
    """
    if not hasattr(inputs, "items") or "input_ids" not in inputs:
        raise TypeError(f"a sample must be what the processor returns, with input_ids; got {type(inputs).__name__}.")
    inputs = dict(inputs.items())
    mask = inputs.pop("attention_mask", None)
    if inputs["input_ids"].shape[0] != 1 or (mask is not None and not bool(mask.astype("bool").all())):
        raise ValueError("give samples one by one and without padding.")
    return inputs


def video_inputs(processor, clip: Clip, prompt: str, family: Family):
    """What the processor returns for a question about a ``Clip`` to a model of this family."""
    settings = {**clip_times(clip, family), "do_resize": False, "return_tensors": "pd"}
    return processor(text=[_prompt_text(processor, ["video"], prompt)], videos=[clip.frames], **settings)


def clip_times(clip: Clip, family: Family) -> dict:
    """What the processor takes to know when the frames of a clip are seen, none of which it may leave out."""
    if not family.time_stamps:
        return {"fps": clip.fps}
    count = len(clip.frames)
    metadata = {"total_num_frames": count, "fps": clip.fps, "frames_indices": list(range(count))}
    return {"do_sample_frames": False, "video_metadata": [metadata]}


def image_inputs(processor, images: list, prompt: str, limits: dict):
    """What the processor returns for a question about images; limits: ``request.image_limits``'."""
    text = _prompt_text(processor, ["image"] * len(images), prompt)
    return processor(text=[text], images=images, return_tensors="pd", **limits)


def _prompt_text(processor, kinds: list[str], prompt: str) -> str:
    return processor.apply_chat_template(chat(kinds, prompt), tokenize=False, add_generation_prompt=True)
