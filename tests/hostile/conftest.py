"""What every case must leave as it was: temporary files, open files, threads."""

import os
import tempfile
import threading
import time

import pytest
from shared_media import FORMATS, write_clip

SECONDS_A_CASE = 180  # of a machine with much else to do


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


@pytest.fixture(scope="session")
def clip_of(tmp_path_factory):
    """Path of a clip of a format, written once."""
    folder = tmp_path_factory.mktemp("clips")

    def make(name):
        path = folder / name
        return path if path.exists() else write_clip(path, **FORMATS[name])

    return make
