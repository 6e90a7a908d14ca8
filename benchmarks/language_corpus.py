"""Text for the language model of bench_language.py: documents of one corpus, their tokens, and some held out."""

from __future__ import annotations

import os
import random
import sysconfig
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

DOCUMENT = 400_000  # characters at which a document ends; longer files are left out
SHORTEST = 200  # characters; shorter files are left out
HELD = 12  # documents that the model never sees
TOKENIZER_TEXT = (700, 100_000)  # documents, and characters of each, that the tokenizer learns from


def python_folders() -> list[Path]:
    """Where this Python keeps its own sources and those of what is installed."""
    paths = sysconfig.get_paths()
    return [Path(paths[name]) for name in ("stdlib", "purelib", "platlib")]


def text_files(folders: list[Path], pattern: str) -> Iterator[Path]:
    """Files of that pattern, sorted within each folder, each once however many folders and links lead to it.

    Raises:
        ValueError: a folder that is not there.
    """
    seen = set()
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"the corpus folder '{folder}' does not exist.")
        for file in sorted(folder.glob(pattern)):
            place = os.path.realpath(file)
            if place not in seen and os.path.isfile(place):
                seen.add(place)
                yield file


def read(file: Path) -> str:
    """A file's text under a line with its name; "" where it is no UTF-8 text or of an unlikely length."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return f"# file: {file.parent.name}/{file.name}\n{text}\n" if SHORTEST < len(text) < DOCUMENT else ""


def documents(folders: list[Path], pattern: str, megabytes: float) -> list[str]:
    """About so many megabytes of documents in a shuffled order that is always the same. Neighbouring files of a folder
    share a document, so that far tokens matter.

    Raises:
        ValueError: a folder that is not there, or one without text.
    """
    found = []
    for _, files in groupby(text_files(folders, pattern), key=lambda file: file.parent):
        current = ""
        for text in map(read, files):
            current += text
            if len(current) > DOCUMENT:
                found.append(current)
                current = ""
        if current:
            found.append(current)
    if not found:
        names = ", ".join(f"'{folder}'" for folder in folders)
        raise ValueError(f"no UTF-8 text of {SHORTEST} to {DOCUMENT:,} characters matches '{pattern}' in {names}.")
    random.Random(0).shuffle(found)
    total = 0
    for n, text in enumerate(found):
        total += len(text)
        if total > megabytes * 1e6:
            return found[: n + 1]
    return found


def choose_held(lengths: list[int], longer_than: int, count: int = HELD) -> list[int]:
    """Numbers of up to ``count`` documents with more than so many tokens, evenly spread over all such.

    Raises:
        ValueError: fewer than two documents are that long, or none would be left to train on.
    """
    long = [n for n, length in enumerate(lengths) if length > longer_than]
    held = long[:: max(1, len(long) // count)][:count]
    if len(held) < 2 or len(held) == len(lengths):
        raise ValueError(
            f"{len(long)} of {len(lengths)} documents have more than {longer_than:,} tokens; at least two must, and "
            "another must be left to train on: use a larger corpus."
        )
    return held


def tokenize(texts: list[str], vocab: int):
    """``(token ids of each text, the tokenizer)``, a byte-level BPE trained on the texts themselves."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False, initial_alphabet=alphabet)
    count, length = TOKENIZER_TEXT
    tokenizer.train_from_iterator((text[:length] for text in texts[:count]), trainer)
    batches = (texts[n : n + 256] for n in range(0, len(texts), 256))
    return [encoded.ids for batch in batches for encoded in tokenizer.encode_batch(batch)], tokenizer
