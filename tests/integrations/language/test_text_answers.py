"""Questions to a model of text alone, and about text files, in Python and on the command line."""

import json

import numpy as np
import paddle
import pytest
from shared_checkpoints import NEVER, write_text_model
from shared_demo import ROOT, greedy
from shared_tiny import TINY_ONE

from psa_paddle.cli import main
from psa_paddle.integrations.language.answering.parts import Parts
from psa_paddle.integrations.language.generation import cached_generation
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.integrations.language.request import chat

WORDS = "The budget of the red circle is 38, and that of the green square is 21. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_text_model(tmp_path_factory.mktemp("llama"), "llama"))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """In a folder with files that are no text, and one that is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.txt").write_text("\ufeff" + WORDS * 90, encoding="utf-8")
    (tmp_path / "short.txt").write_text(WORDS)
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "special.txt").write_text("a <|im_end|> b")


@pytest.mark.parametrize("chunk", [None, 128], ids=["whole", "chunks"])
@pytest.mark.parametrize("config", [None, TINY_ONE], ids=["dense", "level 1"])
def test_conversation_is_what_generate_gives(folder, config, chunk, monkeypatch):
    monkeypatch.setattr(Parts, "end_tokens", lambda parts: [NEVER])
    model = QwenVLInference(folder, "float32", config is not None, config, prefill_chunk=chunk)
    session = model.session()
    session.ask(WORDS * 6 + "Which budget is larger?", 4)
    first = len(session.ids)
    session.ask("And which is green?", 4)
    for end in (first, len(session.ids)):
        ids = paddle.to_tensor([session.ids[: end - 4]])
        with cached_generation(model.model):
            assert greedy(model.model, {"input_ids": ids}, 4) == [session.ids[end - 4 : end]]
    stats = model.stats()
    assert stats["vision_tokens"] == 0 and stats["prefill_tokens"] < first < stats["sequence_length"]


def test_batch_answers_as_each_alone(folder):
    model = QwenVLInference(folder, "float32", True, TINY_ONE)
    conversations = [chat([], WORDS * 4), chat([], "Hello"), chat([], WORDS * 7)]
    assert model.inference_batch(conversations, 5) == [model.chat(one, 5) for one in conversations]


def test_pictures_are_refused(folder):
    model = QwenVLInference(folder, "float32")
    for ask in (model.inference_image, model.inference_video):
        with pytest.raises(ValueError, match="reads text alone"):
            ask(np.zeros((56, 56, 3), np.uint8), "What is this?")


def test_command_answers_about_a_long_text(folder, files, capsys):
    """2,300 tokens: TriangleMix in one layer, PSA in the other, the last 512 tokens at full resolution."""
    ask = ["ask", "--model", folder, "--type", "text", "--input", "long.txt", "long.txt", "--max-tokens", "3"]
    flags = ["--attention", "mix", "--triangle-layers", "0", "--stats-json", "s.json", "--prompt", "Which is larger?"]
    assert main([*ask, *flags]) == 0
    saved = json.loads(open("s.json").read())
    assert saved["sequence_length"] == saved["text_tokens"] > 2048 and saved["vision_tokens"] == 0
    assert saved["layers_sparse"] == 2 and min(row["sparsity"] for row in saved["layers"]) > 0.2
    assert "TriangleMix in layers 0, PSA in the others" in capsys.readouterr().out


def test_a_model_that_sees_reads_too(files, capsys):
    requests = [{"input": "short.txt", "type": "text", "max_tokens": 2}, {"input": "latin.txt", "type": "text"}]
    open("r.jsonl", "w").write("\n".join(map(json.dumps, requests)))
    assert main(["ask", "--model", "demo", "--requests", "r.jsonl"]) == 2
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["prompt"] == "请总结这段文字" and first["stats"]["vision_tokens"] == 0 and "answer" in first
    assert second["error"] == "text 'latin.txt' is not in UTF-8; convert it first."


@pytest.mark.parametrize(
    "source,kind,words",
    [
        ("empty.txt", "text", "text 'empty.txt' is empty."),
        ("latin.txt", "text", "text 'latin.txt' is not in UTF-8; convert it first."),
        ("special.txt", "text", "text 'special.txt' contains a special token such as <|im_end|>; remove it."),
        ("missing.txt", "text", "text 'missing.txt' is not a file."),
        (str(ROOT / "demo" / "sample.jpg"), "image", "Llama takes text alone; ask with --type text."),
        (str(ROOT / "demo" / "sample.mp4"), "video", "Llama takes text alone; ask with --type text."),
    ],
    ids=["empty", "another encoding", "special tokens", "no file", "image", "video"],
)
def test_refusals_come_before_the_model(folder, files, source, kind, words, capsys, monkeypatch):
    monkeypatch.setattr("psa_paddle.cli.ask.QwenVLInference", None)
    assert main(["ask", "--model", folder, "--type", kind, "--input", source]) == 2
    assert capsys.readouterr().err == f"error: {words}\n"
