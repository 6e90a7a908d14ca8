"""The flags that say which model answers and how, and the settings that they ask for."""

from __future__ import annotations

import argparse

from ..budgets import Budgets, load_budgets
from ..config import AUDIT_ROWS, BACKENDS, DEFAULT_PRESET, MASK_MODES, PRESETS, AttentionConfig
from ..integrations.language.answering.prefill import check_chunk
from ..integrations.language.answering.sampling import Sampling
from ..integrations.language.choice import ATTENTIONS
from ..integrations.language.inference import DEFAULT_MODEL
from ..integrations.language.loading import DTYPES, LIBRARIES, check_library
from ..trianglemix import TriangleMixConfig
from ..video_tokens import AUTO, check_video_tokens
from .ranks import ranks_of

PSA_FLAGS = (
    "preset", "query_block", "key_block", "xattn_stride", "mask_mode", "mask_ratios", "block_means", "text_length",
    "backend", "audit",
)  # fmt: skip
TRIANGLE_FLAGS = ("num_sink_tokens", "sliding_window_size", "num_last_tokens")
SAMPLING_FLAGS = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")


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


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser with the flags of the model, of its answers and of its attention."""
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder, hub name, or 'demo' (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=512, help="most new tokens (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the model (default: bfloat16; float32 on a CPU)")
    parser.add_argument("--cache-dir", help="where downloaded weights are kept")
    parser.add_argument("--library", choices=("auto", *LIBRARIES), default="auto", help="whose model (default: auto)")
    parser.add_argument(
        "--video-tokens", metavar="SHARE", help="how many tokens of a video are read: 0.5, or 'auto' (default: all)"
    )
    parser.add_argument(
        "--prefill-chunk", type=int, metavar="TOKENS", help="prefill so many tokens at a time, a multiple of 128"
    )
    parser.add_argument(
        "--tensor-parallel", type=int, metavar="N", help="split the heads over N GPUs, a process of the launcher each"
    )
    drawn = parser.add_argument_group(
        "Drawing of tokens (default: as the model's generation_config.json says, or greedy)"
    )
    drawn.add_argument("--temperature", type=float, help="0 takes the most likely token")
    drawn.add_argument("--top-p", type=float, help="draw among the most likely that together have this probability")
    drawn.add_argument("--top-k", type=int, help="draw among so many; 0: all")
    drawn.add_argument("--repetition-penalty", type=float, help="above 1, what was said before gets less likely")
    drawn.add_argument("--seed", type=int, help="the same seed gives the same answer")
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


def model_settings(args) -> dict:
    """What ``QwenVLInference`` is made with, checked as far as that goes without the model."""
    budgets = budgets_of(args)
    sampling = Sampling(**given_flags(args, SAMPLING_FLAGS))
    return {
        "cache_dir": args.cache_dir,
        "library": check_library(args.library),
        "attention": attention_of(args),
        "budgets": budgets,
        "psa_config": psa_config(args, budgets),
        "triangle_config": triangle_config(args, budgets),
        "video_tokens": video_tokens_of(args.video_tokens),
        "prefill_chunk": check_chunk(args.prefill_chunk),
        "sampling": sampling,
        "tensor_parallel": ranks_of(args.tensor_parallel),
    }


def video_tokens_of(text: str | None) -> float | str | None:
    """What --video-tokens asks for."""
    if text in (None, AUTO):
        return text
    try:
        return check_video_tokens(float(text))
    except ValueError:
        raise ValueError(f"--video-tokens must be 'auto' or above 0 and at most 1, got {text}.") from None


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
