"""What measurements on a model are made on."""

from __future__ import annotations


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


def video_inputs(processor, clip, prompt: str):
    """What the processor returns for a question about a ``Clip``."""
    text = _chat(processor, ["video"], prompt)
    return processor(text=[text], videos=[clip.frames], fps=clip.fps, do_resize=False, return_tensors="pd")


def image_inputs(processor, images: list, prompt: str, max_pixels: int | None = None):
    """What the processor returns for a question about images; max_pixels: the most of each."""
    limits = {} if max_pixels is None else {"images_kwargs": {"min_pixels": 28 * 28, "max_pixels": max_pixels}}
    text = _chat(processor, ["image"] * len(images), prompt)
    return processor(text=[text], images=images, return_tensors="pd", **limits)


def _chat(processor, kinds: list[str], prompt: str) -> str:
    content = [{"type": kind} for kind in kinds] + [{"type": "text", "text": prompt}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
