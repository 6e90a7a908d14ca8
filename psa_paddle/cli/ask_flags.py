"""The flags of ``psa-paddle ask``, and the settings that they ask for."""

from __future__ import annotations

import argparse
import mimetypes
import os
from pathlib import Path
from urllib.parse import urlparse

from ..budgets import Budgets, load_budgets
from ..config import AUDIT_ROWS, BACKENDS, DEFAULT_PRESET, MASK_MODES, PRESETS, AttentionConfig
from ..integrations.language.choice import ATTENTIONS
from ..integrations.language.inference import DEFAULT_MODEL
from ..integrations.language.loading import DTYPES, LIBRARIES
from ..trianglemix import TriangleMixConfig
from ..utils.command import EXIT_CODES
from ..utils.media import DEFAULT_MAX_FRAMES, DEFAULT_VIDEO_PIXELS
from . import ask_report

DESCRIPTION = """Ask Qwen2.5-VL about images or a video, with Pyramid Sparse Attention, TriangleMix or both.

psa-paddle ask --type video --input v.mp4 --prompt "请描述这个视频" --use-psa
psa-paddle ask --model demo --type image --input a.jpg --prompt "What is this?"
psa-paddle ask --type video --input v.mp4 --attention mix --triangle-layers 14-27

In a checkout, python qwen2.5-vl/infer_qwen2_5_vl_psa.py is the same.
"""
PSA_FLAGS = (
    "preset", "query_block", "key_block", "xattn_stride", "mask_mode", "mask_ratios", "block_means", "text_length",
    "backend", "audit",
)  # fmt: skip
TRIANGLE_FLAGS = ("num_sink_tokens", "sliding_window_size", "num_last_tokens")
VIDEO_FLAGS = ("fps", "max_frames")
VIDEO_SUFFIXES = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")


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


def kind_of(args) -> str:
    """``"image"`` or ``"video"``: --type, or what the first input looks like.

    Raises:
        ValueError: --type image for a video.
    """
    video = looks_like_video(args.input[0])
    if args.type == "image" and video:
        raise ValueError(f"'{args.input[0]}' is a video; use --type video.")
    return args.type or ("video" if video else "image")


def parse_ratios(text: str) -> dict:
    """``"1:0-0.6,2:0.6-0.8,0:0.8-1"`` -> {1: (0.0, 0.6), ...}; the intervals are checked by ``AttentionConfig``."""
    ratios = {}
    for part in text.split(","):
        try:
            level, bounds = part.split(":")
            lo, hi = bounds.split("-")
            key, pair = int(level), (float(lo), float(hi))
        except ValueError:
            raise ValueError(f"--mask-ratios part '{part}' must look like LEVEL:FROM-TO, as in 1:0-0.6.") from None
        if key in ratios:
            raise ValueError(f"--mask-ratios names level {key} twice.")
        ratios[key] = pair
    return ratios


