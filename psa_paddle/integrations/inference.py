"""Ask Qwen2.5-VL about images or a video, with dense or sparse attention."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import paddle

from ..budgets import Budgets, load_budgets
from ..config import AttentionConfig
from ..trianglemix import TriangleMixConfig
from ..utils.media import DEFAULT_MAX_FRAMES, DEFAULT_VIDEO_PIXELS, Clip, load_image, load_video
from ..utils.psa_logger import PSALogger
from .choice import AttentionChoice
from .generation import TokenClock, cached_generation
from .loading import check_backend, check_library, load_qwen2_5_vl, usable_dtype
from .qwen2_5_vl import plug_of, replace_attention
from .samples import image_inputs, video_inputs
from .summary import totals

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
DEMO = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"


def demo_folder() -> str:
    """The bundled checkpoint, which comes with the repository and not with an installed wheel."""
    if not DEMO.is_dir():
        raise ValueError("the demo checkpoint is not here; clone the repository and run 'pip install -e .'.")
    return str(DEMO)


def check_request(prompt: str, max_tokens: int) -> None:
    """Refuse a question that cannot be asked."""
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a string, got {type(prompt).__name__}.")
    if not prompt.strip():
        raise ValueError("prompt is empty; ask something about the input.")
    if "<|" in prompt and "|>" in prompt:
        raise ValueError("prompt contains a special token such as <|image_pad|>; remove it, images are added for you.")
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        raise TypeError(f"max_tokens must be an integer, got {max_tokens!r}.")
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}.")


class QwenVLInference:
    """Qwen2.5-VL on PaddleFormers or PaddleMIX: dense, Pyramid Sparse Attention, TriangleMix or both.

    Args:
        model_name: a folder with a Hugging Face checkpoint, a hub name, or ``"demo"`` for the bundled tiny one.
        dtype: bfloat16, float16 or float32; what the device lacks falls back with a warning.
        use_psa: prefill with Pyramid Sparse Attention.
        psa_config: ``AttentionConfig()`` by default.
        cache_dir: where downloaded weights are kept.
        log_dir: folder for a sparsity log of every request (needs sparse attention).
        library: ``"paddleformers"``, ``"paddlemix"``, or ``"auto"`` for the first of them that is installed.
        attention: ``"dense"``, ``"psa"`` (as ``use_psa``), ``"trianglemix"`` in chosen layers and dense elsewhere, or
            ``"mix"``: TriangleMix in chosen layers and PSA in the others.
        triangle_config, triangle_layers: TriangleMix's pattern and layers, see ``AttentionChoice``.
        budgets: what each layer and head may keep: the path of a file that calibrate_psa.py wrote, or ``Budgets``.

    Raises:
        ValueError, TypeError: a model, dtype or configuration that cannot be used, in one sentence.
    """

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        dtype: str = "bfloat16",
        use_psa: bool = False,
        psa_config: AttentionConfig | None = None,
        cache_dir: str | None = None,
        *,
        log_dir: str | None = None,
        library: str = "auto",
        attention: str | None = None,
        triangle_config: TriangleMixConfig | None = None,
        triangle_layers: list[int] | None = None,
        budgets: Budgets | str | os.PathLike | None = None,
    ):
        if use_psa and attention not in (None, "psa"):
            raise ValueError(f"use_psa=True is attention='psa', but attention is {attention!r}; give one of them.")
        attention, choice = attention or ("psa" if use_psa else "dense"), None
        budgets = None if budgets is None else load_budgets(budgets)
        settings = (psa_config, triangle_config, triangle_layers, budgets)
        if attention != "dense":
            choice = AttentionChoice(attention, *settings)
            check_backend(choice.psa)
        elif log_dir is not None or any(x is not None for x in settings):
            raise ValueError(
                "psa_config, triangle_*, budgets and log_dir do nothing without use_psa=True or attention=..."
            )
        self.library = check_library(library)
        self.model_name = model_name
        self.dtype = usable_dtype(dtype)
        self.log_dir = log_dir
        folder = demo_folder() if model_name == "demo" else model_name
        self.model, self.processor = load_qwen2_5_vl(folder, self.dtype, cache_dir, self.library)
        if choice is not None:
            replace_attention(self.model, choice)
        self._last: dict | None = None

    @property
    def use_psa(self) -> bool:
        return self.attention in ("psa", "mix")

    @property
    def attention(self) -> str:
        """``"dense"``, ``"psa"``, ``"trianglemix"`` or ``"mix"``."""
        plug = plug_of(self.model)
        return "dense" if plug is None else plug.choice.attention

    def inference_image(self, path, prompt: str, max_tokens: int = 512, *, max_pixels=None, streamer=None) -> str:
        """Answer a prompt about one image: a path, an http(s) URL, a PIL image or a uint8 array [H, W, 3]."""
        return self.inference_multi_image([path], prompt, max_tokens, max_pixels=max_pixels, streamer=streamer)

    def inference_multi_image(
        self, paths, prompt: str, max_tokens: int = 512, *, max_pixels=None, streamer=None
    ) -> str:
        """Answer a prompt about several images, in order; max_pixels: the most pixels of each."""
        check_request(prompt, max_tokens)
        if not isinstance(paths, (list, tuple)) or not paths:
            raise ValueError("give a list of at least one image.")
        images = [load_image(path) for path in paths]
        return self._generate(image_inputs(self.processor, images, prompt, max_pixels), max_tokens, streamer)

    def inference_video(
        self,
        path,
        prompt: str,
        max_tokens: int = 512,
        fps: float = 1.0,
        max_pixels: int = DEFAULT_VIDEO_PIXELS,
        *,
        max_frames: int = DEFAULT_MAX_FRAMES,
        streamer=None,
    ) -> str:
        """Answer a prompt about a video: a path, an http(s) URL, or a ``Clip`` that ``load_video`` returned.

        fps: frames a second to look at; max_pixels: the most pixels of a frame; max_frames: the most frames.
        """
        check_request(prompt, max_tokens)
        clip = path if isinstance(path, Clip) else load_video(path, fps, max_pixels, max_frames)
        return self._generate(video_inputs(self.processor, clip, prompt), max_tokens, streamer)

    def _generate(self, inputs, max_tokens: int, streamer) -> str:
        tokenizer, plug = self.processor.tokenizer, plug_of(self.model)
        on_gpu = paddle.get_device().startswith("gpu")
        if on_gpu:
            paddle.device.cuda.reset_max_memory_allocated()
        ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
        with ExitStack() as stack:
            stack.enter_context(paddle.no_grad())
            if plug is None:
                stack.enter_context(cached_generation(self.model))
            else:
                plug.reset()
            clock = TokenClock(streamer)
            if self.library == "paddlemix":  # PaddleFormers hands the prompt to the streamer itself
                clock.put(inputs["input_ids"])
            ids, _ = self.model.generate(
                **inputs,
                max_new_tokens=max_tokens,
                decode_strategy="greedy_search",
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
                streamer=clock,
            )
        memory = paddle.device.cuda.max_memory_allocated() if on_gpu else peak_resident_bytes()
        self._last = {**clock.timings(), **self._lengths(inputs["input_ids"]), "peak_memory_bytes": memory}
        if plug is not None and self.log_dir is not None:
            with PSALogger(self.log_dir, plug.choice) as logger:
                for layer, call in plug.calls:
                    logger.log(layer, call)
        return tokenizer.decode(ids[0].tolist(), skip_special_tokens=True).strip()

    def _lengths(self, input_ids) -> dict:
        config, ids = self.model.config, input_ids.numpy()
        vision = int(np.isin(ids, [config.image_token_id, config.video_token_id]).sum())
        return {"sequence_length": ids.size, "vision_tokens": vision, "text_tokens": ids.size - vision}

    def stats(self) -> dict:
        """What the last request did, in plain types: lengths in tokens, seconds, bytes, sparsity of every layer.

        Raises:
            RuntimeError: before the first request.
        """
        if self._last is None:
            raise RuntimeError("there are no statistics before the first request.")
        plug = plug_of(self.model)
        device = {"model": self.model_name, "library": self.library, "device": paddle.get_device(), "dtype": self.dtype}
        sparse = {} if plug is None else {**totals(plug.calls), "config": plug.choice.as_dict()}
        kind = {"use_psa": self.use_psa, "attention": self.attention}
        if self.attention in ("trianglemix", "mix"):
            kind["triangle_layers"] = plug.triangle_layers
        return {**device, **kind, **self._last, **sparse}

    def print_stats(self) -> None:
        """Print ``stats()`` for a person."""
        print(format_stats(self.stats()))


def describe_attention(s: dict) -> str:
    """Which layers do what, in words."""
    if "triangle_layers" not in s:
        return s["attention"]
    others = "PSA" if s["attention"] == "mix" else "dense"
    return (
        f"{s['attention']}: TriangleMix in layers {', '.join(map(str, s['triangle_layers']))}, {others} in the others"
    )


def describe_budgets(budgets: dict) -> str:
    """Whose and what for, and how unequal, in words."""
    means = [sum(layer) / len(layer) for layer in budgets["factors"]]
    least, most = min(means), max(means)
    target = ", ".join(f"{name} {value:g}" for name, value in budgets["target"].items())
    return (
        f"calibrated on {budgets['model']} for {target}; the factors are {least:.2f} (layer {means.index(least)}) to "
        f"{most:.2f} (layer {means.index(most)})"
    )


def peak_resident_bytes() -> int:
    """Peak resident memory of the process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def format_stats(s: dict) -> str:
    """``QwenVLInference.stats()`` as a few lines of text."""
    speed = "-" if s["decode_tokens_per_s"] is None else f"{s['decode_tokens_per_s']:.1f} tokens/s"
    lines = [
        f"Model       {s['model']}  ({s['library']}, {s['device']}, {s['dtype']})",
        f"Prompt      {s['sequence_length']} tokens: {s['vision_tokens']} vision, {s['text_tokens']} text",
        f"Prefill     {s['ttft_s']:.2f} s to the first token",
        f"Decode      {speed}, {s['new_tokens']} tokens",
        f"Memory      {s['peak_memory_bytes'] / 2**20:.0f} MiB at the peak",
    ]
    if s["attention"] == "dense":
        return "\n".join([*lines, "Attention   dense (no --use-psa)"])
    lines += [f"Attention   {describe_attention(s)}"]
    if s["config"].get("budgets"):
        lines += [f"Budgets     {describe_budgets(s['config']['budgets'])}"]
    lines += [
        f"Sparsity    {s['average_sparsity']:.1%} of the attention work was skipped, on average over the layers",
        f"Layers      {s['layers_sparse']} sparse, {s['layers_dense']} dense, backend {'/'.join(s['backends'])}",
    ]
    lines += [f"Dense       {count} calls: {reason}" for reason, count in s["dense_reasons"].items()]
    lines += [f"  layer {row['layer']:>3}  {row['sparsity']:.1%}" for row in s["layers"]]
    return "\n".join(lines)
