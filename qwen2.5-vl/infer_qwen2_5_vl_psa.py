"""Ask Qwen2.5-VL about images or a video, with Pyramid Sparse Attention, TriangleMix or both.

python qwen2.5-vl/infer_qwen2_5_vl_psa.py --type video --input v.mp4 --prompt "请描述这个视频" --use-psa
python qwen2.5-vl/infer_qwen2_5_vl_psa.py --model demo --type image --input demo/sample.jpg --prompt "What is this?"
python qwen2.5-vl/infer_qwen2_5_vl_psa.py --type video --input v.mp4 --attention mix --triangle-layers 14-27
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from pathlib import Path

# What the libraries say while they are imported is not for the person who asks about a video.
os.environ.setdefault("GLOG_minloglevel", "2")
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
for notice in ("No ccache found", "Setuptools is replacing distutils", "To copy construct from a tensor"):
    warnings.filterwarnings("ignore", message=notice)
logging.getLogger("PaddleFormers").addFilter(lambda record: record.levelno >= logging.ERROR)

from psa_paddle.budgets import Budgets  # noqa: E402
from psa_paddle.config import BACKENDS, DEFAULT_PRESET, MASK_MODES, PRESETS, AttentionConfig  # noqa: E402
from psa_paddle.integrations.choice import ATTENTIONS  # noqa: E402
from psa_paddle.integrations.inference import DEFAULT_MODEL, QwenVLInference, check_request, format_stats  # noqa: E402
from psa_paddle.integrations.loading import DTYPES, LIBRARIES, check_library  # noqa: E402
from psa_paddle.trianglemix import TriangleMixConfig  # noqa: E402
from psa_paddle.utils.media import DEFAULT_MAX_FRAMES, DEFAULT_VIDEO_PIXELS, load_image, load_video  # noqa: E402
from psa_paddle.utils.psa_logger import write_json  # noqa: E402

__all__ = ["QwenVLInference", "main"]

PROMPTS = {"image": "请描述这张图片", "video": "请描述这个视频"}
PSA_FLAGS = (
    "preset", "query_block", "key_block", "xattn_stride", "mask_mode", "mask_ratios", "block_means", "text_length",
    "backend",
)  # fmt: skip
TRIANGLE_FLAGS = ("num_sink_tokens", "sliding_window_size", "num_last_tokens")
VIDEO_FLAGS = ("fps", "max_frames")


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


def parse_layers(text: str) -> list[int]:
    """``"2,5,8-11"`` -> [2, 5, 8, 9, 10, 11]."""
    layers = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            found = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            found = ()
        if not found:
            raise ValueError(f"--triangle-layers part '{part}' must look like 5 or 8-11.")
        layers += found
    return layers


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", choices=("image", "video"), default="image", help="kind of --input (default: image)")
    parser.add_argument("--input", nargs="+", required=True, metavar="FILE", help="path or http(s) URL; several images")
    parser.add_argument("--prompt", help="the question (default: asks for a description, in Chinese)")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder, hub name, or 'demo' (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=512, help="most new tokens (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the model (default: %(default)s)")
    parser.add_argument("--fps", type=float, help="video frames a second to look at (default: 1)")
    parser.add_argument("--max-pixels", type=int, help=f"of an image, or of a frame ({DEFAULT_VIDEO_PIXELS})")
    parser.add_argument("--max-frames", type=int, help=f"most frames of a video (default: {DEFAULT_MAX_FRAMES})")
    parser.add_argument("--cache-dir", help="where downloaded weights are kept")
    parser.add_argument("--library", choices=("auto", *LIBRARIES), default="auto", help="whose model (default: auto)")
    parser.add_argument("--stream", action="store_true", help="print tokens as they are made")
    parser.add_argument("--stats-json", type=Path, metavar="FILE", help="write the statistics there")
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
    psa.add_argument("--budgets", metavar="FILE", help="what each layer and head may keep, from calibrate_psa.py")
    psa.add_argument("--query-block", type=int, help="rows of a query block: 64 or 128")
    psa.add_argument("--key-block", type=int, help="keys of a key block: 32, 64 or 128")
    psa.add_argument("--xattn-stride", type=int, help="stride of the importance estimate: 4, 8, 16 or 32")
    psa.add_argument("--mask-mode", choices=tuple(MASK_MODES), help="how blocks are ranked into levels")
    psa.add_argument("--mask-ratios", metavar="R", help="LEVEL:FROM-TO,..., for example 1:0-0.6,2:0.6-0.8,0:0.8-1")
    psa.add_argument(
        "--block-means",
        action=argparse.BooleanOptionalAction,
        help="whether a skipped block takes part by the means of its keys and values",
    )
    psa.add_argument("--text-length", type=int, help="last tokens kept at full resolution (default: the question)")
    psa.add_argument("--backend", choices=BACKENDS, help="who computes it (default: auto)")
    psa.add_argument("--log-dir", help="write a sparsity log of every layer there")
    return parser


def attention_of(args) -> str:
    """What --attention or --use-psa ask for."""
    if args.use_psa and args.attention not in (None, "psa"):
        raise ValueError(
            f"--use-psa is --attention psa and contradicts --attention {args.attention}; drop one of them."
        )
    return args.attention or ("psa" if args.use_psa else "dense")


def given_flags(args, names) -> dict:
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def budgets_of(args) -> Budgets | None:
    """The budgets of the file that the flags name."""
    if args.budgets is None:
        return None
    if attention_of(args) not in ("psa", "mix"):
        raise ValueError("--budgets does nothing without --use-psa or --attention mix; add one.")
    if args.block_means is not None:
        raise ValueError("--budgets says for each layer whether means take part; drop --block-means or --budgets.")
    return Budgets.load(args.budgets)


def psa_config(args, budgets: Budgets | None = None) -> AttentionConfig | None:
    """The configuration that the flags ask for, over that of the budgets; None where attention is dense."""
    attention, given = attention_of(args), given_flags(args, PSA_FLAGS)
    useless = {"dense": [*given, *given_flags(args, ["log_dir"])], "trianglemix": set(given) - {"backend"}}
    for name in useless.get(attention, ()):
        raise ValueError(f"--{name.replace('_', '-')} does nothing without --use-psa or --attention mix; add one.")
    if attention == "dense":
        return None
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


def load_inputs(args):
    """Read every input before any model is loaded; returns what ``QwenVLInference`` takes."""
    if args.type == "image":
        for name in VIDEO_FLAGS:
            if getattr(args, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is for --type video.")
        if args.max_pixels is not None and args.max_pixels < 28 * 28:
            raise ValueError(f"--max-pixels must be at least {28 * 28}, got {args.max_pixels}.")
        return [load_image(source) for source in args.input]
    if len(args.input) > 1:
        raise ValueError("--type video takes one input; several inputs are for images.")
    given = {name: getattr(args, name) for name in (*VIDEO_FLAGS, "max_pixels") if getattr(args, name) is not None}
    return load_video(args.input[0], **given)


def quiet_libraries(library: str) -> None:
    """Keep the libraries' progress notes away from the answer; their errors still show."""
    if library == "paddlemix":
        from paddlenlp.utils.log import logger

        logger.set_level("ERROR")
        return
    from paddle.distributed.flex_checkpoint.dcp import load_state_dict, utils
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    for module in (load_state_dict, utils):
        module.logger.setLevel(logging.ERROR)


