"""The video example: playable files, sparsity of every step, one sentence for bad input."""

import logging
import re

import av
import numpy as np
import pytest
from video_generation import main, write_mp4

ASK = ["--prompt", "a red ball", "--width", "160", "--height", "128", "--num_frames", "9", "--num_inference_steps", "4"]
OWN = """
CogVideo1.5_5b:
  attention_configs:
    mine:
      type: psa
      use_rearrange: true
      rearrange_method: Gilbert
      block_size: {m: 64, n: 32, tile_n: 32}
      mask_ratios: {1: [0.0, 0.3], 0: [0.3, 1.0]}
      warmup_steps: 1
      verbose: VERBOSE
"""
STEP = re.compile(r"step +(\d+) .*sparsity +([\d.]+)%")


def own_presets(folder, verbose="true"):
    file = folder / "own.yaml"
    file.write_text(OWN.replace("VERBOSE", verbose), encoding="utf-8")
    return ["--use_psa", "--attention_preset", "mine", "--preset_file", str(file)]


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("model", ["stub-cogvideox", "stub-wan"])
def test_writes_a_playable_video(model, tmp_path, capsys):
    assert main([*ASK, "--model", model, "--output_dir", str(tmp_path), "--use_psa"]) == 0
    assert [p.name for p in tmp_path.rglob("*.mp4")] == ["video_0000.mp4"]
    frames = frames_of(tmp_path / model / "video_0000.mp4")
    assert frames.shape == (9, 128, 160, 3) and frames.std() > 5
    printed = capsys.readouterr().out
    assert "STUB" in printed
    assert [int(step) for step, _ in STEP.findall(printed)] == [1, 2, 3, 4]


def test_prints_the_sparsity_of_every_step(tmp_path, capsys):
    big = ["--prompt", "a red ball", "--width", "320", "--height", "256", "--num_inference_steps", "3"]
    assert main([*big, "--output_dir", str(tmp_path), *own_presets(tmp_path)]) == 0
    sparsity = [float(percent) for _, percent in STEP.findall(capsys.readouterr().out)]
    assert len(sparsity) == 3 and sparsity[0] == 0 and min(sparsity[1:]) > 30
    assert main([*big, "--output_dir", str(tmp_path), *own_presets(tmp_path, "false")]) == 0
    quiet = capsys.readouterr().out
    assert not STEP.findall(quiet) and "over 2 sparse steps" in quiet
    assert main([*big, "--output_dir", str(tmp_path), *own_presets(tmp_path, "false"), "--verbose"]) == 0
    loud = capsys.readouterr().out
    assert len(STEP.findall(loud)) == 3 and "step  3 layer  1" in loud


def test_prompt_file_makes_a_video_a_line_with_seeds_of_their_own(tmp_path, capsys, monkeypatch):
    made = []  # the encoder is not the same on every run
    monkeypatch.setattr("video_generation.write_mp4", lambda path, frames, fps: made.append((path.name, frames)))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red ball\n\na red ball\na blue box\n", encoding="utf-8")
    out = ["--output_dir", str(tmp_path / "out")]
    assert main(["--prompt_file", str(prompts), *ASK[2:], "--seed", "5", *out]) == 0
    assert main([*ASK, "--seed", "6", *out]) == 0
    names, frames = zip(*made, strict=True)
    assert names == ("video_0000.mp4", "video_0001.mp4", "video_0002.mp4", "video_0000.mp4")
    assert np.array_equal(frames[1], frames[3])
    assert not np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[1], frames[2])
    assert "sparsity" not in capsys.readouterr().out


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    frames = np.zeros((3, 32, 32, 3), np.float32)
    with pytest.raises(Exception, match="ize|imension|rray"):
        write_mp4(tmp_path / "a.mp4", frames[..., :2], 8)
    assert list(tmp_path.iterdir()) == []


REFUSED = {
    "preset without psa": (["--attention_preset", "psa_balanced"], "nothing without --use_psa"),
    "verbose without psa": (["--verbose"], "nothing without --use_psa"),
    "unknown preset": (["--use_psa", "--attention_preset", "nope"], "no preset"),
    "missing preset file": (["--use_psa", "--preset_file", "nope.yaml"], "no preset file"),
    "odd width": (["--width", "100"], "multiple of 16"),
    "frames": (["--num_frames", "8"], "1, 5, 9, 13"),
    "no steps": (["--num_inference_steps", "0"], "at least 1"),
    "guidance": (["--guidance_scale", "nan"], "--guidance_scale"),
    "seed": (["--seed", "-1"], "--seed"),
    "weights of a stub": (["--weights", "here"], "whose weights are random"),
    "blank prompt": (["--prompt", "  "], "no prompt"),
    "no ppdiffusers": (["--model", "wan2.1_1.3b"], "PaddleMIX's ppdiffusers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_with_one_sentence(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ppdiffusers", None)
    flags, words = REFUSED[case]
    out = tmp_path / "out"
    assert main([*ASK, "--output_dir", str(out), *flags]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not out.exists()


def test_refuses_a_file_as_folder_and_a_missing_prompt_file(tmp_path, capsys):
    file = tmp_path / "a"
    file.write_text("", encoding="utf-8")
    assert main([*ASK, "--output_dir", str(file)]) == 2 and "is a file" in capsys.readouterr().err
    assert main(["--prompt_file", str(tmp_path / "no"), *ASK[2:], "--output_dir", str(tmp_path / "out")]) == 2
    assert main(["--prompt_file", str(file), *ASK[2:], "--output_dir", str(tmp_path / "out")]) == 2
    assert "no prompt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_leaves_the_log_as_it_was(tmp_path):
    log = logging.getLogger("psa_paddle")
    before = log.level, log.propagate, list(log.handlers)
    assert main([*ASK, "--output_dir", str(tmp_path)]) == 0
    assert (log.level, log.propagate, list(log.handlers)) == before
