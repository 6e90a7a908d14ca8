"""Ask Qwen2.5-VL about images or a video, with dense or sparse attention."""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import paddle

from ...budgets import Budgets, load_budgets
from ...config import AttentionConfig
from ...stats import PSALogger, format_stats, totals
from ...trianglemix import TriangleMixConfig
from ...utils.files import as_path, check_folder
from ...utils.media import DEFAULT_MAX_FRAMES, DEFAULT_VIDEO_PIXELS, Clip, load_image, load_video
from ...utils.quiet import quiet_libraries
from . import families
from .attention import plug_of, replace_attention
from .choice import AttentionChoice
from .generation import TokenClock, cached_generation
from .loading import check_backend, check_library, load_qwen2_5_vl, usable_dtype
from .paddleformers.linear_memory import use_linear_memory
from .request import check_clip, check_images, check_positions, check_request, image_limits
from .samples import image_inputs, video_inputs

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
DEMO = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"
END_TOKENS = ["<|im_end|>", "<|endoftext|>"]
log = logging.getLogger("psa_paddle")


def check_cache(cache_dir) -> str:
    """The folder for downloads; it may be read-only, when all is there already."""
    path = as_path(cache_dir, "cache_dir")
    if path.exists() and not path.is_dir():
        raise ValueError(f"cache_dir '{path}' is a file; name a folder.")
    return str(path)


