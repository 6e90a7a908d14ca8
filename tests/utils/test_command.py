"""Exit codes and one line on stderr for what can go wrong."""

import io
import os
import subprocess
import sys
from types import SimpleNamespace

import paddle
import pytest
import requests
from httpx import ConnectError, HTTPStatusError

from psa_paddle.utils.command import NotWritten, run_command
from psa_paddle.utils.network import network_error


def raising(error, cause=None):
    def run():
        raise error from cause

    return run


def out_of_host_memory():
    paddle.zeros([1 << 46])


def answered(status):
    return HTTPStatusError("no", request=None, response=SimpleNamespace(status_code=status))


NO_MEMORY = "error: not enough memory; take less.\n"
OUTCOMES = {
    "done": (lambda: None, 0, ""),
    "bad input": (raising(ValueError("fps is odd.")), 2, "error: fps is odd.\n"),
    "bad type": (raising(TypeError("no text.")), 2, "error: no text.\n"),
    "a file": (raising(FileNotFoundError(2, "No such file", "x")), 2, "error: [Errno 2] No such file: 'x'\n"),
    "host memory": (out_of_host_memory, 3, NO_MEMORY),
    "GPU memory": (raising(RuntimeError("Triton Error [CUDA]: out of memory")), 3, NO_MEMORY),
    "memory behind another": (raising(ValueError("no"), MemoryError()), 3, NO_MEMORY),
    "network": (raising(ValueError("no hub."), ConnectError("refused")), 4, "error: no hub.\n"),
    "download": (raising(ValueError("no."), requests.ConnectionError("refused")), 4, "error: no.\n"),
    "busy hub": (raising(ValueError("no."), answered(503)), 4, "error: no.\n"),
    "unknown name": (raising(ValueError("no."), answered(404)), 2, "error: no.\n"),
    "no address": (raising(ValueError("no."), requests.exceptions.InvalidURL("x")), 2, "error: no.\n"),
    "not written": (raising(NotWritten("no space.")), 5, "error: no space.\n"),
    "Ctrl-C": (raising(KeyboardInterrupt()), 130, "interrupted\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", OUTCOMES)
def test_exit_codes(case, capsys):
    run, status, words = OUTCOMES[case]
    assert run_command(run, "take less.") == status
    streams = capsys.readouterr()
    assert streams.err == words and streams.out == ""


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KeyError("a defect")])
def test_defects_keep_their_trace(error):
    with pytest.raises(type(error), match="a defect"):
        run_command(raising(error), "")


def test_an_ascii_terminal_loses_nothing(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert run_command(lambda: print("38 个"), "") == 0
    assert out.buffer.getvalue() == b"38 \\u4e2a\n"


@pytest.mark.parametrize(
    "run,status,words",
    [
        ("print('x\\n' * 100000)", 141, b""),
        ("print('x\\n' * 100000, flush=True)", 141, b""),
        ("print('x', flush=True), time.sleep(0.5), print('y'), [][0]", 130, b"interrupted\n"),
    ],
    ids=["at the end", "at once", "Ctrl-C in the whole pipeline"],
)
def test_a_reader_that_leaves(run, status, words):
    code = f"""
import sys, time
from psa_paddle.utils.command import run_command

def run():
    try:
        {run}
    except IndexError:
        raise KeyboardInterrupt from None

sys.exit(run_command(run, ""))
"""
    command = f'{sys.executable} -c "$CODE" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "CODE": code, "PYTHONUNBUFFERED": ""}, capture_output=True
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"x\n", words, status)


def test_the_network_is_told_from_the_rest():
    assert network_error(ValueError("bad")) is None and network_error(BrokenPipeError()) is None
    assert isinstance(network_error(TimeoutError()), TimeoutError)
    refused = ConnectError("refused")
    try:
        try:
            raise refused
        except ConnectError:
            raise KeyError("not found")  # noqa: B904, as ModelScope's errors reach us
    except KeyError as error:
        assert network_error(error) is refused
