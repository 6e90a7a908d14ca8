"""Libraries are quiet for a while, and what the user has set stays."""

import os

import pytest

from psa_paddle.utils.quiet import quiet_import

LEVEL = "GLOG_minloglevel"


@pytest.mark.parametrize("own", [None, "0"], ids=["not set", "the user's"])
def test_the_log_level_of_paddle_is_lowered_for_its_import_alone(own, monkeypatch):
    monkeypatch.delenv(LEVEL, raising=False)
    if own is not None:
        monkeypatch.setenv(LEVEL, own)
    with quiet_import():
        assert os.environ[LEVEL] == (own or "2")
    assert os.environ.get(LEVEL) == own
