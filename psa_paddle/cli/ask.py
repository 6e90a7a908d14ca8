"""``psa-paddle ask``: questions about images or a video."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from ..integrations.language.inference import QwenVLInference
from ..integrations.language.loading import check_library
from ..integrations.language.request import check_request, image_limits
from ..stats import format_stats
from ..utils.command import NotWritten, run_command
from ..utils.files import check_file, check_folder, write_text
from ..utils.media import load_image, load_video
from ..utils.quiet import quiet_libraries
from . import ask_report
from .ask_flags import (
    VIDEO_FLAGS,
    add_arguments,
    attention_of,
    budgets_of,
    given_flags,
    kind_of,
    parse_layers,
    psa_config,
    triangle_config,
)

__all__ = ["add_arguments", "run"]

PROMPTS = {"image": "请描述这张图片", "video": "请描述这个视频"}
MEMORY_ADVICE = "look at less with --max-pixels (for a video --max-frames or --fps too), or take a smaller --model."


def load_inputs(args, kind: str):
    """Read every input before any model is loaded; returns what ``QwenVLInference`` takes."""
    if kind == "image":
        for name in given_flags(args, VIDEO_FLAGS):
            raise ValueError(f"--{name.replace('_', '-')} is for --type video.")
        image_limits(args.max_pixels, name="--max-pixels")
        return [load_image(source) for source in args.input]
    if len(args.input) > 1:
        raise ValueError("--type video takes one input; several inputs are for images.")
    return load_video(args.input[0], **given_flags(args, (*VIDEO_FLAGS, "max_pixels")))


def text_streamer(model: QwenVLInference):
    """Prints tokens as they are made."""
    if model.library == "paddlemix":
        from paddlenlp.generation import TextStreamer
    else:
        from paddleformers.generation.streamers import TextStreamer
    return TextStreamer(model.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)


def answer(model: QwenVLInference, inputs, prompt: str, args, streamer=None) -> str:
    """Ask about images, a list, or about a clip."""
    if isinstance(inputs, list):
        pixels = args.max_pixels
        return model.inference_multi_image(inputs, prompt, args.max_tokens, max_pixels=pixels, streamer=streamer)
    return model.inference_video(inputs, prompt, args.max_tokens, streamer=streamer)


def write_extras(model: QwenVLInference, stats: dict, args, page: Callable[[], str]) -> None:
    """Write every file that was asked for beside the answer; page: makes the report's text.

    Raises:
        NotWritten: at the end, when some of them could not be written.
    """
    failures = []
    if args.stats_json is not None:
        try:
            write_text(args.stats_json, json.dumps(stats, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            failures.append(f"--stats-json could not be written: {error}.")
    if args.log_dir is not None:
        try:
            model.write_log(args.log_dir)
        except OSError as error:
            failures.append(f"--log-dir could not be written: {error}.")
    if args.report is not None:
        text = page()
        try:
            write_text(args.report, text)
        except OSError as error:
            failures.append(f"--report could not be written: {error}.")
    if failures:
        raise NotWritten(" ".join(failures))


def ask(args, kind: str) -> None:
    """Check everything, load the model, answer, and then write what was asked for beside the answer."""
    prompt = PROMPTS[kind] if args.prompt is None else args.prompt
    check_request(prompt, args.max_tokens)
    budgets = budgets_of(args)
    settings = dict(psa_config=psa_config(args, budgets), triangle_config=triangle_config(args, budgets))
    choice: dict[str, Any] = dict(attention=attention_of(args), budgets=budgets, **settings)
    if args.stats_json is not None:
        args.stats_json = check_file(args.stats_json, "--stats-json")
    if args.log_dir is not None:
        args.log_dir = check_folder(args.log_dir, "--log-dir")
    ask_report.check(args, attention_of(args), parse_layers)
    library = check_library(args.library)
    inputs = load_inputs(args, kind)
    with quiet_libraries(library):
        model = QwenVLInference(args.model, args.dtype, cache_dir=args.cache_dir, library=library, **choice)
        streamer = text_streamer(model) if args.stream else None
        with ask_report.watching(model, args, streamer) as record:
            text = answer(model, inputs, prompt, args, record or streamer)
        if not args.stream:
            print(text)
        stats = model.stats()
        print(f"\n{format_stats(stats)}", flush=True)
        asked = ask_report.Asked(prompt, text, inputs, stats, record)
        again = (lambda: answer(model, inputs, prompt, args)) if args.compare_dense else None
        write_extras(model, stats, args, lambda: ask_report.page(model, asked, again))


def run(args) -> int:
    """Answer what the flags ask; returns the exit status."""
    log, handler = logging.getLogger("psa_paddle"), logging.StreamHandler()
    propagate, log.propagate = log.propagate, False  # PaddleFormers formats the root logger's lines its own way
    log.addHandler(handler)
    try:
        return run_command(lambda: ask(args, kind_of(args)), MEMORY_ADVICE)
    finally:
        log.removeHandler(handler)
        log.propagate = propagate
