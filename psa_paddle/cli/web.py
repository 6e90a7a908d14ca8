"""``psa-paddle web``: a page for a browser."""

from __future__ import annotations

import argparse
import sys

from ..integrations.language.answering.messages import Looking
from ..integrations.language.choice import AttentionChoice
from ..integrations.language.inference import QwenVLInference
from ..integrations.language.loading import check_backend
from ..integrations.language.request import check_max_tokens
from ..utils.command import EXIT_CODES, keeping_sigterm, run_command
from ..utils.language import say
from ..utils.media import check_sampling
from ..utils.progress import TerminalProgress
from ..utils.quiet import quiet_libraries
from ..web import Limits, Settings, check_gradio, is_loopback, serve
from .ask import MEMORY_ADVICE, logged
from .ask_flags import VIDEO_FLAGS, add_looking_arguments
from .model_flags import add_model_arguments, given_flags, model_settings

DESCRIPTION = """Serve a page for a browser: show a video or pictures, ask, see what was looked at and what was skipped.

psa-paddle web
psa-paddle web --model Qwen/Qwen2.5-VL-7B-Instruct --preset quality --use-psa
psa-paddle web --host 0.0.0.0 --port 8080

Visitors choose between dense attention, the presets and TriangleMix; what the flags below ask for is chosen at first.
"""
DEFAULT_FPS, DEFAULT_FRAMES = 2.0, 256
LIMITS = {
    "queue": ("waiting", "N", "questions that may wait while one is answered (default: %(default)s)"),
    "max_upload": ("upload_bytes", "MIB", "most MiB of an uploaded file (default: %(default)s)"),
    "max_seconds": ("video_seconds", "S", "longest video, in seconds (default: %(default)s)"),
    "max_pictures": ("pictures", "N", "most pictures of a conversation (default: %(default)s)"),
    "conversations": ("caches", "N", "conversations whose KV cache is kept (default: %(default)s)"),
    "idle": ("idle_seconds", "S", "seconds until a conversation that nobody uses is put away (default: %(default)s)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.description, parser.epilog = DESCRIPTION, EXIT_CODES
    parser.add_argument("--host", default=Settings.host, help="where to listen (default: this machine alone)")
    parser.add_argument("--port", type=int, default=Settings.port, help="where to listen (default: %(default)s)")
    for name, (limit, unit, words) in LIMITS.items():
        value = getattr(Limits, limit)
        default = value >> 20 if unit == "MIB" else int(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, metavar=unit, help=words)
    add_looking_arguments(parser)
    add_model_arguments(parser)
    parser.set_defaults(model="demo", fps=DEFAULT_FPS, max_frames=DEFAULT_FRAMES)


def limits_of(args: argparse.Namespace) -> Limits:
    """What the flags bound.

    Raises:
        ValueError: a limit that lets nothing through.
    """
    values = {}
    for name, (limit, unit, _) in LIMITS.items():
        value = getattr(args, name)
        if value < (name != "queue"):
            raise ValueError(f"--{name.replace('_', '-')} must be at least {int(name != 'queue')}, got {value}.")
        values[limit] = value << 20 if unit == "MIB" else value
    return Limits(**values)


def looking_of(args: argparse.Namespace) -> Looking:
    """How the flags have media looked at."""
    given = given_flags(args, VIDEO_FLAGS)
    if args.max_pixels is not None:
        given |= {"frame_pixels": args.max_pixels, "image_pixels": args.max_pixels}
    looking = Looking(**given)
    check_sampling(looking.fps, looking.max_frames, looking.frame_pixels)
    return looking


def web(args: argparse.Namespace) -> None:
    """Check everything, load the model, and serve."""
    if args.tensor_parallel is not None:
        raise ValueError("--tensor-parallel is for 'psa-paddle ask' and 'chat'; the page is one process.")
    check_gradio()
    flags = model_settings(args)
    if flags["library"] == "paddlemix":
        raise ValueError("the page needs --library paddleformers, whose models keep their KV cache between questions.")
    attention, config, triangle = (flags.pop(name) for name in ("attention", "psa_config", "triangle_config"))
    budgets = flags.pop("budgets")
    given = None if attention == "dense" else AttentionChoice(attention, config, triangle, None, budgets)
    if given is not None:
        check_backend(given.config)
    default = args.attention or Settings.default
    max_tokens = check_max_tokens(args.max_tokens)
    settings = Settings(args.host, args.port, looking_of(args), given, default, max_tokens, limits_of(args))
    if args.log_dir is not None:
        raise ValueError("--log-dir does nothing here; drop it.")
    progress = TerminalProgress()

    def make(report) -> QwenVLInference:
        with keeping_sigterm():
            return QwenVLInference(args.model, args.dtype, progress=report, **flags)

    def tell(address: str) -> None:
        progress.close()
        if not is_loopback(args.host):
            words = (
                f"warning: everybody who reaches {args.host}:{args.port} can use this page; it asks for no password."
            )
            print(say(words), file=sys.stderr)
        print(say(f"{address} (Ctrl-C ends it)"), flush=True)

    with quiet_libraries(flags["library"]):
        serve(make, progress, settings, tell)


def run(args: argparse.Namespace) -> int:
    """Serve as the flags ask; returns the exit status."""
    with logged(quiet=False):
        return run_command(lambda: web(args), MEMORY_ADVICE)
