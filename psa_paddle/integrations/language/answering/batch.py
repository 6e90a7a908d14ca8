"""Several conversations answered together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..request import check_positions
from .media import Medium, medium_of
from .messages import Looking, Message, read_message
from .prompt import pad_left
from .reports import Stopwatch
from .turn import Asked

if TYPE_CHECKING:
    from ..inference import QwenVLInference


def answer_batch(inference: QwenVLInference, conversations: list[list[dict]], max_tokens: int) -> list[str]:
    """Answers to conversations that ``check_messages`` has let pass; arguments as ``inference_batch``."""
    parts, watch = inference.parts(), Stopwatch()
    tokenizer = parts.processor.tokenizer
    looking = Looking(factor=inference.family.pixel_factor)
    with watch.stage("media"), inference.team.agreeing():
        said = [
            [read_message(m["role"], m["content"], looking, inference.report) for m in one] for one in conversations
        ]
    rows, media = [], []
    for one in said:
        row, shown = _tokens(parts, one)
        check_positions(len(row), max_tokens, parts.model.config)
        rows.append(row)
        media += shown
    ids, mask = pad_left(rows, parts.padding())
    with inference.one_request:
        made = inference.make_answer(parts, Asked(ids, mask, media, media), parts.new_cache(), max_tokens, None, watch)
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in made.tokens]


def _tokens(parts, said: list[Message]) -> tuple[list[int], list[Medium]]:
    """The tokens of a conversation, and its media in order."""
    processor = parts.processor
    media = [medium_of(processor, content, limits) for m in said for content, limits in m.shown]
    text = processor.apply_chat_template([m.as_dict() for m in said], tokenize=False, add_generation_prompt=True)
    return parts.tokens_of(text, media), media
