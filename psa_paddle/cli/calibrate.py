"""``psa-paddle calibrate``: budgets for the layers and heads of a model."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from ..budgets import Budgets
from ..config import BACKENDS, DEFAULT_PRESET, PRESETS, AttentionConfig
from ..integrations.language.answering.reports import Report
from ..integrations.language.inference import DEFAULT_MODEL, QwenVLInference
from ..integrations.language.loading import DTYPES, LIBRARIES, check_backend, check_library, checkpoint_family
from ..integrations.language.measuring.calibration import calibrate_budgets, check_calibration
from ..integrations.language.request import check_request, image_limits
from ..integrations.language.samples import image_inputs, video_inputs
from ..trianglemix import TriangleMixConfig
from ..utils.command import EXIT_CODES, run_command
from ..utils.files import check_file
from ..utils.language import say, say_lines
from ..utils.media import load_image, load_video
from ..utils.progress import TerminalProgress
from ..utils.quiet import quiet_libraries
from .ask_flags import VIDEO_FLAGS
from .ask_requests import PROMPTS
from .model_flags import given_flags

MEMORY_ADVICE = "look at less with --max-pixels (for a video --max-frames or --fps too), or take a smaller --model."
DESCRIPTION = """Measure on your own images or videos what each layer and head of a model has to keep; writes a file.

psa-paddle calibrate --type video --input a.mp4 b.mp4 --prompt "请描述这个视频" --density 0.12 --output budgets.json
psa-paddle ask --type video --input c.mp4 --use-psa --budgets budgets.json

In a checkout, python qwen2.5-vl/calibrate_psa.py is the same.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.description, parser.epilog = DESCRIPTION, EXIT_CODES
    parser.add_argument("--type", choices=("image", "video"), default="image", help="kind of --input (default: image)")
    parser.add_argument("--input", nargs="+", required=True, metavar="FILE", help="paths or URLs; each is asked about")
    parser.add_argument("--prompt", help="the question about each (default: asks for a description, in Chinese)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="where to write the budgets (JSON)")
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--density", type=float, help="share of dense attention's work to keep (default: the preset's)")
    wanted.add_argument("--loss", type=float, help="instead: nats a token to stay below")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder, hub name, or 'demo' (default: %(default)s)")
    parser.add_argument("--preset", choices=tuple(PRESETS), default=DEFAULT_PRESET, help="what is shared out")
    parser.add_argument("--no-heads", action="store_true", help="tell only layers apart: fewer passes")
    parser.add_argument("--triangle", action="store_true", help="also say which layers may take TriangleMix")
    parser.add_argument("--num-sink-tokens", type=int, help="TriangleMix's pattern, as in psa-paddle ask")
    parser.add_argument("--sliding-window-size", type=int, help="the same")
    parser.add_argument("--num-last-tokens", type=int, help="the same")
    parser.add_argument("--answer-tokens", type=int, default=48, help="most tokens of an answer (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the model (default: bfloat16; float32 on a CPU)")
    parser.add_argument("--fps", type=float, help="video frames a second to look at (default: 1)")
    parser.add_argument("--max-pixels", type=int, help="most pixels of an image, or of a frame")
    parser.add_argument("--max-frames", type=int, help="most frames of a video")
    parser.add_argument("--cache-dir", help="where downloaded weights are kept")
    parser.add_argument("--library", choices=("auto", *LIBRARIES), default="auto", help="whose model (default: auto)")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="who computes it (default: auto)")


def triangle_of(args) -> TriangleMixConfig | None:
    """The pattern to measure."""
    given = given_flags(args, ("num_sink_tokens", "sliding_window_size", "num_last_tokens"))
    if given and not args.triangle:
        raise ValueError(f"--{next(iter(given)).replace('_', '-')} does nothing without --triangle; add it.")
    return TriangleMixConfig(**given) if args.triangle else None


def load_inputs(args, library: str, report: Report) -> tuple[list, dict]:
    """Read every input before any model is loaded; with what the processor is told about the sizes of images."""
    downloading = partial(report, "download")
    given = given_flags(args, VIDEO_FLAGS)
    if args.type == "image":
        for name in given:
            raise ValueError(f"--{name.replace('_', '-')} is for --type video.")
    factor = checkpoint_family(args.model, library, args.cache_dir).vision_factor()
    limits = image_limits(args.max_pixels, factor)
    if args.type == "image":
        return [load_image(source, downloading=downloading) for source in args.input], limits
    given |= given_flags(args, ["max_pixels"])
    given |= {"factor": factor, "progress": partial(report, "media"), "downloading": downloading}
    return [load_video(source, **given) for source in args.input], limits


def report(budgets: Budgets) -> str:
    """What was found, in a few lines."""
    uniform, own = (budgets.measured[name] for name in ("uniform", "budgets"))
    lines = [f"equal shares  {uniform['loss']:.3g} nats a token at density {uniform['density']:.3f}"]
    lines += [f"budgets       {own['loss']:.3g} nats a token at density {own['density']:.3f}"]
    for layer, row in enumerate(budgets.factors):
        also = ", block means" if budgets.block_means[layer] else ""
        if layer in (budgets.triangle_layers or ()):
            also = f"{also}, or TriangleMix"
        lines.append(f"  layer {layer:>3}  {sum(row) / len(row):.2f} times the shares{also}")
    return "\n".join(lines)


def calibrate(args) -> None:
    """Check everything, load the model, measure, and write what was found."""
    prompt = PROMPTS[args.type] if args.prompt is None else args.prompt
    check_request(prompt, 1)
    args.output = check_file(args.output, "--output")
    config = AttentionConfig.preset(args.preset, backend=args.backend)
    check_calibration(config, args.density, args.loss, args.answer_tokens)
    check_backend(config)
    triangle, library = triangle_of(args), check_library(args.library)
    progress = TerminalProgress()
    inputs, limits = load_inputs(args, library, progress)
    with quiet_libraries(library):
        model = QwenVLInference(args.model, args.dtype, cache_dir=args.cache_dir, library=library, progress=progress)
    if args.type == "image":
        samples = [image_inputs(model.processor, [image], prompt, limits) for image in inputs]
    else:
        samples = [video_inputs(model.processor, clip, prompt, model.family) for clip in inputs]
    show = sys.stderr.isatty()
    budgets = calibrate_budgets(
        model.model,
        samples,
        config,
        density=args.density,
        loss=args.loss,
        heads=not args.no_heads,
        triangle=triangle,
        answer_tokens=args.answer_tokens,
        name=model.model_name,
        progress=(lambda i, n: print("\r" + say(f"{i} of {n} passes"), end="", file=sys.stderr)) if show else None,
    )
    if show:
        print(file=sys.stderr)
    budgets.save(args.output)
    print(say_lines(report(budgets)))
    print(say(f"written to {args.output}"))


def run(args) -> int:
    """Calibrate as the flags ask; returns the exit status."""
    return run_command(lambda: calibrate(args), MEMORY_ADVICE)
