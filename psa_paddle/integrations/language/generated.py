"""Answers by a model's own ``generate``, for models that are not taken apart: PaddleMIX's."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from .answering.messages import Looking, read_message
from .answering.parts import END_TOKENS
from .answering.reports import Stopwatch
from .answering.sampling import Sampling
from .generation import TokenClock, cached_generation
from .request import check_positions
from .samples import image_inputs, video_inputs

if TYPE_CHECKING:
    from .inference import QwenVLInference


def check_for_paddlemix(prefill_chunk: int | None, sampling: Sampling, ranks: int, video_tokens) -> None:
    """ValueError: settings that PaddleMIX's models cannot take."""
    if prefill_chunk is not None or sampling != Sampling() or ranks > 1:
        raise ValueError("prefill_chunk, sampling and tensor_parallel need library 'paddleformers'.")
    if video_tokens is not None:
        raise ValueError("video_tokens needs library 'paddleformers'; PaddleMIX's model reads all video tokens.")


def generated_answer(
    inference: QwenVLInference, content: list[dict], looking: Looking, max_tokens: int, streamer
) -> str:
    """The answer to a question about pictures, or about one clip, that comes after them; content: as ``Session.ask``
    has it.

    Raises:
        TypeError, ValueError: as ``Session.ask``.
    """
    watch, processor = Stopwatch(), inference.processor
    with watch.stage("media"):
        message = read_message("user", content, looking, inference.report)
    shown, limits = zip(*message.shown, strict=True)
    prompt, times = content[-1]["text"], {}
    with inference.one_request:
        if message.parts[0]["type"] == "video":
            inputs = video_inputs(processor, shown[0], prompt, inference.family)
            times = {"frame_times_s": shown[0].times}
        else:
            inputs = image_inputs(processor, list(shown), prompt, limits[0])
        with inference.answering(max_tokens) as (plug, figures):
            text, found = generate(inference.model, processor, inputs, max_tokens, plug, streamer, watch)
            figures.update(found, **times)
    return text


def generate(model, processor, inputs, max_tokens: int, plug, streamer, watch: Stopwatch) -> tuple[str, dict]:
    """The answer to what the processor returned, and its figures for ``stats()``.

    Raises:
        ValueError: a prompt that leaves no room for its answer.
    """
    tokenizer, ids = processor.tokenizer, inputs["input_ids"]
    check_positions(ids.size, max_tokens, model.config)
    ends = tokenizer.convert_tokens_to_ids(list(END_TOKENS))
    with cached_generation(model) if plug is None else nullcontext():
        clock = TokenClock(streamer)
        clock.put(ids)  # PaddleMIX does not hand the prompt to the streamer
        new, _ = model.generate(
            **inputs,
            max_new_tokens=max_tokens,
            decode_strategy="greedy_search",
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            streamer=clock,
        )
    tokens, timings = new[0].tolist(), clock.timings()
    vision = int(np.isin(ids.numpy(), [model.config.image_token_id, model.config.video_token_id]).sum())
    watch.seconds |= {"prefill": clock.times[0], "decode": clock.times[-1] - clock.times[0]}
    figures = {
        **timings,
        "finish_reason": "stop" if set(tokens) & set(ends) else "length",
        "sequence_length": ids.size,
        "vision_tokens": vision,
        "text_tokens": ids.size - vision,
        "prefill_tokens": ids.size,
        "timings_s": dict(watch.seconds),
    }
    return tokenizer.decode(tokens, skip_special_tokens=True).strip(), figures
