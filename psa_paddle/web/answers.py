"""One answer for the page: with the attention that was chosen, streamed, and with the report of what it did."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from ..config import PRESETS, AttentionConfig
from ..integrations.language.answering.messages import Looking
from ..integrations.language.answering.session import Session
from ..integrations.language.attention import replace_attention, restore_attention
from ..integrations.language.choice import AttentionChoice
from ..integrations.language.inference import QwenVLInference
from ..report import Report, recording
from ..trianglemix import TriangleMixConfig
from ..utils.media import Clip
from .conversations import Conversation
from .worker import Job

DENSE, GIVEN = "dense", "given"


@dataclass(frozen=True)
class Question:
    """text: what is asked; attention: a name of ``choices``; max_tokens: most new tokens; language: of the report."""

    text: str
    attention: str
    max_tokens: int
    language: str


@dataclass(frozen=True)
class Turn:
    """answer: text; stats: of ``QwenVLInference.stats()``; report: a whole HTML page."""

    answer: str
    stats: dict
    report: str


def choices(given: AttentionChoice | None, layers: int) -> dict[str, AttentionChoice | None]:
    """What the page offers, by name; None is dense.

    given: what the flags ask for; its backend and its TriangleMix hold for the others too. Where it is none of the
    presets, it comes first, as ``GIVEN``. layers: of the model; without flags TriangleMix takes their second half.
    """
    backend = "auto" if given is None else given.config.backend
    triangle = None if given is None else given.triangle
    triangle = triangle or TriangleMixConfig(triangle_layer_indices=list(range(layers // 2, layers)))
    presets = {name: AttentionChoice("psa", AttentionConfig.preset(name, backend=backend)) for name in PRESETS}
    plain = AttentionConfig(backend=backend)
    offered: dict[str, AttentionChoice | None] = {
        DENSE: None,
        **presets,
        "trianglemix": AttentionChoice("trianglemix", plain, triangle),
        "mix": AttentionChoice("mix", plain, triangle),
    }
    if given is not None and given not in offered.values():
        return {GIVEN: given, **offered}
    return offered


def chosen(given: AttentionChoice | None, offered: dict[str, AttentionChoice | None], default: str) -> str:
    """The name of what the flags ask for, or the default where they ask for nothing."""
    if given is None:
        return default
    return next(name for name, choice in offered.items() if choice == given)


def streamer(model: QwenVLInference, hear: Callable[[str], None]):
    """A streamer that hands on text as soon as it forms words."""
    from paddleformers.generation.streamers import TextStreamer

    class Heard(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            hear(text)

    return Heard(model.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)


def take_turn(
    model: QwenVLInference, conversation: Conversation, asked: Question, choice: AttentionChoice | None, job: Job
) -> Turn:
    """Answer a question about all that a conversation shows; in the model's thread.

    Raises:
        Left: nobody waits any more; the conversation is what it was. ValueError: see ``Session.ask``.
    """
    if choice is None:
        restore_attention(model)
    else:
        replace_attention(model, choice)
    session = conversation.session or Session(model, looking=Looking(factor=model.family.pixel_factor))
    content = [*(medium.part() for medium in conversation.waiting), {"type": "text", "text": asked.text}]
    heard = streamer(model, job.hear)
    watching = nullcontext() if choice is None else recording(model, streamer=heard, before=session.ids[:-1])
    with watching as record:
        answer = session.ask(content, asked.max_tokens, streamer=record or heard)
    conversation.session = session
    conversation.answered()
    stats = model.stats()
    clips = [one.shown for one in conversation.shown if isinstance(one.shown, Clip)]
    pictures = [one.shown for one in conversation.shown if not isinstance(one.shown, Clip)]
    report = Report(asked.text, answer, clips[0] if clips else pictures, stats, record)
    return Turn(answer, stats, report.html(asked.language))
