"""What the page does for a visitor, without the page: show, ask, stop, start anew, leave."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

import paddle

from ..integrations.language.answering.messages import Looking
from ..integrations.language.answering.reports import silent
from ..integrations.language.attention import attention_in
from ..integrations.language.choice import AttentionChoice
from ..integrations.language.inference import QwenVLInference
from ..utils.command import out_of_memory
from ..utils.language import say as translated
from ..utils.media import MediaError
from .answers import Question, Turn, choices, chosen, take_turn
from .conversations import Conversation, Conversations, NoRoom, TooMany
from .limits import Limits
from .uploads import Medium, NotHere, Uploads, read_medium
from .words import language_of, say
from .worker import Full, Job, Left, Worker

DEMO = Path(__file__).parents[1] / "demo"
SAMPLES = {"video": DEMO / "sample.mp4", "picture": DEMO / "sample.jpg"}
log = logging.getLogger("psa_paddle")


@dataclass(frozen=True)
class View:
    """What a visitor sees now; None leaves a part as it is.

    history: messages of roles user and assistant; status: one line, HTML-free; refused: whether it says why not;
    shown: media; report: a whole HTML page, "" for none; question: what stands in the box; working: whether there is
    something to stop; key: of the conversation, "" for none.
    """

    history: list[dict] | None = None
    status: str | None = None
    refused: bool = False
    shown: list[Medium] | None = None
    report: str | None = None
    question: str | None = None
    working: bool = False
    key: str | None = None

    @classmethod
    def of(cls, conversation: Conversation | None) -> View:
        """All that a conversation shows."""
        if conversation is None:
            return cls(history=[], shown=[], report="", key="")
        return cls(history=conversation.history, shown=conversation.shown, key=conversation.key)


@dataclass
class Reporter:
    """A ``Report`` of the model's that goes to whom it concerns now."""

    hear: Callable[[str, int, int], None]

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Hand it on."""
        self.hear(stage, done, total)


@dataclass
class Site:
    """Everything behind the page.

    reporter: the model's ``progress``; looking: how media are looked at, their factor filled in from the model; given:
    the attention that was asked for when the page was started; default: what is chosen at first without it.
    """

    model: QwenVLInference
    reporter: Reporter
    uploads: Uploads
    looking: Looking = field(default_factory=Looking)
    given: AttentionChoice | None = None
    default: str = "balanced"
    max_tokens: int = 512
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Raises ValueError for a model that takes text alone, or of PaddleMIX, or one that ``given`` does not fit."""
        if self.model.family.pixel_factor is None:
            raise ValueError(f"{self.model.family.name} takes text alone; the page needs a model that sees.")
        self.looking = replace(self.looking, factor=self.model.family.pixel_factor)
        self.choices = choices(self.given, self.model.parts().layers)
        if self.given is not None:
            with attention_in(self.model, self.given):
                pass
        self.first = chosen(self.given, self.choices, self.default)
        self.conversations = Conversations(self.limits)
        device = paddle.get_device()
        self._answering = Worker("answering", self.limits.waiting, lambda: paddle.set_device(device))
        self._reading = Worker("reading", self.limits.waiting)

    async def show(self, visitor: str, language: str, source: object, name: str) -> AsyncGenerator[View, None]:
        """Show an upload, or a sample of ``SAMPLES`` by its name, with the next question."""
        mine, conversation = None, None
        try:
            if isinstance(source, str) and source in SAMPLES:
                path, name = SAMPLES[source], SAMPLES[source].name
            else:
                path = mine = self.uploads.take(source)
            conversation = self.conversations.of(visitor)
            if conversation.busy:
                yield View(status=say(language, "busy"), refused=True)
                return
            looking, most = self.looking, self.limits.video_seconds
            job = self._reading.submit(lambda job: read_medium(path, name, looking, most, job.report))
            conversation.job = job
            async with aclosing(self._followed(job, language)) as views:
                async for view in views:
                    yield view
            medium = job.result()
            self._still(visitor, conversation)
            self.conversations.make_place(conversation, medium)
            conversation.show(medium, self.limits.pictures)
            yield replace(self._now(visitor), status="", question=self._first(conversation, language))
        except (Exception, Left) as error:
            yield replace(self._now(visitor), **self._refusal(error, language))
        finally:
            if mine is not None:
                self.uploads.drop(mine)

    async def ask(self, visitor: str, language: str, text: str, attention: str, key: str) -> AsyncGenerator[View, None]:
        """Answer a question. key: of the conversation that the visitor sees."""
        conversation = self.conversations.find(visitor)
        refused = self._unasked(conversation, language, text, attention, key)
        if refused is not None:
            yield refused
            return
        assert conversation is not None
        asked = Question(text.strip(), attention, self.max_tokens, language_of(language))
        said = [*conversation.history, {"role": "user", "content": asked.text}]
        try:
            job = conversation.job = self._answering.submit(lambda job: self._turn(conversation, asked, job))
            async with aclosing(self._followed(job, language)) as views:
                async for view in views:
                    answer = [{"role": "assistant", "content": job.text}] if job.text else []
                    yield replace(view, history=[*said, *answer], question="")
            turn: Turn = job.result()
            self._still(visitor, conversation)
            conversation.history = [*said, {"role": "assistant", "content": turn.answer}]
            status = self.summary(turn, attention, language)
            yield replace(self._now(visitor), status=status, report=turn.report)
        except (Exception, Left) as error:
            yield replace(self._now(visitor), **self._refusal(error, language), question=asked.text)

    def _turn(self, conversation: Conversation, asked: Question, job: Job) -> Turn:
        """In the model's thread."""
        self.conversations.make_room(conversation)
        self.reporter.hear = job.report
        try:
            return take_turn(self.model, conversation, asked, self.choices[asked.attention], job)
        finally:
            self.reporter.hear = silent

    def _unasked(
        self, conversation: Conversation | None, language: str, text: str, attention: str, key: str
    ) -> View | None:
        """Why a question is not asked; None when it is."""
        most = self.limits.question
        if not isinstance(text, str) or attention not in self.choices:
            return View(status=say(language, "failed"), refused=True)
        if key and (conversation is None or conversation.key != key):
            return replace(View.of(conversation), status=say(language, "closed"), refused=True, question=text)
        if conversation is None or not conversation.shown:
            return View(status=say(language, "show_first"), refused=True)
        if not text.strip():
            return View(status=say(language, "ask_something"), refused=True)
        if len(text) > most:
            return View(status=say(language, "too_long", most=most, count=len(text)), refused=True)
        if conversation.busy:
            return View(status=say(language, "busy"), refused=True, working=True)
        return None

    async def _followed(self, job: Job, language: str) -> AsyncGenerator[View, None]:
        async with aclosing(job.follow()) as news:
            async for _ in news:
                yield View(status=self._progress(job, language), working=True)

    @staticmethod
    def _progress(job: Job, language: str) -> str:
        if job.ahead:
            return say(language, "waits", ahead=job.ahead)
        if not job.stage:
            return say(language, "waits_first")
        part = f"{job.done / max(job.total, 1):.0%}"
        return say(language, job.stage, done=job.done, total=job.total, part=part)

    def summary(self, turn: Turn, attention: str, language: str) -> str:
        """A line about an answer."""
        stats, name = turn.stats, self.label(attention, language)
        took = say(
            language, "took", attention=name, seconds=f"{stats['ttft_s']:.2f}", tokens=f"{stats['prefill_tokens']:,}"
        )
        parts = [took]
        if stats.get("average_sparsity") is not None:
            parts.append(say(language, "skipped", share=f"{stats['average_sparsity']:.0%}"))
        if stats["finish_reason"] == "length":
            parts.append(say(language, "cut_off", tokens=stats["new_tokens"]))
        return " · ".join(parts)

    @staticmethod
    def label(attention: str, language: str) -> str:
        """What the page calls one of its choices; presets have their own names."""
        try:
            return say(language, attention)
        except KeyError:
            return attention

    def _still(self, visitor: str, conversation: Conversation) -> None:
        """Raises Left where the visitor has begun another conversation meanwhile, or none."""
        if self.conversations.find(visitor) is not conversation:
            raise Left

    def _now(self, visitor: str) -> View:
        """All that a visitor's conversation shows."""
        return View.of(self.conversations.find(visitor))

    def _first(self, conversation: Conversation, language: str) -> str | None:
        """A question to begin with."""
        if conversation.history:
            return None
        return say(language, "first_question" if conversation.shown[0].kind == "video" else "first_question_picture")

    def _refusal(self, error: BaseException, language: str) -> dict:
        """Why not, as parts of a ``View``."""
        limits, why = self.limits, translated(str(error), language_of(language))
        if isinstance(error, Left):
            return {"status": say(language, "stopped")}
        if isinstance(error, NoRoom):
            words = say(language, "no_room")
        elif isinstance(error, Full):
            words = say(language, "full", most=limits.waiting)
        elif isinstance(error, NotHere):
            words = say(language, "gone")
        elif isinstance(error, TooMany):
            words = say(language, "too_many", most=limits.pictures)
        elif isinstance(error, MediaError):
            words = say(language, "not_used", why=why)
        elif out_of_memory(error):
            words = say(language, "no_memory")
        elif isinstance(error, ValueError):
            words = say(language, "wrong", why=why)
        else:
            log.error("a visitor's request failed", exc_info=error)
            words = say(language, "failed")
        return {"status": words, "refused": True}

    def stop(self, visitor: str) -> None:
        """End what is worked on for a visitor."""
        conversation = self.conversations.find(visitor)
        if conversation is not None:
            conversation.leave()

    def renew(self, visitor: str) -> View:
        """Begin a new conversation that shows the same."""
        conversation = self.conversations.find(visitor)
        if conversation is None:
            return View.of(None)
        return replace(View.of(self.conversations.put(visitor, conversation.again())), status="", report="")

    def remove(self, visitor: str) -> View:
        """Begin a new conversation that shows nothing."""
        self.conversations.drop(visitor)
        return replace(View.of(None), status="")

    def left(self, visitor: str) -> None:
        """A visitor has gone."""
        self.conversations.drop(visitor)

    def sweep(self) -> None:
        """Put away what nobody uses."""
        self.uploads.sweep(self.limits.stale_seconds)
        self.conversations.sweep()

    def close(self) -> None:
        """Stop everything, and forget and remove all that visitors showed."""
        self.conversations.close()
        self._reading.close()
        self._answering.close()
        self.uploads.close()
