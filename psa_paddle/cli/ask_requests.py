"""What is asked: the requests that the flags, or the lines of a file, name."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

from PIL import Image

from ..integrations.language.answering.reports import Report
from ..integrations.language.families import Family
from ..integrations.language.inference import QwenVLInference
from ..integrations.language.request import check_max_tokens, check_text, image_limits
from ..utils.files import as_path
from ..utils.media import Clip, load_image, load_video
from .ask_flags import VIDEO_FLAGS, kind_of, looks_like_video
from .model_flags import given_flags

PROMPTS = {"image": "请描述这张图片", "video": "请描述这个视频", "text": "请总结这段文字"}
KEYS = ("id", "input", "prompt", "type", "max_tokens")


class Loaded(NamedTuple):
    """What the sources of a request show, and how many seconds it took to read them."""

    shown: list[Image.Image | Clip | str]
    seconds: float


@dataclass(frozen=True)
class Request:
    """One question.

    id: text or a number, another one for each request; sources: paths or URLs, shown together; kind: ``"image"``,
    ``"video"``, ``"text"``, or None for what each source looks like; prompt: None asks for a description.
    """

    id: str | int
    sources: tuple[str, ...]
    kind: str | None
    prompt: str | None
    max_tokens: int

    @property
    def question(self) -> str:
        """What is asked."""
        if self.prompt is not None:
            return self.prompt
        if self.kind == "text":
            return PROMPTS["text"]
        video = self.kind == "video" or (self.kind is None and any(map(looks_like_video, self.sources)))
        return PROMPTS["video" if video else "image"]

    def load(self, args: argparse.Namespace, report: Report, family: Family) -> Loaded:
        """What the sources show, in order, as a model of this family sees it.

        Raises:
            ValueError: a file that cannot be used.
        """
        start = time.perf_counter()
        if self.kind == "text":
            return Loaded(list(map(read_text, self.sources)), time.perf_counter() - start)
        kinds, factor = [kind_of(source, self.kind) for source in self.sources], family.pixel_factor
        if factor is None:
            raise ValueError(f"{family.name} takes text alone; ask with --type text.")
        if "image" in kinds:
            image_limits(args.max_pixels, factor, "--max-pixels")
        sampling = given_flags(args, (*VIDEO_FLAGS, "max_pixels"))

        def load(source: str, kind: str):
            downloading = partial(report, "download")
            if kind == "image":
                return load_image(source, downloading=downloading)
            progress = partial(report, "media")
            return load_video(source, **sampling, factor=factor, progress=progress, downloading=downloading)

        shown = [load(source, kind) for source, kind in zip(self.sources, kinds, strict=True)]
        return Loaded(shown, time.perf_counter() - start)


def ask_model(
    model: QwenVLInference, loaded: Loaded, prompt: str, max_tokens: int, max_pixels: int | None, streamer=None
) -> tuple[str, dict]:
    """The answer to a question about pictures and clips in any order, and its statistics."""
    text = _ask(model, loaded.shown, prompt, max_tokens, max_pixels, streamer)
    stats = model.stats()
    stats["timings_s"] = {**stats["timings_s"], "media": loaded.seconds}
    return text, stats


def _ask(model: QwenVLInference, shown: list, prompt: str, max_tokens: int, max_pixels: int | None, streamer) -> str:
    if isinstance(shown[0], str):
        content = [{"type": "text", "text": f"{text}\n\n"} for text in shown] + [{"type": "text", "text": prompt}]
        return model.chat([{"role": "user", "content": content}], max_tokens, streamer=streamer)
    clips = [isinstance(what, Clip) for what in shown]
    if clips == [True]:
        return model.inference_video(shown[0], prompt, max_tokens, streamer=streamer)
    if not any(clips):
        return model.inference_multi_image(shown, prompt, max_tokens, max_pixels=max_pixels, streamer=streamer)
    pixels = {} if max_pixels is None else {"max_pixels": max_pixels}
    parts = [
        {"type": "video", "video": what} if clip else {"type": "image", "image": what, **pixels}
        for what, clip in zip(shown, clips, strict=True)
    ]
    content = [*parts, {"type": "text", "text": prompt}]
    return model.chat([{"role": "user", "content": content}], max_tokens, streamer=streamer)


def read_text(source: str) -> str:
    """The text of a file in UTF-8.

    Raises:
        ValueError: no file, another encoding, nothing in it, or special tokens.
    """
    path = as_path(source, "--input")
    if not path.is_file():
        raise ValueError(f"text '{path}' is not a file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"text '{path}' is not in UTF-8; convert it first.") from None
    if not text.strip():
        raise ValueError(f"text '{path}' is empty.")
    if "<|" in text and "|>" in text:
        raise ValueError(f"text '{path}' contains a special token such as <|im_end|>; remove it.")
    return text


def requests_of(args: argparse.Namespace) -> list[Request]:
    """What the flags ask, in order; checked as far as that goes without reading media.

    Raises:
        ValueError: flags that contradict each other; see ``read_requests``.
    """
    if args.requests is not None:
        for name in ("type", "prompt"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name} does nothing with --requests, whose lines say it; drop it.")
        if args.each:
            raise ValueError("--each does nothing with --requests; drop it.")
        return read_requests(args.requests, args.max_tokens)
    for prompt in args.prompt or ():
        check_text(prompt)
    check_max_tokens(args.max_tokens)
    if "video" not in [kind_of(source, args.type) for source in args.input]:
        for name in given_flags(args, (*VIDEO_FLAGS, "video_tokens")):
            raise ValueError(f"--{name.replace('_', '-')} is for --type video.")
    groups = [(source,) for source in args.input] if args.each else [tuple(args.input)]
    asked = product(groups, args.prompt or [None])
    return [Request(i, sources, args.type, prompt, args.max_tokens) for i, (sources, prompt) in enumerate(asked, 1)]


def read_requests(file: str, max_tokens: int) -> list[Request]:
    """The requests of a file of JSON lines; empty lines are left out.

    Raises:
        ValueError: no such file, or a line that is no request, with its number.
    """
    path = as_path(file, "--requests")
    if not path.is_file():
        raise ValueError(f"--requests '{path}' is not a file.")
    found: dict[str | int, Request] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):  # text may hold other line ends
        if not line.strip():
            continue
        try:
            request = _request(json.loads(line), number, max_tokens)
            if request.id in found:
                raise ValueError(f"the id {request.id!r} is there already")
        except (TypeError, ValueError) as error:
            raise ValueError(f"--requests '{path}', line {number}: {str(error).rstrip('.')}.") from None
        found[request.id] = request
    if not found:
        raise ValueError(f"--requests '{path}' has no requests.")
    return list(found.values())


def _request(said, number: int, max_tokens: int) -> Request:
    if not isinstance(said, dict):
        raise TypeError('a request is an object such as {"input": "a.mp4", "prompt": "..."}')
    unknown = sorted(set(said) - set(KEYS))
    if unknown:
        raise ValueError(f"requests know {', '.join(KEYS)}; got {', '.join(unknown)}")
    sources = said.get("input")
    sources = [sources] if isinstance(sources, str) else sources
    if not isinstance(sources, list) or not sources or not all(isinstance(source, str) for source in sources):
        raise TypeError("input must be a path or URL, or a list of them")
    name, kind, prompt = said.get("id", number), said.get("type"), said.get("prompt")
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise TypeError("id must be text or a whole number")
    if kind not in (None, *PROMPTS):
        raise ValueError(f"type must be {' or '.join(PROMPTS)}, got {kind!r}")
    if prompt is not None:
        check_text(prompt)
    return Request(name, tuple(sources), kind, prompt, check_max_tokens(said.get("max_tokens", max_tokens)))
