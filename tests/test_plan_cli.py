"""``psa-paddle plan``: what it prints and what it refuses."""

import json

import pytest

from psa_paddle.cli import main


def said(capsys, *words: str) -> str:
    status = main(["plan", *words])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def test_json_has_what_the_text_says(capsys):
    words = ("--model", "Qwen2.5-VL-7B", "--tokens", "65536")
    found = json.loads(said(capsys, *words, "--json"))
    assert (found["parameters"], found["gpus"], found["gpu"], found["fits"]) == (8292166656, 1, "H100", True)
    memory = found["memory"]
    assert memory["total"] == sum(memory[part] for part in ("weights", "tower", "cache", "prompt", "work"))
    assert memory["cache"] == 2 * 28 * 4 * 128 * 65536 * 2 and found["largest_chunk"] is None
    assert set(found["prefill"]) == {"dense", "quality", "balanced", "fast"}
    assert {time["basis"] for time in found["prefill"].values()} == {"measured"}
    text = said(capsys, *words)
    assert f"{memory['total'] / 2**30:.2f}  together, of {found['room'] / 2**30:.1f}" in text and "It fits." in text
    assert f"{found['prefill']['balanced']['seconds']:.3g}  balanced (attention" in text
    assert "Seconds of the prefill, the sum of rows measured on an H200" in text
    assert all(note in text for note in found["notes"])


def test_what_does_not_fit_says_what_would(capsys):
    text = said(capsys, "--model", "Qwen2.5-VL-72B", "--tokens", "262144", "--gpus", "4")
    assert "It does not fit; it does with --prefill-chunk 65536 on as many GPUs, or with --gpus 8." in text
    assert "derived from rows measured on an H200" in text
    text = said(capsys, "--model", "Qwen2.5-VL-72B", "--tokens", "65536")
    assert "It does not fit; it does with --gpus 4." in text
    text = said(capsys, "--model", "Qwen2.5-VL-72B", "--tokens", "9999999", "--gpus", "8")
    assert "It does not fit, on 8 GPUs neither." in text


def test_flags_reach_the_figures(capsys):
    words = ("--model", "Qwen3-VL-8B", "--tokens", "131072", "--json")
    plain, dense, chunk, wide, h200, two = (
        json.loads(said(capsys, *words, *more))
        for more in ((), ("--preset", "dense"), ("--prefill-chunk", "2048"), ("--dtype", "float32"), ("--gpu", "H200"),
                     ("--gpus", "2"))
    )  # fmt: skip
    assert dense["memory"]["total"] <= plain["memory"]["total"] and dense["preset"] == "dense"
    assert chunk["memory"]["work"] < plain["memory"]["work"] / 10 and chunk["prefill_chunk"] == 2048
    assert wide["memory"]["weights"] == 2 * plain["memory"]["weights"] and h200["room"] > plain["room"]
    assert two["memory"]["cache"] * 2 == plain["memory"]["cache"] and two["gpus"] == 2
    assert "2,048 tokens at a time" in said(capsys, *words[:-1], "--prefill-chunk", "2048")


@pytest.mark.parametrize(
    "words, says",
    [
        ("--model Qwen2.5-VL-8B --tokens 1", "Qwen2.5-VL-8B is neither a folder nor a size that is known: demo, Qwen"),
        ("--model demo --tokens 0", "--tokens must be at least 1, got 0."),
        ("--model demo --tokens 9 --gpus 0", "--gpus must be at least 1, got 0."),
        ("--model demo --tokens -4", "--tokens must not be negative, got -4."),
        ("--model Qwen2.5-VL-7B --tokens 9 --gpus 8", "--gpus must be one of 1, 2, 4 for Qwen2.5-VL-7B, which divide"),
        ("--model demo --tokens 9 --prefill-chunk 100", "--prefill-chunk must be a multiple of 128, got 100."),
    ],
)
def test_what_cannot_be_is_one_sentence(capsys, words, says):
    assert main(["plan", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"error: {says}") and err.count("\n") == 1