def parse_layers(text: str, flag: str = "--triangle-layers") -> list[int]:
    """``"2,5,8-11"`` -> [2, 5, 8, 9, 10, 11]; flag: whose text it is, for a refusal."""
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            found = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            found = range(0)
        if not found:
            raise ValueError(f"{flag} part '{part}' must look like 5 or 8-11.")
        layers += found
    return layers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.description, parser.epilog = DESCRIPTION, EXIT_CODES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--type", choices=("image", "video"), help="kind of --input (default: what the file is)")
    parser.add_argument("--input", nargs="+", required=True, metavar="FILE", help="path or http(s) URL; several images")
    parser.add_argument("--prompt", help="the question (default: asks for a description, in Chinese)")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder, hub name, or 'demo' (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=512, help="most new tokens (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the model (default: bfloat16; float32 on a CPU)")
    parser.add_argument("--fps", type=float, help="video frames a second to look at (default: 1)")
    parser.add_argument("--max-pixels", type=int, help=f"of an image, or of a frame ({DEFAULT_VIDEO_PIXELS})")
    parser.add_argument("--max-frames", type=int, help=f"most frames of a video (default: {DEFAULT_MAX_FRAMES})")
    parser.add_argument("--cache-dir", help="where downloaded weights are kept")
    parser.add_argument("--library", choices=("auto", *LIBRARIES), default="auto", help="whose model (default: auto)")
    parser.add_argument("--stream", action="store_true", help="print tokens as they are made")
    parser.add_argument("--stats-json", metavar="FILE", help="write the statistics there")
    parser.add_argument(
        "--attention", choices=ATTENTIONS, help="how to prefill (default: dense, or psa with --use-psa)"
    )
    triangle = parser.add_argument_group("TriangleMix (all need --attention trianglemix or mix)")
    triangle.add_argument("--triangle-layers", metavar="L", help="layers that take it, for example 2,5,8-11")
    triangle.add_argument(
        "--num-sink-tokens", type=int, help="index of the last token that all queries see (default: 4)"
    )
    triangle.add_argument("--sliding-window-size", type=int, help="tokens that a query looks back (default: 32)")
    triangle.add_argument("--num-last-tokens", type=int, help="rows at the end that see every key (default: 64)")
    psa = parser.add_argument_group("Pyramid Sparse Attention (all need --use-psa or --attention psa or mix)")
    psa.add_argument("--use-psa", action="store_true", help="the same as --attention psa")
    psa.add_argument(
        "--preset",
        metavar="NAME",
        help=f"{', '.join(PRESETS)} (default: {DEFAULT_PRESET}); the flags below change single settings of it",
    )
    psa.add_argument("--budgets", metavar="FILE", help="what each layer and head may keep, from psa-paddle calibrate")
    psa.add_argument("--query-block", type=int, help="rows of a query block: 64 or 128")
    psa.add_argument("--key-block", type=int, help="keys of a key block: 32, 64 or 128")
    psa.add_argument("--xattn-stride", type=int, help="the importance estimate takes one of so many keys: 1 to 32")
    psa.add_argument("--mask-mode", choices=tuple(MASK_MODES), help="how blocks are ranked into levels")
    psa.add_argument("--mask-ratios", metavar="R", help="LEVEL:FROM-TO,..., for example 1:0-0.6,2:0.6-0.8,0:0.8-1")
    psa.add_argument(
        "--block-means",
        action=argparse.BooleanOptionalAction,
        help="whether a skipped block takes part by the means of its keys and values",
    )
    psa.add_argument("--text-length", type=int, help="last tokens kept at full resolution (default: the question)")
    psa.add_argument("--backend", choices=BACKENDS, help="who computes it (default: auto)")
    psa.add_argument(
        "--audit", type=int, nargs="?", const=AUDIT_ROWS, metavar="ROWS",
        help=f"also compute exact attention for so many rows ({AUDIT_ROWS}), and show the error of every layer",
    )  # fmt: skip
    psa.add_argument("--log-dir", help="write a sparsity log of every layer there")
    ask_report.add_arguments(parser)


def attention_of(args) -> str:
    """What --attention or --use-psa ask for."""
    if args.use_psa and args.attention not in (None, "psa"):
        raise ValueError(
            f"--use-psa is --attention psa and contradicts --attention {args.attention}; drop one of them."
        )
    return args.attention or ("psa" if args.use_psa else "dense")


def given_flags(args, names) -> dict:
    """The flags among ``names`` that were given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def budgets_of(args) -> Budgets | None:
    """The budgets of the file that the flags name."""
    if args.budgets is None:
        return None
    if attention_of(args) not in ("psa", "mix"):
        raise ValueError("--budgets does nothing without --use-psa or --attention mix; add one.")
    if args.block_means is not None:
        raise ValueError("--budgets says for each layer whether means take part; drop --block-means or --budgets.")
    return load_budgets(args.budgets)


def psa_config(args, budgets: Budgets | None = None) -> AttentionConfig | None:
    """The configuration that the flags ask for, over that of the budgets; None where attention is dense."""
    attention, given = attention_of(args), given_flags(args, PSA_FLAGS)
    useless = {"dense": [*given, *given_flags(args, ["log_dir"])], "trianglemix": set(given) - {"backend", "audit"}}
    for name in useless.get(attention, ()):
        raise ValueError(f"--{name.replace('_', '-')} does nothing without --use-psa or --attention mix; add one.")
    if attention == "dense":
        return None
    if "audit" in given:
        given["audit_rows"] = given.pop("audit")
    if "mask_ratios" in given:
        given["mask_ratios"] = parse_ratios(given["mask_ratios"])
    if budgets is not None and "preset" not in given:
        return budgets.config.replace(**given)
    return AttentionConfig.preset(given.pop("preset", DEFAULT_PRESET), **given)


def triangle_config(args, budgets: Budgets | None = None) -> TriangleMixConfig | None:
    """The pattern and the layers that the flags ask for; None where no layer takes it, or the budgets say which."""
    given = given_flags(args, (*TRIANGLE_FLAGS, "triangle_layers"))
    if attention_of(args) not in ("trianglemix", "mix"):
        for name in given:
            raise ValueError(f"--{name.replace('_', '-')} does nothing without --attention trianglemix or mix; add it.")
        return None
    if not given and budgets is not None and budgets.triangle_layers:
        return None
    if "triangle_layers" not in given:
        raise ValueError("--attention trianglemix and mix need --triangle-layers, for example 14-27.")
    return TriangleMixConfig(triangle_layer_indices=parse_layers(given.pop("triangle_layers")), **given)
