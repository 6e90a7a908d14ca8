"""``psa-paddle chat``: a conversation in the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from ..config import PRESETS, AttentionConfig
from ..integrations.language.answering.messages import Looking, read_message
from ..integrations.language.answering.reports import STAGES
from ..integrations.language.answering.session import Session
from ..integrations.language.attention import replace_attention, restore_attention
from ..integrations.language.choice import AttentionChoice
from ..integrations.language.inference import QwenVLInference
from ..stats import format_stats
from ..utils.command import EXIT_CODES, run_command
from ..utils.language import say, say_lines
from ..utils.progress import TerminalProgress
from ..utils.quiet import quiet_libraries
from .ask import MEMORY_ADVICE, logged, text_streamer
from .ask_flags import VIDEO_FLAGS, add_looking_arguments, kind_of
from .model_flags import add_model_arguments, given_flags, model_settings
from .ranks import printing, reading

DESCRIPTION = """Talk with a model about images and videos: each question pays for its own tokens only.

psa-paddle chat --model demo --input demo/sample.mp4 --use-psa
psa-paddle chat --input a.jpg b.mp4 < questions.txt
"""
HELP = f"""/add FILE      show an image or a video with the next question
/preset NAME   {", ".join(PRESETS)}, or dense: how the next questions are prefilled
/stats         what the last answer took
/new           start again
/quit          leave, as the end of the input does"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser."""
    parser.description, parser.epilog = DESCRIPTION, f"in the conversation:\n{HELP}\n\n{EXIT_CODES}"
    parser.add_argument("--input", nargs="+", default=[], metavar="FILE", help="shown with the first question")
    parser.add_argument("--system", help="what the model is told before the conversation")
    parser.add_argument("--quiet", action="store_true", help="print answers alone: no progress, no warnings")
    add_looking_arguments(parser)
    add_model_arguments(parser)


class Conversation:
    """What the lines of a terminal mean."""

    def __init__(self, model: QwenVLInference, system: str | None, looking: Looking, max_tokens: int):
        self._model, self._system, self._looking, self._max_tokens = model, system, looking, max_tokens
        self._waiting: list[dict] = []  # media that go with the next question
        self._session = self._begin()
        self._commands: dict[str, Callable[[str], None]] = {
            "/add": self.add, "/preset": self._preset, "/stats": self._stats, "/new": self._new, "/help": self._help,
        }  # fmt: skip

    def _begin(self) -> Session:
        return Session(self._model, self._system, self._looking)

    def say(self, line: str) -> None:
        """Answer a question, or do what a command says.

        Raises:
            ValueError, TypeError: see ``Session.ask``; a command that is none.
        """
        word, _, rest = line.strip().partition(" ")
        if word in self._commands:
            self._commands[word](rest.strip())
        elif word.startswith("/") and "/" not in word[1:]:
            raise ValueError(f"there is no {word}; /help shows what there is.")
        elif line.strip():
            self._ask(line.strip())

    def _ask(self, question: str) -> None:
        content = [*self._waiting, {"type": "text", "text": question}]
        self._session.ask(content, self._max_tokens, streamer=text_streamer(self._model))
        self._waiting = []

    def add(self, source: str) -> None:
        """Show a file with the next question; it is read now."""
        if not source:
            raise ValueError("/add needs a file, for example /add a.jpg.")
        with self._model.team.agreeing():
            kind = kind_of(source, None)
            message = read_message("user", [{"type": kind, kind: source}], self._looking, self._model.report)
        self._waiting.append({"type": kind, kind: message.shown[0][0]})

    def _preset(self, name: str) -> None:
        if name == "dense":
            restore_attention(self._model)
        else:
            replace_attention(self._model, AttentionChoice("psa", AttentionConfig.preset(name)))

    def _stats(self, _: str) -> None:
        try:
            print(say_lines(format_stats(self._model.stats())))
        except RuntimeError as error:
            raise ValueError(str(error)) from None

    def _new(self, _: str) -> None:
        self._session, self._waiting = self._begin(), []

    def _help(self, _: str) -> None:
        print(say(HELP))


def converse(conversation: Conversation, read: Callable[[], str]) -> None:
    """Answer line after line until the input ends. What a line has wrong costs that line; Ctrl-C ends an answer, and at
    the prompt the conversation."""
    while True:
        try:
            line = read()
        except EOFError:
            return
        if line.strip() == "/quit":
            return
        try:
            conversation.say(line)
        except KeyboardInterrupt:
            print(f"\n{say('interrupted')}", file=sys.stderr)
        except (OSError, TypeError, ValueError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            print(say(f"error: {error}"), file=sys.stderr)
        sys.stdout.flush()


def chat(args: argparse.Namespace) -> None:
    """Check everything, load the model, and talk."""
    settings = model_settings(args)
    given = given_flags(args, VIDEO_FLAGS)
    if args.max_pixels is not None:
        given |= {"frame_pixels": args.max_pixels, "image_pixels": args.max_pixels}
    progress = TerminalProgress(*(STAGES if args.quiet else ["decode"]))
    with quiet_libraries(settings["library"]):
        model = QwenVLInference(args.model, args.dtype, progress=progress, **settings)
        looking = Looking(**given, factor=model.family.pixel_factor)
        conversation = Conversation(model, args.system, looking, args.max_tokens)
        for source in args.input:
            conversation.add(source)
        try:
            converse(conversation, reading(model.team, lambda: input("> " if sys.stdin.isatty() else "")))
        finally:
            progress.close()


def run(args: argparse.Namespace) -> int:
    """Talk as the flags ask; returns the exit status."""
    with logged(args.quiet), printing():
        return run_command(lambda: chat(args), MEMORY_ADVICE)
