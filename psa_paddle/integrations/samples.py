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
