"""The models of video_generation.py: two stubs, and CogVideoX and Wan through PaddleMIX's ppdiffusers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle
from stub_video import STUBS, StubVideoPipeline

from psa_paddle.integrations.language.loading import usable_dtype

FRAMES_PER_LATENT = 4


@dataclass(frozen=True)
class VideoModel:
    """One choice of ``--model``: its presets' section, its weights' hub name (None: a stub), and its usual settings."""

    section: str
    hub: str | None
    width: int
    height: int
    num_frames: int
    steps: int
    guidance: float
    fps: int


MODELS = {
    "stub-cogvideox": VideoModel("CogVideo1.5_5b", None, 320, 256, 17, 20, 6.0, 8),
    "stub-wan": VideoModel("Wan2.1_1.3b", None, 320, 256, 17, 20, 5.0, 8),
    "cogvideo_5b": VideoModel("CogVideo_5b", "THUDM/CogVideoX-5b", 720, 480, 49, 50, 6.0, 8),
    "wan2.1_1.3b": VideoModel("Wan2.1_1.3b", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", 832, 480, 81, 50, 5.0, 16),
    "wan2.1_14b": VideoModel("Wan2.1_14b", "Wan-AI/Wan2.1-T2V-14B-Diffusers", 1280, 720, 81, 50, 5.0, 16),
}


@dataclass(frozen=True)
class Request:
    """What to make of each prompt; sizes in pixels."""

    width: int
    height: int
    num_frames: int
    steps: int
    guidance: float


@dataclass(frozen=True)
class Loaded:
    """A loaded model. generate: (prompt, request, seed) -> frames in [0, 1], float32 [num_frames, height, width, 3]."""

    transformer: paddle.nn.Layer
    generate: Callable[[str, Request, int], np.ndarray]


def load(name: str, weights: str | None, height: int) -> Loaded:
    """Load a model of ``MODELS``; weights: a folder or a hub name in place of the usual one.

    Raises:
        ValueError: no ppdiffusers, or weights that cannot be loaded.
    """
    if name in STUBS:
        return _load_stub(name)
    try:
        import ppdiffusers
    except ImportError as error:
        raise ValueError(
            f"model {name} needs PaddleMIX's ppdiffusers, which cannot be imported ({error}); docs/paddlemix.md says "
            "how to install it, and --model stub-cogvideox runs without it."
        ) from error
    source = weights or MODELS[name].hub
    make = _load_cogvideox if name.startswith("cogvideo") else _load_wan
    try:
        pipe = make(ppdiffusers, source, usable_dtype(None), height)
    except (AttributeError, KeyError, OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"'{source}' could not be loaded as {name}: {reason}.") from error
    return Loaded(pipe.transformer, lambda prompt, request, seed: _run(pipe, prompt, request, seed))


def _load_stub(name: str) -> Loaded:
    pipe = StubVideoPipeline(name)

    def generate(prompt: str, request: Request, seed: int) -> np.ndarray:
        return pipe(
            prompt,
            height=request.height,
            width=request.width,
            num_frames=request.num_frames,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            seed=seed,
        )

    return Loaded(pipe.transformer, generate)


def _load_cogvideox(ppdiffusers, source: str, dtype: str, height: int):
    if not paddle.get_device().startswith("gpu"):
        os.environ.setdefault("FLAGS_sdpa_select_math", "yes")  # its attention has no other way on a CPU
    pipe = ppdiffusers.CogVideoXPipeline.from_pretrained(source, paddle_dtype=getattr(paddle, dtype))
    pipe.scheduler = ppdiffusers.CogVideoXDDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    return pipe


def _load_wan(ppdiffusers, source: str, dtype: str, height: int):
    vae = ppdiffusers.AutoencoderKLWan.from_pretrained(source, subfolder="vae", paddle_dtype=paddle.float32)
    shift = 5.0 if height >= 720 else 3.0  # Wan2.1's own settings for 720 and 480 lines
    scheduler = ppdiffusers.FlowMatchEulerDiscreteScheduler(shift=shift)  # 0.29.1's UniPC does not run Wan
    settings = {"vae": vae, "scheduler": scheduler, "paddle_dtype": getattr(paddle, dtype)}
    return ppdiffusers.WanPipeline.from_pretrained(source, **settings)


def _run(pipe, prompt: str, request: Request, seed: int) -> np.ndarray:
    paddle.seed(seed)
    result = pipe(
        prompt=prompt,
        height=request.height,
        width=request.width,
        num_frames=request.num_frames,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        output_type="np",
    )
    return np.asarray(result.frames[0], dtype=np.float32)