def text_streamer(model: QwenVLInference):
    """Prints tokens as they are made."""
    if model.library == "paddlemix":
        from paddlenlp.generation import TextStreamer
    else:
        from paddleformers.generation.streamers import TextStreamer
    return TextStreamer(model.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)


def run(args) -> None:
    prompt = PROMPTS[args.type] if args.prompt is None else args.prompt
    check_request(prompt, args.max_tokens)
    budgets = budgets_of(args)
    settings = dict(psa_config=psa_config(args, budgets), triangle_config=triangle_config(args, budgets))
    choice = dict(attention=attention_of(args), budgets=budgets, **settings)
    if args.stats_json is not None and not args.stats_json.resolve().parent.is_dir():
        raise ValueError(f"--stats-json: the folder of '{args.stats_json}' does not exist; make it first.")
    library = check_library(args.library)
    quiet_libraries(library)
    inputs = load_inputs(args)
    keywords = {"cache_dir": args.cache_dir, "log_dir": args.log_dir, "library": library}
    model = QwenVLInference(args.model, args.dtype, **keywords, **choice)
    streamer = text_streamer(model) if args.stream else None
    if args.type == "image":
        answer = model.inference_multi_image(
            inputs, prompt, args.max_tokens, max_pixels=args.max_pixels, streamer=streamer
        )
    else:
        answer = model.inference_video(inputs, prompt, args.max_tokens, streamer=streamer)
    if not args.stream:
        print(answer)
    stats = model.stats()
    print(f"\n{format_stats(stats)}")
    if args.stats_json is not None:
        write_json(args.stats_json, json.dumps(stats, indent=2, ensure_ascii=False) + "\n")


def main(argv=None) -> int:
    """Run the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    own = logging.getLogger("psa_paddle")
    own.propagate = False  # PaddleFormers formats the root logger's lines its own way
    own.addHandler(logging.StreamHandler())
    try:
        run(args)
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