class QwenVLInference:
    """Qwen2.5-VL on PaddleFormers or PaddleMIX: dense, Pyramid Sparse Attention, TriangleMix or both.

    Args:
        model_name: a folder with a Hugging Face checkpoint, a hub name, or ``"demo"`` for the bundled tiny one.
        dtype: bfloat16, float16 or float32; what the device lacks falls back with a warning. None: bfloat16, or the
            best that the device has.
        use_psa: prefill with Pyramid Sparse Attention.
        psa_config: an ``AttentionConfig`` or the name of a preset; ``"balanced"`` by default, or what ``budgets`` were
            measured with.
        cache_dir: where downloaded weights are kept.
        log_dir: folder for a sparsity log of every request (needs sparse attention); a log that cannot be written is
            an error in Python's logging and costs no answer.
        library: ``"paddleformers"``, ``"paddlemix"``, or ``"auto"`` for the first of them that is installed.
        attention: ``"dense"``, ``"psa"`` (as ``use_psa``), ``"trianglemix"`` in chosen layers and dense elsewhere, or
            ``"mix"``: TriangleMix in chosen layers and PSA in the others.
        triangle_config, triangle_layers: TriangleMix's pattern and layers, see ``AttentionChoice``.
        budgets: what each layer and head may keep: a file that ``psa-paddle calibrate`` wrote, or ``Budgets``.

    Raises:
        ValueError, TypeError: a model, dtype or configuration that cannot be used, in one sentence.
    """

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        dtype: str | None = None,
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
        if not isinstance(use_psa, (bool, np.bool_)):
            raise TypeError(f"use_psa must be True or False, got {use_psa!r}.")
        if use_psa and attention not in (None, "psa"):
            raise ValueError(f"use_psa=True is attention='psa', but attention is {attention!r}; give one of them.")
        attention, choice = attention or ("psa" if use_psa else "dense"), None
        budgets = None if budgets is None else load_budgets(budgets)
        settings = (psa_config, triangle_config, triangle_layers, budgets)
        if attention != "dense":
            choice = AttentionChoice(attention, *settings)
            check_backend(choice.config)
        elif log_dir is not None or any(x is not None for x in settings):
            raise ValueError(
                "psa_config, triangle_*, budgets and log_dir do nothing without use_psa=True or attention=..."
            )
        self.library = check_library(library)
        self.model_name = str(as_path(model_name, "model_name"))
        self.log_dir = None if log_dir is None else check_folder(log_dir, "log_dir")
        cache_dir = None if cache_dir is None else check_cache(cache_dir)
        self.dtype = usable_dtype(dtype)
        folder = str(DEMO) if self.model_name == "demo" else self.model_name
        with quiet_libraries(self.library):
            self.model, self.processor = load_qwen2_5_vl(folder, self.dtype, cache_dir, self.library)
        if self.library == "paddleformers":
            use_linear_memory(self.model, text=choice is None)
        self.family = families.check(self.model).family
        if choice is not None:
            replace_attention(self.model, choice)
        self._last: dict | None = None
        self._one_request = threading.RLock()  # the model and the tokenizer keep state while they answer

    @property
    def use_psa(self) -> bool:
        """Whether any layer prefills with Pyramid Sparse Attention."""
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
        max_tokens = check_request(prompt, max_tokens, streamer)
        limits = image_limits(max_pixels, self.family.vision_factor())
        images = [load_image(path) for path in check_images(paths)]
        with self._one_request:
            return self._generate(image_inputs(self.processor, images, prompt, limits), max_tokens, streamer)

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
        max_tokens = check_request(prompt, max_tokens, streamer)
        factor = self.family.vision_factor()
        if isinstance(path, Clip):
            clip = check_clip(path, factor)
        else:
            clip = load_video(path, fps, max_pixels, max_frames, factor=factor)
        with self._one_request:
            inputs = video_inputs(self.processor, clip, prompt)
            return self._generate(inputs, max_tokens, streamer, frame_times_s=clip.times)

    def _generate(self, inputs, max_tokens: int, streamer, **known) -> str:
        """The answer; known: what the statistics say beside."""
        tokenizer, plug = self.processor.tokenizer, plug_of(self.model)
        lengths = self._lengths(inputs["input_ids"])
        check_positions(lengths["sequence_length"], max_tokens, self.model.config)
        on_gpu = paddle.get_device().startswith("gpu")
        if on_gpu:
            paddle.device.cuda.reset_max_memory_allocated()
        ends = tokenizer.convert_tokens_to_ids(END_TOKENS)
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
        new = ids[0].tolist()
        reason = "stop" if set(new) & set(ends) else "length"
        self._last = {**clock.timings(), "finish_reason": reason, **lengths, "peak_memory_bytes": memory, **known}
        if reason == "length":
            log.warning("the answer was cut off after %d tokens; a larger max_tokens gives the rest.", max_tokens)
        if plug is not None and self.log_dir is not None:
            try:
                self.write_log(self.log_dir)
            except OSError as error:
                log.error("the sparsity log could not be written to '%s' (%s).", self.log_dir, error)
        return tokenizer.decode(new, skip_special_tokens=True).strip()

    def write_log(self, log_dir) -> None:
        """Write the sparsity log of the last request, JSON lines and a summary, into a folder, made when needed.

        Raises:
            OSError: it cannot be written. ValueError: attention is dense.
        """
        plug = plug_of(self.model)
        if plug is None:
            raise ValueError("a model with dense attention has no sparsity log.")
        with PSALogger(log_dir, plug.choice) as logger:
            for layer, call in plug.calls:
                logger.log(layer, call)

    def _lengths(self, input_ids) -> dict:
        ids = input_ids.numpy()
        vision = int(np.isin(ids, self.family.vision_ids(self.model.config)).sum())
        return {"sequence_length": ids.size, "vision_tokens": vision, "text_tokens": ids.size - vision}

    def stats(self) -> dict:
        """What the last request did, in plain types: lengths in tokens, seconds, bytes, why the answer ended
        (``finish_reason``: ``"stop"``, or ``"length"`` when max_tokens cut it off), sparsity of every layer.

        Raises:
            RuntimeError: before the first request.
        """
        if self._last is None:
            raise RuntimeError("there are no statistics before the first request.")
        plug = plug_of(self.model)
        device = {"model": self.model_name, "library": self.library, "device": paddle.get_device(), "dtype": self.dtype}
        with self._one_request:
            sparse = {} if plug is None else {**totals(plug.calls), "config": plug.choice.as_dict()}
        kind = {"use_psa": self.use_psa, "attention": self.attention}
        if self.attention in ("trianglemix", "mix"):
            kind["triangle_layers"] = plug.triangle_layers
        return {**device, **kind, **self._last, **sparse}

    @contextmanager
    def keeping_stats(self):
        """``with model.keeping_stats(): ...`` puts ``stats()`` back to those of before; nobody else asks meanwhile."""
        with self._one_request:
            last = self._last
            try:
                yield
            finally:
                self._last = last

    def print_stats(self) -> None:
        """Print ``stats()`` for a person."""
        print(format_stats(self.stats()))


def peak_resident_bytes() -> int:
    """Peak resident memory of the process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
