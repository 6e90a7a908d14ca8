"""``psa-paddle plan``: whether a prompt fits a number of GPUs, and how long it takes, before anything is loaded."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from ..config import PRESETS, AttentionConfig
from ..config_values import integer
from ..sizing import (
    GPU_MIB,
    ITEM_SIZES,
    OPERATOR,
    Memory,
    ModelShape,
    Request,
    fewest_gpus,
    fits,
    largest_chunk,
    memory_of,
    possible_gpus,
    prefill_seconds,
    room,
    shape_of,
)
from ..utils.command import EXIT_CODES, run_command
from ..utils.language import say

DESCRIPTION = """Say whether a prompt fits, and how long its prefill takes; nothing is loaded or downloaded.

psa-paddle plan --model Qwen2.5-VL-7B --tokens 131072
psa-paddle plan --model Qwen2.5-VL-72B --tokens 262144 --gpus 4 --gpu H200 --prefill-chunk 8192
psa-paddle plan --model /data/Qwen2.5-VL-7B-Instruct --tokens 65536 --json

Memory comes from formulas, times from rows measured on an H200; each line says which. docs/serving.md has both.
"""
PARTS = {
    "weights": "weights of the text model",
    "tower": "weights of the vision tower, whole on every GPU",
    "cache": "KV cache",
    "prompt": "rows of the prompt before the first layer",
    "work": "a layer at work, with the operator",
}
NOTES = (
    "Memory is computed, not measured; a tenth of each GPU is left free for the CUDA context and the allocator.",
    "Times are of the text model's prefill, with GPUs joined by NVLink; not in them: the vision tower's, and what the "
    "host takes to start kernels, for which prompts of a few thousand tokens wait.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.description, parser.epilog = DESCRIPTION, EXIT_CODES
    parser.add_argument("--model", required=True, help="a folder with config.json, 'demo', or a size: Qwen2.5-VL-7B")
    parser.add_argument("--tokens", type=int, required=True, help="length of the prompt, vision tokens included")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs that tensor parallel splits it over (default: 1)")
    parser.add_argument("--gpu", choices=tuple(GPU_MIB), default="H100", help="kind of GPU (default: %(default)s)")
    parser.add_argument("--prefill-chunk", type=int, metavar="N", help="read the prompt N tokens at a time")
    attention = ("dense", *PRESETS)
    parser.add_argument("--preset", choices=attention, default="balanced", help="attention (default: %(default)s)")
    parser.add_argument(
        "--dtype",
        choices=tuple(ITEM_SIZES),
        default="bfloat16",
        help="of weights and activations (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, bytes and seconds")


def run(args: argparse.Namespace) -> int:
    """Print the plan; returns the exit status, 0 also for what does not fit."""
    return run_command(lambda: _print(args), "this takes none to speak of.")


def _print(args: argparse.Namespace) -> None:
    found = plan_of(args)
    print(json.dumps(found, ensure_ascii=False) if args.json else text_of(found))


def plan_of(args: argparse.Namespace) -> dict:
    """Everything that is printed, in plain types: bytes and seconds.

    Raises:
        ValueError: a model that is not known; no tokens; GPUs that heads cannot be split over; a chunk that
            ``--prefill-chunk`` does not take.
    """
    shape = shape_of(args.model)
    request = _request(shape, args)
    config = None if args.preset == "dense" else AttentionConfig.preset(args.preset)
    memory = memory_of(shape, request, config)
    return {
        "model": shape.name,
        "parameters": shape.parameters,
        "tokens": request.tokens,
        "gpus": request.gpus,
        "gpu": args.gpu,
        "preset": args.preset,
        "prefill_chunk": request.chunk,
        "dtype": request.dtype,
        "memory": {**asdict(memory), "total": memory.total},
        "room": room(args.gpu),
        "fits": fits(memory, args.gpu),
        "fewest_gpus": fewest_gpus(shape, request, config, args.gpu),
        "largest_chunk": _chunk(shape, request, config, memory, args.gpu),
        "prefill": _times(shape, request),
        "notes": list(NOTES),
    }


def _request(shape: ModelShape, args: argparse.Namespace) -> Request:
    for flag, number in (("--tokens", args.tokens), ("--gpus", args.gpus), ("--prefill-chunk", args.prefill_chunk)):
        if number is not None and integer(flag, number) < 1:
            raise ValueError(f"{flag} must be at least 1, got {number}.")
    if args.prefill_chunk is not None and args.prefill_chunk % 128:
        raise ValueError(f"--prefill-chunk must be a multiple of 128, got {args.prefill_chunk}.")
    possible = possible_gpus(shape)
    if args.gpus not in possible:
        raise ValueError(
            f"--gpus must be one of {', '.join(map(str, possible))} for {shape.name}, which divide its heads, "
            f"kv heads, MLP and vocabulary; got {args.gpus}."
        )
    return Request(args.tokens, args.gpus, args.prefill_chunk, args.dtype)


def _chunk(shape: ModelShape, request: Request, config, memory: Memory, gpu: str) -> int | None:
    """A chunk that makes it fit; None where none is needed or none does."""
    return None if fits(memory, gpu) else largest_chunk(shape, request, config, gpu)


def _times(shape: ModelShape, request: Request) -> dict:
    """Preset -> seconds of the prefill, of attention in them, and what they rest on."""
    found = {}
    for preset in OPERATOR:
        seconds = prefill_seconds(shape, request, preset)
        found[preset] = {
            "seconds": seconds.total,
            "attention_seconds": seconds.attention,
            "sums_seconds": seconds.sums,
            "basis": "measured" if seconds.measured else "derived",
        }
    return found


def text_of(found: dict) -> str:
    """A plan in words, in the language of the process; sizes in GiB."""
    lines = [
        say(f"{found['model']}: {found['parameters']:,} weights, {found['dtype']}"),
        say(f"{found['tokens']:,} tokens on {found['gpus']} x {found['gpu']}, attention: {found['preset']}"),
    ]
    if found["prefill_chunk"]:
        lines.append(say(f"{found['prefill_chunk']:,} tokens at a time"))
    lines += ["", say("Memory of each GPU in GiB, computed")]
    lines += [f"  {found['memory'][part] / 2**30:9.2f}  {say(words)}" for part, words in PARTS.items()]
    may_fill = say(f"together, of {found['room'] / 2**30:.1f} that may be filled")
    lines += [
        f"  {found['memory']['total'] / 2**30:9.2f}  {may_fill}",
        "",
        say(_verdict(found)),
        "",
        say(_basis(found)),
    ]
    for preset, time in found["prefill"].items():
        part = say(f"attention {time['attention_seconds']:.3g}, between GPUs {time['sums_seconds']:.3g}")
        lines.append(f"  {time['seconds']:9.3g}  {preset} ({part})")
    return "\n".join([*lines, "", *map(say, found["notes"])])


def _verdict(found: dict) -> str:
    chunk, gpus = found["largest_chunk"], found["fewest_gpus"]
    if found["fits"]:
        return "It fits."
    if chunk and gpus:
        return f"It does not fit; it does with --prefill-chunk {chunk} on as many GPUs, or with --gpus {gpus}."
    if chunk:
        return f"It does not fit; it does with --prefill-chunk {chunk} on as many GPUs."
    return f"It does not fit; it does with --gpus {gpus}." if gpus else "It does not fit, on 8 GPUs neither."


def _basis(found: dict) -> str:
    if {time["basis"] for time in found["prefill"].values()} == {"measured"}:
        return "Seconds of the prefill, the sum of rows measured on an H200"
    return "Seconds of the prefill, derived from rows measured on an H200"
