"""All that is said of a recorded run, to the letter: the same calls in JSON, as text, and in the log."""

import json

import pytest
from golden import make_statistics

RECORDED = json.loads(make_statistics.FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", ["json", "text", "log", "summary", "step"])
@pytest.mark.parametrize("name", RECORDED)
def test_is_said_as_it_was(name, form):
    run = RECORDED[name]
    calls = list(map(make_statistics.rebuilt, run["calls"]))
    assert make_statistics.said(calls, run["request"], run["config"])[form] == run["said"][form]


def test_the_recorded_runs_differ_in_what_matters():
    said = {name: json.loads(run["said"]["json"]) for name, run in RECORDED.items()}
    assert said["request"]["layers_dense"] == 0 and said["prefills"]["layers_dense"] == 6
    assert said["video step"]["audit_warning"] and not said["request"]["audit_warning"]
    assert {row["calls"] for row in said["prefills"]["layers"]} == {2, 3}
