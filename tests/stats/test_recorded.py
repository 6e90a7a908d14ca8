"""All that is said of a recorded run, to the letter: the same calls in JSON, as text, and in the log."""

import json

import pytest
from golden import make_statistics

SAID = json.loads(make_statistics.SAID.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def now():
    return make_statistics.said_of(json.loads(make_statistics.CALLS.read_text(encoding="utf-8")))


@pytest.mark.parametrize("form", ["json", "text", "log", "summary", "step"])
@pytest.mark.parametrize("name", SAID)
def test_is_said_as_it_was(now, name, form):
    assert now[name][form] == SAID[name][form]


def test_the_recorded_runs_differ_in_what_matters():
    totals = {name: json.loads("\n".join(forms["json"])) for name, forms in SAID.items()}
    assert totals["request"]["layers_dense"] == 0 and totals["prefills"]["layers_dense"] == 0
    assert totals["video step"]["audit_warning"] and not totals["request"]["audit_warning"]
    assert {row["calls"] for row in totals["prefills"]["layers"]} == {2, 3}
