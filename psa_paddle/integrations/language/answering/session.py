"""A conversation that keeps its KV cache: each turn pays for its own tokens only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..request import check_max_tokens, check_positions, check_streamer
from .media import Medium, medium_of
from .messages import Looking, Message, check_messages, read_message
from .reports import Stopwatch
from .turn import Asked

if TYPE_CHECKING:
    from ..inference import QwenVLInference

MARK = "\ue000"  # of a private use area: stands for an answer in a chat template


class Session:
    """A conversation with a ``QwenVLInference``; make one with its ``session()``.

    Each turn answers as one long prompt would. With sparse attention that holds for questions about what is there; a
    later picture or clip finds the turns before as they were answered, their questions at full resolution, where one
    long prompt keeps its last question alone, so that its answer may be another one.

    The cache holds everything said but the last token. A turn that fails, or is interrupted, is forgotten whole. The
    model may be asked other things between the turns, and be plugged in otherwise.

    messages: what was said, in the format of chat templates, media as ``{"type": "image"}`` or ``{"type": "video"}``.
    """

    def __init__(self, inference: QwenVLInference, system: str | None = None, looking: Looking | None = None):
        self._inference, self._looking = inference, looking or Looking(factor=inference.family.pixel_factor)
        self._parts = inference.parts()
        self._cache = self._parts.new_cache()
        self._ids: list[int] = []
        self._media: list[Medium] = []
        self.messages: list[dict] = []
        if system is not None:
            self._add_system(system)

    def _add_system(self, system: str) -> None:
        self.messages = [read_message("system", system, self._looking).as_dict()]

    @property
    def ids(self) -> list[int]:
        """The tokens of the conversation so far."""
        return list(self._ids)

    def ask(self, content, max_tokens: int = 512, *, streamer=None) -> str:
        """Say something and return the answer.

        Args:
            content: text, or a list of texts, images and videos in Qwen's format, in any order: ``{"type": "text",
                "text": ...}``, ``{"type": "image", "image": path, URL, PIL image or array}``, ``{"type": "video",
                "video": path, URL or Clip, "fps": ..., "max_pixels": ..., "max_frames": ...}``.
            max_tokens: most new tokens; streamer: hears them, and before them this turn's prompt.

        Raises:
            TypeError, ValueError: nothing that can be asked, a file that cannot be used, or a conversation that gets
                longer than the model's positions. The conversation is then what it was.
        """
        return self.chat([{"role": "user", "content": content}], max_tokens, streamer=streamer)

    def chat(self, messages: list[dict], max_tokens: int = 512, *, streamer=None) -> str:
        """Say several messages at once, the last one a user's, and return the answer; else as ``ask``."""
        messages, max_tokens = check_messages(messages), check_max_tokens(max_tokens)
        check_streamer(streamer)
        if self.messages and messages[0]["role"] == "system":
            raise ValueError("a system message comes first; this conversation has begun.")
        watch, report = Stopwatch(), self._inference.report
        with watch.stage("media"), self._inference.team.agreeing():
            said = [read_message(m["role"], m["content"], self._looking, report) for m in messages]
        with self._inference.one_request:
            return self._turn(said, max_tokens, streamer, watch)

    def _turn(self, said: list[Message], max_tokens: int, streamer, watch: Stopwatch) -> str:
        parts, inference = self._parts, self._inference
        media = [medium_of(parts.processor, content, limits) for m in said for content, limits in m.shown]
        new = self._new_ids(said, media)
        ids, rows = [*self._ids, *new], self._cache.get_seq_length()
        check_positions(len(ids), max_tokens, parts.model.config)
        asked = Asked(np.array([ids], np.int64), None, [*self._media, *media], media, max(0, len(self._ids) - 1))
        try:
            made = inference.make_answer(parts, asked, self._cache, max_tokens, streamer, watch)
        except BaseException:
            self._forget(rows)
            raise
        self._ids, self._media = [*ids, *made.tokens[0]], [medium.seen() for medium in asked.media]
        text = parts.processor.tokenizer.decode(made.tokens[0], skip_special_tokens=True).strip()
        answered = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        self.messages = [*self.messages, *(m.as_dict() for m in said), answered]
        return text

    def _forget(self, length: int) -> None:
        """Cut the cache back to what it held."""
        if length == 0:
            self._cache = self._parts.new_cache()
        else:
            self._cache.crop(length)

    def _new_ids(self, said: list[Message], media: list[Medium]) -> list[int]:
        """The tokens of new messages, after what was said before."""
        render = self._parts.processor.apply_chat_template
        new = [m.as_dict() for m in said]
        if not self._ids:
            text = render([*self.messages, *new], tokenize=False, add_generation_prompt=True)
            return self._parts.tokens_of(text, media)
        asked = {"role": "user", "content": [{"type": "text", "text": MARK}]}
        answered = {"role": "assistant", "content": [{"type": "text", "text": MARK}]}
        text = render([asked, answered, *new], tokenize=False, add_generation_prompt=True)
        ids = self._parts.tokens_of(text.split(MARK, 2)[2], media)
        ended = self._ids[-1] == ids[0]  # the answer brought the token that ends a message
        return ids[1:] if ended else ids
