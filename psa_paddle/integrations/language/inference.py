"""Ask a model about images, videos or text, with dense or sparse attention."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import paddle

from ...budgets import Budgets, load_budgets
from ...config import AttentionConfig
from ...stats import PSALogger, format_stats, totals
from ...trianglemix import TriangleMixConfig
from ...utils.files import as_path, check_folder
from ...utils.media import DEFAULT_MAX_FRAMES, DEFAULT_VIDEO_PIXELS
from ...utils.quiet import quiet_libraries
from ...video_tokens import check_video_tokens
from . import families
from .answering.batch import answer_batch
from .answering.messages import Looking, check_messages
from .answering.parts import Parts
from .answering.prefill import check_chunk
from .answering.reports import Report, Stopwatch, peak_resident_bytes, silent
from .answering.sampling import Sampling, own_sampling
from .answering.session import Session
from .answering.turn import Answer, Asked, Settings, answer
from .attention import plug_of, replace_attention
from .choice import AttentionChoice, wanted_attention, wanted_choice
from .generated import check_for_paddlemix, generated_answer
from .loading import check_backend, check_cache, check_library, load_qwen2_5_vl, model_place, usable_dtype
from .paddleformers.fast import use_fast_layers
from .paddleformers.linear_memory import aligned_in, use_linear_memory
from .paddleformers.pruner import prune_video_tokens, pruner_of
from .request import check_images, check_max_tokens, check_request
from .team import check_ranks, join

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
log = logging.getLogger("psa_paddle")


class QwenVLInference:
    """A model of ``families.FAMILIES``, Qwen2.5-VL at first: dense, Pyramid Sparse Attention, TriangleMix or both.

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
        video_tokens: how many tokens of a clip the language model reads: a share such as 0.5, ``"auto"`` for those
            that bring something new, None for all.
        prefill_chunk: prefill so many tokens at a time, a multiple of 128, in memory that the prompt's length adds
            little to; None: all at once.
        sampling: how tokens are drawn, where not as the model's ``generation_config.json`` says.
        tensor_parallel: over how many GPUs the heads are split, one process of Paddle's launcher each. Every rank makes
            the same calls and gets the same answers and statistics; rank 0 alone writes logs.
        progress: called with a stage (``"load"``, ``"media"``, ``"vision"``, ``"prefill"``, ``"decode"``), how much of
            it is done and how much there is.

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
        video_tokens: float | str | None = None,
        prefill_chunk: int | None = None,
        sampling: Sampling | None = None,
        tensor_parallel: int | None = None,
        progress: Report | None = None,
    ):
        budgets = None if budgets is None else load_budgets(budgets)
        settings = (psa_config, triangle_config, triangle_layers, budgets)
        choice = wanted_choice(wanted_attention(use_psa, attention), settings, log_dir)
        if choice is not None:
            check_backend(choice.config)
        self.prefill_chunk, ranks = check_chunk(prefill_chunk), check_ranks(tensor_parallel)
        sampling = sampling or Sampling()
        self.report: Report = progress or silent
        self.library, video_tokens = check_library(library), check_video_tokens(video_tokens)
        if self.library == "paddlemix":
            check_for_paddlemix(prefill_chunk, sampling, ranks, video_tokens)
        self.model_name = str(as_path(model_name, "model_name"))
        self.log_dir = None if log_dir is None else check_folder(log_dir, "log_dir")
        cache_dir = None if cache_dir is None else check_cache(cache_dir)
        self.dtype = usable_dtype(dtype)
        folder, watch = model_place(self.model_name), Stopwatch()
        self.report("load", 0, 1)
        with quiet_libraries(self.library), watch.stage("load"):
            self.team = join(ranks)
            self.model, self.processor = load_qwen2_5_vl(folder, self.dtype, cache_dir, self.library, self.team)
        self.report("load", 1, 1)
        self._load_s = watch.seconds["load"]
        self.sampling = sampling.over(own_sampling(folder, cache_dir))
        self.family = families.check(self.model).family
        self._plug_in(choice, video_tokens)
        self._last: dict | None = None
        self.one_request = threading.RLock()  # the model and the tokenizer keep state while they answer

    def _plug_in(self, choice: AttentionChoice | None, video_tokens: float | str | None) -> None:
        """What stands in the model for as long as it lives."""
        use_fast_layers(self.model)
        if choice is None and self.library == "paddleformers":
            use_linear_memory(self.model)
        if choice is not None:
            replace_attention(self.model, choice)
        if video_tokens is not None:
            prune_video_tokens(self.model, video_tokens)

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
        check_request(prompt, max_tokens, streamer)
        factor = self.family.vision_factor()
        parts = [{"type": "image", "image": path} for path in check_images(paths)]
        return self._ask(parts, prompt, Looking(image_pixels=max_pixels, factor=factor), max_tokens, streamer)

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
        check_request(prompt, max_tokens, streamer)
        looking = Looking(fps, max_pixels, max_frames=max_frames, factor=self.family.vision_factor())
        return self._ask([{"type": "video", "video": path}], prompt, looking, max_tokens, streamer)

    def chat(self, messages: list[dict], max_tokens: int = 512, *, streamer=None) -> str:
        """Answer the last of several messages in Qwen's format, images and videos in any order; see ``Session.ask``.

        ``[{"role": "user", "content": [{"type": "video", "video": "v.mp4"}, {"type": "text", "text": "..."}]}]``; a
        system message, and the user's and the assistant's in turns, may come before.
        """
        return self.session().chat(messages, max_tokens, streamer=streamer)

    def session(self, system: str | None = None) -> Session:
        """A conversation that keeps its KV cache, so that each question pays for its own tokens only.

        Raises:
            ValueError: a model of PaddleMIX, or a system message that is no text.
        """
        return Session(self, system)

    def inference_batch(self, conversations: list[list[dict]], max_tokens: int = 512) -> list[str]:
        """Answer several conversations together, each as ``chat`` takes it, with media of any size and number.

        Each gets the answer that it gets alone; the shorter ones are padded, so that similar lengths are fastest.
        """
        if not isinstance(conversations, (list, tuple)) or not conversations:
            raise TypeError("conversations must be a list of lists of messages.")
        conversations, max_tokens = [check_messages(one) for one in conversations], check_max_tokens(max_tokens)
        return answer_batch(self, conversations, max_tokens)

    def _ask(self, media: list[dict], prompt: str, looking: Looking, max_tokens: int, streamer) -> str:
        """Ask about media, each a part of a message."""
        content = [*media, {"type": "text", "text": prompt}]
        if self.library != "paddlemix":
            return Session(self, looking=looking).ask(content, max_tokens, streamer=streamer)
        return generated_answer(self, content, looking, check_max_tokens(max_tokens), streamer)

    def parts(self) -> Parts:
        """What answers are made with.

        Raises:
            ValueError: a model of PaddleMIX.
        """
        if self.library == "paddlemix":
            raise ValueError("conversations and batches need library 'paddleformers'.")
        return Parts(self.model, self.processor, families.check(self.model), self.team)

    def make_answer(self, parts: Parts, asked: Asked, cache, max_tokens: int, streamer, watch: Stopwatch) -> Answer:
        """``answer`` with this model's settings, and note what ``stats()`` tells; inside ``one_request``."""
        choice = None if plug_of(self.model) is None else plug_of(self.model).choice
        how = max_tokens, self.sampling, self.prefill_chunk
        chance = self.team.settle(asked.ids.tolist(), [medium.grid for medium in asked.media], choice, *how)
        settings = Settings(max_tokens, self.sampling, chance, self.prefill_chunk, streamer, self.report)
        with self.answering(max_tokens) as (plug, figures):
            made = answer(parts, asked, cache, plug, settings, watch)
            figures.update(made.figures())
        return made

    @contextmanager
    def answering(self, max_tokens: int) -> Iterator[tuple]:
        """Yields the plug in force, and a dict for the figures of the answer that is made meanwhile."""
        figures: dict = {}
        plug, pruner, on_gpu = plug_of(self.model), pruner_of(self.model), paddle.get_device().startswith("gpu")
        if on_gpu:
            paddle.device.cuda.reset_max_memory_allocated()
        if plug is not None:
            plug.reset()
        if pruner is not None:
            pruner.reset()
        with paddle.no_grad(), aligned_in(self.model, self.library, plug), self.team.waiting():
            yield plug, figures
            memory = paddle.device.cuda.max_memory_allocated() if on_gpu else peak_resident_bytes()
            memory = max(self.team.gather(memory))
            if plug is not None:
                plug.calls[:] = self.team.gather_calls(plug.calls)
        figures["timings_s"] = {"load": self._load_s, **figures["timings_s"]}
        video = {} if pruner is None else {"video_tokens": pruner.summary()}
        self._last = {**figures, **video, "peak_memory_bytes": memory}
        if figures["finish_reason"] == "length":
            log.warning("the answer was cut off after %d tokens; a larger max_tokens gives the rest.", max_tokens)
        if plug is not None and self.log_dir is not None:
            try:
                self.write_log(self.log_dir)
            except OSError as error:
                log.error("the sparsity log could not be written to '%s' (%s).", self.log_dir, error)

    def write_log(self, log_dir) -> None:
        """Write the sparsity log of the last request, JSON lines and a summary, into a folder, made when needed; of
        several ranks the first one does.

        Raises:
            OSError: it cannot be written. ValueError: attention is dense.
        """
        plug = plug_of(self.model)
        if plug is None:
            raise ValueError("a model with dense attention has no sparsity log.")
        if not self.team.leads:
            return
        with PSALogger(log_dir, plug.choice) as logger:
            for layer, call in plug.calls:
                logger.log(layer, call)

    def stats(self) -> dict:
        """What the last request did, in plain types: lengths in tokens, seconds (``timings_s``: of each stage), bytes,
        why the answer ended (``finish_reason``: ``"stop"``, or ``"length"`` when max_tokens cut it off), sparsity of
        every layer. ``prefill_tokens``: those of the conversation that no cache held and that the layers took in;
        ``video_tokens``: how many of its video tokens were dropped, of which frames (see ``Pruner.summary``).

        Raises:
            RuntimeError: before the first request.
        """
        if self._last is None:
            raise RuntimeError("there are no statistics before the first request.")
        plug = plug_of(self.model)
        device = {"model": self.model_name, "library": self.library, "device": paddle.get_device(), "dtype": self.dtype}
        with self.one_request:
            sparse = {} if plug is None else {**totals(plug.calls), "config": plug.choice.as_dict()}
        kind = {"use_psa": self.use_psa, "attention": self.attention}
        if self.attention in ("trianglemix", "mix"):
            kind["triangle_layers"] = plug.triangle_layers
        ranks = {"tensor_parallel": self.team.size} if self.team.size > 1 else {}
        return {**device, **ranks, **kind, **self._last, **sparse}

    @contextmanager
    def keeping_stats(self):
        """``with model.keeping_stats(): ...`` puts ``stats()`` back to those of before; nobody else asks meanwhile."""
        with self.one_request:
            last = self._last
            try:
                yield
            finally:
                self._last = last

    def print_stats(self) -> None:
        """Print ``stats()`` for a person."""
        print(format_stats(self.stats()))
