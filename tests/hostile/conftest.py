"""What every case must leave as it was: temporary files, open files, threads."""

import os
import tempfile
import threading
import time

import pytest

SECONDS_A_CASE = 60


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path_factory, monkeypatch):
    """Fails a case that leaves a temporary file, an open file or a thread, or that takes long."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before, started = in_use(), time.monotonic()
    yield
    assert time.monotonic() - started < SECONDS_A_CASE
    assert list(folder.iterdir()) == []
    deadline = time.monotonic() + 20  # a server's own threads end a little later
    while any(now > then for now, then in zip(in_use(), before, strict=True)):
        assert time.monotonic() < deadline, "a file or a thread is left"
        time.sleep(0.01)


def in_use() -> tuple[int, int]:
    """Numbers of open files and of threads."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()
