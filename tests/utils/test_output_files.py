"""Files are written whole or not at all; links, pipes and devices are written through and stay what they are."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from psa_paddle.utils.files import check_file, check_folder, replacing, write_text

TEXT = "答案\n"


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_written_whole(tmp_path):
    file = tmp_path / "a.json"
    write_text(file, TEXT)
    write_text(str(file), TEXT * 2)
    assert file.read_text(encoding="utf-8") == TEXT * 2 and names(tmp_path) == ["a.json"]
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_file_keeps_its_mode(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")
    file.chmod(0o640)
    write_text(file, TEXT)
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_failure_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "new \ud800")
    with pytest.raises(KeyboardInterrupt), replacing(file) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and names(tmp_path) == ["a.json"]


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "old").symlink_to("there/file")  # leads to nothing yet
    write_text(tmp_path / "old", TEXT)
    assert (tmp_path / "old").is_symlink() and (tmp_path / "there" / "file").read_text(encoding="utf-8") == TEXT
    assert names(tmp_path / "there") == ["file"]


def test_a_pipe_is_written_through(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text(encoding="utf-8")))
    reader.start()
    write_text(check_file(tmp_path / "pipe", "--stats-json"), TEXT)
    reader.join(10)
    assert read == [TEXT] and (tmp_path / "pipe").is_fifo()


def test_a_device_is_written_through():
    assert check_file("/dev/full", "--stats-json") == Path("/dev/full")
    with pytest.raises(OSError, match="No space"):
        write_text("/dev/full", TEXT)
    write_text("/dev/null", TEXT)
    assert Path("/dev/full").is_char_device() and Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["/dev/stdout", "out.txt", "/dev/fd/1"])
def test_the_file_behind_stdout_keeps_what_was_printed(name, tmp_path):
    """``--stats-json /dev/stdout > out.txt`` must not wipe the answer away."""
    code = f"from psa_paddle.utils.files import write_text; print('answer'); write_text({name!r}, 'stats\\n'); print(1)"
    with open(tmp_path / "out.txt", "w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, cwd=tmp_path, check=True, env=environment())
    assert (tmp_path / "out.txt").read_text() == "answer\nstats\n1\n" and names(tmp_path) == ["out.txt"]


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": ""}


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_text(check_file("~/a", "file"), TEXT)
    assert check_folder("~/b/c", "folder") == tmp_path / "b" / "c"
    (tmp_path / "here" / "~").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    write_text(check_file("./~/b", "file"), TEXT)  # a folder of that name
    assert names(tmp_path) == ["a", "here"] and names(tmp_path / "here" / "~") == ["b"]


REFUSED = {
    "a number": (check_file, lambda d: 5, TypeError, "must be a path, got int"),
    "an empty name": (check_file, lambda d: "", ValueError, "is not a path"),
    "a zero byte": (check_file, lambda d: "a\0b", ValueError, "is not a path"),
    "a folder": (check_file, lambda d: d, ValueError, "is a folder; name a file"),
    "in no folder": (check_file, lambda d: d / "no" / "a", ValueError, "does not exist; make it first"),
    "in a file": (check_file, lambda d: d / "file" / "a", ValueError, "does not exist; make it first"),
    "a file as folder": (check_folder, lambda d: d / "file", ValueError, "is a file; name a folder"),
    "a folder in a file": (check_folder, lambda d: d / "file" / "a", ValueError, "file' is a file; name a folder"),
    "a link to itself": (check_file, lambda d: d / "loop", ValueError, "loop' cannot be used"),
    "a long name": (check_folder, lambda d: d / ("x" * 300), ValueError, "cannot be used .File name too long"),
    "a number as folder": (check_folder, lambda d: 5, TypeError, "must be a path, got int"),
}


@pytest.mark.parametrize("case", REFUSED, ids=list(REFUSED))
def test_refuses(case, tmp_path):
    check, make, error, words = REFUSED[case]
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(error, match=words):
        check(make(tmp_path), "--out")
    assert names(tmp_path) == ["file", "loop"]


@pytest.mark.parametrize("place,check", [("a", check_file), ("", check_file), ("", check_folder)])
def test_refuses_what_is_not_writable(place, check, tmp_path, monkeypatch):
    (tmp_path / "a").write_text("")
    closed = tmp_path / place
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed)  # root may write anywhere
    target = tmp_path / "a" if check is check_file else tmp_path / "new"
    with pytest.raises(ValueError, match="is not writable"):
        check(target, "--out")
