"""Generate videos from text, with Pyramid Sparse Attention. Without weights, with STUB models of random weights.

python examples/video_generation.py --prompt "a red ball rolls down a hill" --use_psa
python examples/video_generation.py --model wan2.1_1.3b --prompt_file prompts.txt --use_psa --seed 7
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # the imports take seconds, and Ctrl-C there would show their insides
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"interrupted\n"), os._exit(130)))

import numpy as np

from psa_paddle import Preset, load_preset
from psa_paddle.integrations.ppdiffusers import plug_of, replace_attention_with_psa
from psa_paddle.utils.command import EXIT_CODES, TERMINATED, run_command
from psa_paddle.utils.files import as_path, check_file, check_folder, replacing
from psa_paddle.utils.quiet import quiet_import

with quiet_import():
    from video_models import FRAMES_PER_LATENT, MODELS, Request, VideoModel, load

MEMORY_ADVICE = "make a smaller video with --width, --height or --num_frames, or take a smaller --model."
PSA_FLAGS = ("attention_preset", "preset_file", "verbose")
log = logging.getLogger("psa_paddle")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=tuple(MODELS), default="stub-cogvideox", help="(default: %(default)s)")
    parser.add_argument("--weights", help="folder or hub name of the weights (default: the model's own hub name)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="what the video shows")
    what.add_argument("--prompt_file", type=Path, metavar="FILE", help="one prompt a line; one video each")
    parser.add_argument("--width", type=int, help="pixels (default: the model's)")
    parser.add_argument("--height", type=int, help="pixels (default: the model's)")
    parser.add_argument("--num_frames", type=int, help=f"{FRAMES_PER_LATENT} n + 1 (default: the model's)")
    parser.add_argument("--num_inference_steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance_scale", type=float, help="classifier-free guidance; 1: none (default: the model's)")
    parser.add_argument("--seed", type=int, default=42, help="of the first video (default: %(default)s)")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs"), help="(default: %(default)s)")
    psa = parser.add_argument_group("Pyramid Sparse Attention (all need --use_psa)")
    psa.add_argument("--use_psa", action="store_true", help="attend with Pyramid Sparse Attention")
    psa.add_argument("--attention_preset", help="name in configs/attention_config.yaml (default: the model's default)")
    psa.add_argument("--preset_file", type=Path, metavar="FILE", help="YAML file with presets of your own")
    psa.add_argument("--verbose", action="store_true", help="the sparsity of every layer too")
    return parser


def preset_of(args, section: str) -> Preset | None:
    """The preset that the flags ask for; None without --use_psa."""
    if args.use_psa:
        file = None if args.preset_file is None else as_path(args.preset_file, "--preset_file")
        return load_preset(section, args.attention_preset, file)
    for name in PSA_FLAGS:
        if getattr(args, name):
            raise ValueError(f"--{name} does nothing without --use_psa; add it.")
    return None


def prompts_of(args) -> list[str]:
    if args.prompt is not None:
        prompts = [args.prompt.strip()]
    else:
        try:
            lines = as_path(args.prompt_file, "--prompt_file").read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"--prompt_file '{args.prompt_file}' is not UTF-8 text ({error.reason}).") from None
        prompts = [line.strip() for line in lines]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise ValueError("no prompt: say what the video shows.")
    return prompts


def request_of(args, model: VideoModel) -> Request:
    """Sizes, steps and guidance, checked before anything is loaded."""

    def given(name: str, usual):
        value = getattr(args, name)
        return usual if value is None else value

    request = Request(
        width=given("width", model.width),
        height=given("height", model.height),
        num_frames=given("num_frames", model.num_frames),
        steps=given("num_inference_steps", model.steps),
        guidance=given("guidance_scale", model.guidance),
    )
    if request.steps < 1:
        raise ValueError(f"--num_inference_steps must be at least 1, got {request.steps}.")
    if request.num_frames < 1 or (request.num_frames - 1) % FRAMES_PER_LATENT:
        raise ValueError(f"--num_frames must be 1, 5, 9, 13 and so on, got {request.num_frames}.")
    if not 1 <= request.guidance < 1000:
        raise ValueError(f"--guidance_scale must be at least 1, got {request.guidance}.")
    if not 0 <= args.seed < 2**31:
        raise ValueError(f"--seed must lie in [0, {2**31}), got {args.seed}.")
    load_preset(model.section).grid(request.num_frames, request.height, request.width)
    return request


def write_mp4(path: Path, frames: np.ndarray, fps: int) -> None:
    """Write frames in [0, 1], [T, H, W, 3], as H.264; beside the target first, so that nothing is left half-written."""
    import av

    with replacing(path) as part, av.open(str(part), "w", "mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in (frames.clip(0, 1) * 255).round().astype(np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def summary_of(rows: list[dict], verbose: bool) -> str:
    """What a video's steps skipped, over its sparse steps and over all."""
    sparse = [row["average_sparsity"] for row in rows if row["layers_sparse"]]
    mean = sum(sparse) / len(sparse) if sparse else 0.0
    lines = []
    if verbose:
        lines += [
            f"  step {row['step']:>2} layer {layer['layer']:>2}  {layer['sparsity']:6.1%}"
            for row in rows
            for layer in row["layers"]
        ]
    whole = sum(row["average_sparsity"] for row in rows) / len(rows)
    lines.append(f"sparsity {mean:.1%} over {len(sparse)} sparse steps, {whole:.1%} over all {len(rows)} steps")
    return "\n".join(lines)


def run(args) -> None:
    model = MODELS[args.model]
    request, preset, prompts = request_of(args, model), preset_of(args, model.section), prompts_of(args)
    if args.weights is not None and model.hub is None:
        raise ValueError(f"--weights does nothing with {args.model}, whose weights are random.")
    output = check_folder(args.output_dir, "--output_dir")
    loaded = load(args.model, args.weights, request.height)
    if model.hub is None:
        log.info("%s is a STUB with random weights: its pictures mean nothing.", args.model)
    if preset is not None:
        log.info("Pyramid Sparse Attention, preset %s of %s: %s", preset.name, preset.model, preset.description)
        replace_attention_with_psa(loaded.transformer, preset, verbose=True if args.verbose else None)
    plug, folder = plug_of(loaded.transformer), output / args.model
    folder.mkdir(parents=True, exist_ok=True)
    paths = [check_file(folder / f"video_{index:04d}.mp4", "--output_dir") for index in range(len(prompts))]
    for index, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
        if plug is not None:
            plug.reset()
        started = time.perf_counter()
        frames = loaded.generate(prompt, request, args.seed + index)
        seconds = time.perf_counter() - started
        if plug is not None:
            log.info(summary_of(plug.steps(), args.verbose))
        write_mp4(path, frames, model.fps)
        log.info("%s  %d frames of %dx%d, %.1f s", path, len(frames), request.width, request.height, seconds)


def main(argv=None) -> int:
    """Run the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    handler = logging.StreamHandler(sys.stdout)
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        return run_command(lambda: run(args), MEMORY_ADVICE)
    finally:
        log.removeHandler(handler)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    sys.exit(main())
