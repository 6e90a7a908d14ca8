"""``psa-paddle chat``: a conversation line by line."""

import io
import json
import sys

import pytest
from shared_demo import LAYERS, ROOT

from psa_paddle.cli import chat, main
from psa_paddle.integrations.language.answering.session import Session
from psa_paddle.integrations.language.inference import QwenVLInference

IMAGE, VIDEO = str(ROOT / "demo" / "sample.jpg"), str(ROOT / "demo" / "sample.mp4")
ANSWER = "A small white diamond at the top left, a small green star at the top right, "
ANSWER += "a small pink cross at the right and a card with 31.\n"


@pytest.fixture
def say(monkeypatch, capsys):
    """Run a conversation; returns status, stdout, stderr, and the statistics after every question."""

    def run(lines, *flags):
        seen, ask = [], Session.ask

        def noting(self, *given, **keywords):
            text = ask(self, *given, **keywords)
            seen.append(self._inference.stats())
            return text

        monkeypatch.setattr(Session, "ask", noting)
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        status = main(["chat", "--model", "demo", *flags])
        monkeypatch.setattr(Session, "ask", ask)
        return status, *capsys.readouterr(), seen

    return run


def test_a_conversation_keeps_its_cache(say):
    lines = ["What is this?", "", "Where is the star?", "/new", f"/add {IMAGE}", "What is this?", "/quit", "Who?"]
    status, out, err, seen = say(lines, "--input", IMAGE)
    assert (status, err) == (0, "") and out.startswith(ANSWER) and out.endswith(ANSWER) and len(out.splitlines()) == 3
    first, second, third = ([s[name] for name in ("sequence_length", "prefill_tokens", "vision_tokens")] for s in seen)
    assert first == third == [79, 79, 48]
    assert second[0] > 100 and second[1] < 25 and second[2] == 48
    model = QwenVLInference("demo")
    session = model.session()
    session.ask([{"type": "image", "image": IMAGE}, {"type": "text", "text": "What is this?"}])
    assert out.splitlines()[1] == session.ask("Where is the star?")


def test_what_is_wrong_costs_one_line(say):
    lines = ["/add no.jpg", "/sing", "/preset turbo", "/add", "/stats", "<|image_pad|>"]
    status, out, err, _ = say([*lines, f"/add {IMAGE}", "What is this?"])
    errors = err.splitlines()
    assert status == 0 and out == ANSWER and len(errors) == 6
    words = (
        "'no.jpg' does not exist", "there is no /sing; /help", "no preset 'turbo'", "/add needs a file",
        "no statistics before the first request", "special token",
    )  # fmt: skip
    for error, word in zip([e for e in errors if e.startswith("error: ")], words, strict=True):
        assert word in error


def test_the_preset_and_the_statistics(say):
    flags = ["--input", VIDEO, "--max-frames", "4", "--max-tokens", "3", "--quiet"]
    status, out, err, seen = say(["What?", "/preset fast", "What?", "/stats", "/preset dense", "What?"], *flags)
    assert (status, err) == (0, "") and [s["attention"] for s in seen] == ["dense", "psa", "dense"]
    assert f"{LAYERS} calls: shorter than 1024 keys" in out
    assert [s["vision_tokens"] for s in seen] == [2 * 108] * 3 and len(seen[0]["frame_times_s"]) == 4
    assert seen[1]["config"]["mask_mode"] == "topk_sqrt" and json.dumps(seen)


def test_help_and_a_system_message(say):
    status, out, err, seen = say(
        ["/help", "What?"], "--system", "You speak of colours.", "--max-tokens", "2", "--quiet"
    )
    assert status == 0 and out.startswith(chat.HELP) and err == ""
    plain = say(["What?"], "--max-tokens", "2", "--quiet")[3]
    assert seen[0]["sequence_length"] != plain[0]["sequence_length"]


def test_ctrl_c_ends_the_answer_and_then_the_conversation(capsys):
    said = []

    class Fake:
        def say(self, line):
            said.append(line)
            if line == "long":
                raise KeyboardInterrupt

    lines = iter(["long", "short"])

    def read():
        try:
            return next(lines)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt):
        chat.converse(Fake(), read)
    assert said == ["long", "short"] and capsys.readouterr().err == "\ninterrupted\n"


def test_a_question_that_begins_with_a_path_is_a_question(say):
    status, _, err, seen = say(["/home/me is what?"], "--max-tokens", "1", "--quiet")
    assert status == 0 and len(seen) == 1 and err == ""
