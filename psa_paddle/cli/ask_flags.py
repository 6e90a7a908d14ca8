"""The flags of ``psa-paddle ask``."""

from __future__ import annotations

import argparse
import mimetypes
import os
from pathlib import Path
from urllib.parse import urlparse

from ..utils.command import EXIT_CODES
from ..utils.media import DEFAULT_MAX_FRAMES, DEFAULT_VIDEO_PIXELS
from . import ask_report
from .model_flags import add_model_arguments

DESCRIPTION = """Ask a model about images, videos or texts, with Pyramid Sparse Attention, TriangleMix or both.

psa-paddle ask --type video --input v.mp4 --prompt "请描述这个视频" --use-psa
psa-paddle ask --model demo --type image --input a.jpg --prompt "What is this?" --quiet
psa-paddle ask --type video --input v.mp4 --attention mix --triangle-layers 14-27
psa-paddle ask --type text --input long.txt --prompt "What does it say about the budget?" --model FOLDER --use-psa
psa-paddle ask --input a.mp4 b.mp4 --each --prompt "Who is seen?" "What happens?" > answers.jsonl
psa-paddle ask --requests requests.jsonl --output answers.jsonl

In a checkout, python qwen2.5-vl/infer_qwen2_5_vl_psa.py is the same.
"""
VIDEO_FLAGS = ("fps", "max_frames")
VIDEO_SUFFIXES = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")

STATS = ("after", "stderr", "off")


def looks_like_video(source: str) -> bool:
    """Whether the name, or the first bytes of a local file without a telling name, say that it is a video."""
    suffix = Path(urlparse(source).path if "://" in source else source).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return True
    path = Path(os.path.expanduser(source))
    if (mimetypes.guess_type(f"x{suffix}")[0] or "").startswith("image/") or not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(12)
    iso = head[4:8] == b"ftyp" and head[8:12] not in (b"avif", b"heic", b"heix", b"mif1")
    return iso or head[:4] == b"\x1a\x45\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def kind_of(source: str, kind: str | None) -> str:
    """``"image"`` or ``"video"``: what was asked for, or what the input looks like.

    Raises:
        ValueError: an image was asked for, and it is a video.
    """
    video = looks_like_video(source)
    if kind == "image" and video:
        raise ValueError(f"'{source}' is a video; use --type video.")
    return kind or ("video" if video else "image")


def add_looking_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser with the flags that say how media are looked at."""
    parser.add_argument("--fps", type=float, help="video frames a second to look at (default: 1)")
    parser.add_argument("--max-pixels", type=int, help=f"of an image, or of a frame ({DEFAULT_VIDEO_PIXELS})")
    parser.add_argument("--max-frames", type=int, help=f"most frames of a video (default: {DEFAULT_MAX_FRAMES})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.description, parser.epilog = DESCRIPTION, EXIT_CODES
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--input", nargs="+", metavar="FILE", help="paths or http(s) URLs, shown together")
    asked.add_argument("--requests", metavar="FILE", help='JSON lines such as {"input": "a.mp4", "prompt": "..."}')
    parser.add_argument(
        "--type", choices=("image", "video", "text"), help="kind of --input (default: what each file is)"
    )
    parser.add_argument("--prompt", nargs="+", help="the questions (default: asks for a description, in Chinese)")
    parser.add_argument("--each", action="store_true", help="ask about each --input by itself")
    parser.add_argument("--output", metavar="FILE", help="append answers there as JSON lines; goes on where it was")
    add_looking_arguments(parser)
    parser.add_argument("--stream", action="store_true", help="print tokens as they are made")
    parser.add_argument("--json", action="store_true", help="print the answer and the statistics as a line of JSON")
    parser.add_argument(
        "--quiet", action="store_true", help="print the answer alone: no progress, warnings, statistics"
    )
    parser.add_argument("--stats", choices=STATS, help="where statistics go (default: after the answer, on stdout)")
    parser.add_argument("--stats-json", metavar="FILE", help="write the statistics there")
    ask_report.add_arguments(parser)
    add_model_arguments(parser)
