"""What of several processes the first one does alone: read, print and write."""

import io
import json
from argparse import Namespace

import paddle
import pytest
from shared_demo import ROOT

from psa_paddle.cli import ask, main
from psa_paddle.cli.ranks import printing, ranks_of, reading
from psa_paddle.integrations.language import team
from psa_paddle.integrations.language.team import Team


def be(monkeypatch, rank: int, size: int = 2) -> None:
    """Let Paddle say that this process is one of several."""
    monkeypatch.setattr(paddle.distributed, "get_world_size", lambda: size)
    monkeypatch.setattr(paddle.distributed, "get_rank", lambda: rank)


def test_the_flag_and_the_launcher_have_to_agree(monkeypatch, capsys):
    assert ranks_of(None) is None and ranks_of(1) == 1
    command = ["ask", "--model", "demo", "--input", str(ROOT / "demo" / "sample.jpg")]
    assert main([*command, "--tensor-parallel", "2"]) == 2
    assert "error: tensor_parallel=2 needs 2 processes, and this is one alone; 'python -m" in capsys.readouterr().err
    be(monkeypatch, 0)
    monkeypatch.setattr(team, "check_device", lambda: None)
    assert ranks_of(2) == 2
    assert main(command) == 2
    assert capsys.readouterr().err == "error: the launcher started 2 processes; add --tensor-parallel 2.\n"


def test_the_page_is_one_process(capsys):
    assert main(["web", "--tensor-parallel", "1"]) == 2
    assert "--tensor-parallel is for 'psa-paddle ask' and 'chat'" in capsys.readouterr().err


@pytest.mark.parametrize("rank, printed", [(0, "an answer\n"), (1, "")])
def test_the_first_process_prints(rank, printed, monkeypatch, capsys):
    be(monkeypatch, rank)
    with printing():
        print("an answer")
    assert capsys.readouterr().out == printed
    print("after")
    assert capsys.readouterr().out == "after\n"


class Together(Team):
    """Two ranks, of which the first says what it is given, and this one hears it."""

    said = ["one", "", None]
    heard: list = []

    def gather(self, value):
        self.heard.append(value)
        return [self.said[len(self.heard) - 1], None]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_reads_and_all_hear(rank, monkeypatch):
    monkeypatch.setattr(Together, "heard", [])
    terminal = io.StringIO("one\n\n")
    monkeypatch.setattr("sys.stdin", terminal)
    read = reading(Together(rank, 2), input)
    assert [read(), read()] == ["one", ""]
    with pytest.raises(EOFError):
        read()
    assert Together.heard == ([None] * 3 if rank else ["one", "", None])
    assert terminal.tell() == (0 if rank else 5)


class Answered:
    """A model that answered as one of two ranks."""

    def __init__(self, rank: int):
        self.team, self.logs = Team(rank, 2), []

    def write_log(self, folder):
        self.logs.append(folder)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_writes_and_all_make_the_page(rank, tmp_path):
    files = {name: tmp_path / name for name in ("stats_json", "report")}
    args = Namespace(**files, log_dir=tmp_path)
    model, made = Answered(rank), []
    ask.write_extras(model, {"new_tokens": 1}, args, lambda: made.append(1) or "page")
    assert made == [1] and model.logs == [tmp_path]
    assert [path.exists() for path in files.values()] == [rank == 0] * 2
    if rank == 0:
        assert json.loads(files["stats_json"].read_text()) == {"new_tokens": 1}
