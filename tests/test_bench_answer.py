"""bench_answer.py's smallest run."""

import json

import bench_answer
import pytest

from psa_paddle.integrations.language.answering import parts, reports


def test_stages_and_their_shares(capsys):
    before = parts.portions, reports.time
    bench_answer.main(["--row", "--fps", "0.2", "--repeats", "1", "--settings", "balanced,0.5"])
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(row) == set(bench_answer.FIELDS) and row["setting"] == "balanced,0.5"
    assert row["tokens"] - row["prefilled"] == 3 * 108 // 2 and row["peak_mib"] > 100  # three pairs of frames
    seconds = [float(row[f"{name}_s"]) for name in bench_answer.STAGES]
    assert min(seconds) > 0 and sum(seconds) == pytest.approx(float(row["first_token_s"]), abs=0.01)
    assert sum(float(row[f"{name}_share"]) for name in bench_answer.STAGES) == pytest.approx(100, abs=3)
    assert (parts.portions, reports.time) == before


def test_rows_of_every_length_and_setting(monkeypatch, tmp_path, capsys):
    """A process a row; what it prints last is the row."""
    asked = []

    def run(command, **how):
        asked.append(command[-2:] + [part for part in command if part.startswith("--fps")])
        row = dict.fromkeys(bench_answer.FIELDS, len(asked))
        return type("Done", (), {"stdout": "chatter\n" + json.dumps(row)})

    monkeypatch.setattr(bench_answer.subprocess, "run", run)
    monkeypatch.setattr(bench_answer, "facts", lambda *_: dict.fromkeys(("machine", "versions", "commit"), "x"))
    bench_answer.main(["--fps", "1", "2", "--settings", "dense", "fast", "--csv", str(tmp_path / "a.csv")])
    assert [f"{settings} {fps}" for _, settings, fps in asked] == [
        f"--settings={name} --fps={fps}" for fps in ("1.0", "2.0") for name in ("dense", "fast")
    ]
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert len(lines) == 5 and lines[4] == ",".join(["x"] * 3 + ["4"] * len(bench_answer.FIELDS))
