"""Two processes under Paddle's launcher, on a CPU with gloo, are one model: what they answer, count, print and write,
and how they end. ``shared_ranks.py`` is what each of them runs."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from shared_demo import CONFIG, ROOT
from shared_ranks import HEADS, ask_all, size_of

from psa_paddle.integrations.language import families, hub, team
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.integrations.language.team import RankFailed, Team, check_ranks, split

PROGRAM = ROOT / "tests" / "shared_ranks.py"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the launch of both ranks left: its exit status, its log, how long it lived on after a rank's death, a folder
    with their files, and what each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", folder / "log"]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, PROGRAM, folder], env=surroundings, capture_output=True, text=True, timeout=180)
    ended = time.time()
    assert (folder / "died").is_file(), (folder / "log" / "workerlog.0").read_text()[-3000:]
    return SimpleNamespace(
        status=done.returncode,
        said=done.stderr,
        seconds=ended - float((folder / "died").read_text()),
        folder=folder,
        found=[json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)],
    )


@pytest.fixture(scope="module")
def alone():
    """What one process finds."""
    model = QwenVLInference("demo")
    tower = families.check(model.model).layout.tower_of(model.model)
    found = {**ask_all(model), "weights": size_of(model.model), "tower": size_of(tower)}
    return json.loads(json.dumps(found))


def test_the_text_model_is_split_and_the_vision_tower_is_not(ranks, alone):
    for found in ranks.found:
        assert found["tower"] == alone["tower"]
        text, whole = found["weights"] - found["tower"], alone["weights"] - alone["tower"]
        assert whole / 2 <= text < 0.51 * whole


def test_nothing_is_written_beside_the_weights(ranks):
    assert not [file for file in (ROOT / "demo" / "checkpoint").iterdir() if file.suffix in (".metadata", ".lock")]


@pytest.mark.parametrize("attention", ["dense", "fewer tokens", "psa", "mix"])
def test_the_same_tokens(ranks, alone, attention):
    for found in ranks.found:
        assert found[attention]["ids"] == alone[attention]["ids"]
        for name in ("prefill_tokens", "sequence_length", "vision_tokens"):
            assert found[attention]["stats"][name] == alone[attention]["stats"][name]


@pytest.mark.parametrize("attention", ["psa", "mix"])
def test_the_same_work_of_every_head(ranks, alone, attention):
    for found in ranks.found:
        there, here = found[attention], alone[attention]
        assert len(there["densities"]) == len(here["densities"]) > 0
        for mine, whole in zip(there["densities"], here["densities"], strict=True):
            assert len(whole) in (0, HEADS) and mine == pytest.approx(whole, abs=0.01)
        assert there["stats"]["average_sparsity"] == pytest.approx(here["stats"]["average_sparsity"], abs=1e-3)
        assert there["stats"]["dense_reasons"] == here["stats"]["dense_reasons"]
    budgets = np.array(alone["psa"]["densities"])
    assert (budgets.max(1) > 1.2 * budgets.min(1)).all()  # else wrong heads' budgets would go unseen


def test_audits_and_what_ran_are_those_of_all_ranks(ranks, alone):
    first, second = (found["psa"]["stats"] for found in ranks.found)
    assert first["layers"] == second["layers"] and first["tensor_parallel"] == 2
    assert first["peak_memory_bytes"] == second["peak_memory_bytes"]
    assert "tensor_parallel" not in alone["psa"]["stats"]
    for there, here in zip(first["layers"], alone["psa"]["stats"]["layers"], strict=True):
        assert there["audit"] == pytest.approx(here["audit"], rel=1e-2)
    assert {row["audit"]["worst_head"] // 2 for row in first["layers"]} == {0, 1}


def test_a_report_shows_the_heads_of_all_ranks(ranks, alone):
    want = alone["record"]
    for found in ranks.found:
        record = found["record"]
        for layer in want["heads"]:
            assert record["heads"][layer] == pytest.approx(want["heads"][layer], abs=0.01)
            assert record["mass"][layer] == pytest.approx(want["mass"][layer], abs=1e-4)
        for layer in ("0", "5"):
            for name in ("shares", "map_heads"):
                assert np.array(record[name][layer]) == pytest.approx(np.array(want[name][layer]), abs=0.01)


def test_drawn_tokens_are_the_same_on_all_ranks(ranks, alone):
    first, second = ranks.found
    assert first["seed"] == second["seed"] == alone["seed"]
    assert first["no seed"] == second["no seed"] != first["seed"]


def test_a_file_that_one_rank_cannot_read_costs_its_line_and_no_other(ranks):
    failed, answered = map(json.loads, (ranks.folder / "answers0.jsonl").read_text().splitlines())
    assert not (ranks.folder / "answers1.jsonl").exists()
    assert failed["error"] == "rank 1 failed: it is damaged."
    assert answered["answer"] and answered["stats"]["tensor_parallel"] == 2
    for rank in range(2):
        assert "status 2" in (ranks.folder / "log" / f"workerlog.{rank}").read_text()


def test_a_rank_that_is_killed_ends_the_others_with_a_message(ranks):
    assert ranks.status != 0 and ranks.seconds < 60
    assert "Container failed" in ranks.said
    assert "rank 1 status failed" in ranks.said and "code -9" in ranks.said


def test_needs_the_launcher(monkeypatch):
    with pytest.raises(
        ValueError, match=r"needs 2 processes, and this is one alone; 'python -m paddle.distributed.lau"
    ):
        QwenVLInference("no/model", tensor_parallel=2)
    monkeypatch.setattr(paddle.distributed, "get_world_size", lambda: 4)
    with pytest.raises(ValueError, match="tensor_parallel=2, but the launcher started 4 processes"):
        check_ranks(2)
    with pytest.raises(ValueError, match="needs a GPU for each process, and this is a CPU"):
        check_ranks(4)
    assert check_ranks(None) == 1
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:3")
    assert check_ranks(4) == 4
    for wrong, error in ((0, ValueError), (-2, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="tensor_parallel must be"):
            check_ranks(wrong)


@pytest.mark.parametrize("size", [3, 4])
def test_heads_that_cannot_be_shared_are_refused_before_the_weights(size, monkeypatch):
    monkeypatch.setattr(paddle.distributed, "get_world_size", lambda: size)
    monkeypatch.setattr(team, "check_device", lambda: None)
    monkeypatch.setattr("psa_paddle.integrations.language.inference.join", lambda size: Team(0, size))
    match = rf"{size} processes cannot share it evenly \(num_attention_heads 4, num_key_value_heads 2, .*divisor"
    with pytest.raises(ValueError, match=match):
        QwenVLInference("demo", tensor_parallel=size)


def test_a_configuration_that_is_split_says_so_everywhere_that_is_asked():
    text = SimpleNamespace(**{name: CONFIG[name] for name in team.SHARED_OUT})
    config = SimpleNamespace(text_config=text, vision_config=SimpleNamespace())
    split(config, Team(1, 2))
    for part in (config, text):
        assert (part.tensor_model_parallel_size, part.tensor_parallel_rank) == (2, 1)
        assert part.tensor_parallel_output is False
    assert not vars(config.vision_config) and team.team_of(text) == Team(1, 2)
    assert team.team_of(SimpleNamespace()) == team.team_of(SimpleNamespace(tensor_model_parallel_size=-1)) == Team()


def test_a_failure_where_others_wait_ends_the_process(monkeypatch):
    left = []
    monkeypatch.setattr(team.atexit, "register", left.append)
    with pytest.raises(RankFailed, match="rank 1 of 2 cannot go on, so no rank can: out of memory"):
        with Team(1, 2).waiting():
            raise MemoryError("out of memory")
    assert left == [team._leave]
    with pytest.raises(MemoryError), Team().waiting():
        raise MemoryError
    assert left == [team._leave]


def test_ranks_that_are_asked_different_things_say_so(monkeypatch):
    said = [(b"one", 1), (b"another", 2)]
    monkeypatch.setattr(Team, "gather", lambda self, value: said)
    with pytest.raises(ValueError, match="asked different things; every rank has to make the same calls"):
        Team(0, 2).settle([1, 2])
    said[1] = (b"one", 2)
    assert Team(0, 2).settle([1, 2]) == Team(1, 2).settle([1, 2]) == 1


def test_several_processes_download_whole_checkpoints(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(name, **how):
        asked.append((name, how["cache_dir"]))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.delenv("DOWNLOAD_SOURCE", raising=False)
    assert hub.folder_of(str(tmp_path), "") == str(tmp_path) and not asked
    with pytest.raises(FileNotFoundError, match="not all weights"):
        hub.folder_of("a/b", "", "cache")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    assert hub.folder_of("a/b", "", "cache") == str(tmp_path) and asked[-1] == ("a/b", "cache")
    monkeypatch.setenv("DOWNLOAD_SOURCE", "modelscope")
    with pytest.raises(hub.HubError, match="could not be downloaded from ModelScope .*Hugging Face's hub alone.*give"):
        hub.load_by_name(hub.folder_of, "a/b", "")
