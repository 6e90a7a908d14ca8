"""A private folder, files that are read once, and what they show."""

import os
import stat
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image
from shared_demo import ROOT

from psa_paddle.integrations.language.answering.messages import Looking
from psa_paddle.utils.media import MediaError
from psa_paddle.web.uploads import MOST_EDGE, NotHere, Uploads, read_medium
from psa_paddle.web.worker import Left

LOOKING = Looking(fps=1.0, max_frames=4)


@pytest.fixture
def uploads():
    uploads = Uploads()
    yield uploads
    uploads.close()


def arrive(uploads, name="a.mp4", data=b"12345"):
    folder = uploads.arriving / "hash"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return str(folder / name)


def silent(*_):
    pass


def test_the_folder_is_private_and_goes_with_all_that_is_in_it(uploads):
    arrive(uploads)
    folders = (uploads.folder, uploads.arriving, uploads.folder / "taken")
    assert [stat.S_IMODE(path.stat().st_mode) for path in folders] == [0o700] * 3
    uploads.close()
    assert not uploads.folder.exists()


def test_every_file_counts(uploads):
    for name in ("a", "b"):
        os.utime(arrive(uploads, name), (1, 1))
    assert uploads.stored_bytes() == 10


def test_two_visitors_who_send_the_same_have_a_file_each(uploads):
    path = arrive(uploads)
    first, second = uploads.take(path), uploads.take(path)
    assert uploads.stored_bytes() == 5  # one file under three names
    os.unlink(path)
    uploads.drop(first)
    assert second.read_bytes() == b"12345" and uploads.stored_bytes() == 5
    uploads.drop(second)
    uploads.drop(second)
    assert uploads.stored_bytes() == 0


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{}/../../../etc/passwd", "{}", "{}/none.mp4", "relative.mp4", "", "\0", None, 7, ["x"],
             "http://localhost/a.mp4", "file:///etc/passwd", "{}/out", "x" * 5000],
)  # fmt: skip
def test_what_was_not_uploaded_here_is_not_taken(uploads, path):
    os.symlink("/etc/passwd", uploads.arriving / "out")
    path = path.format(uploads.arriving) if isinstance(path, str) else path
    with pytest.raises(NotHere, match="again"):
        uploads.take(path)
    assert not uploads.holds(path) and not list((uploads.folder / "taken").iterdir())


def test_sweep_removes_what_nobody_reads(uploads):
    old, new = arrive(uploads, "old"), arrive(uploads, "new")
    half = uploads.arriving / "tmp123"
    half.write_bytes(b"1")
    for path in (old, half):
        os.utime(path, (0, 0))
    uploads.sweep(60)
    assert not os.path.exists(old) and not half.exists() and os.path.exists(new)
    os.utime(new, (0, 0))
    uploads.sweep(60)
    os.utime(os.path.dirname(new), (0, 0))
    uploads.sweep(60)
    assert not list(uploads.arriving.iterdir())


def test_what_a_file_is_does_not_depend_on_its_name(tmp_path):
    for name, kind in (("sample.jpg", "image"), ("sample.mp4", "video")):
        odd = tmp_path / f"{name}.txt"
        odd.write_bytes((ROOT / "demo" / name).read_bytes())
        medium = read_medium(odd, "my.bin", LOOKING, 60, silent)
        assert (medium.kind, medium.name, medium.part()["type"]) == (kind, "my.bin", kind)


def test_a_moving_gif_is_a_video_and_a_large_picture_is_kept_small(tmp_path):
    frames = [Image.fromarray(np.full((56, 56, 3), x, np.uint8)) for x in (0, 90, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    assert read_medium(tmp_path / "a.gif", "a.gif", LOOKING, 60, silent).kind == "video"
    Image.new("L", (MOST_EDGE + 400, 30)).save(tmp_path / "b.png")
    assert max(read_medium(tmp_path / "b.png", "b.png", LOOKING, 60, silent).shown.size) == MOST_EDGE


def test_refusals_speak_of_the_name_that_the_sender_knows(tmp_path):
    with zipfile.ZipFile(tmp_path / "f00", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(MediaError, match="^video 'holiday.mp4' is a ZIP archive") as refused:
        read_medium(tmp_path / "f00", "holiday.mp4", LOOKING, 60, silent)
    assert str(tmp_path) not in str(refused.value)


def test_a_long_video_is_refused_before_it_is_decoded():
    def never(stage, done, total):
        assert not done

    sample = ROOT / "demo" / "sample.mp4"
    with pytest.raises(MediaError, match="'a.mp4' lasts 30 s; at most 29 s"):
        read_medium(sample, "a.mp4", LOOKING, 29, never)
    assert len(read_medium(sample, "a.mp4", LOOKING, 30, silent).shown.frames) == 4


def test_reading_ends_when_nobody_waits():
    reports = []

    def report(*given):
        reports.append(given)
        if len(reports) == 3:
            raise Left

    with pytest.raises(Left):
        read_medium(ROOT / "demo" / "sample.mp4", "a.mp4", Looking(fps=2.0), 60, report)
    assert len(reports) == 3


def test_files_may_come_and_go_from_several_threads(uploads):
    path, errors = arrive(uploads), []

    def take():
        try:
            for _ in range(50):
                uploads.drop(uploads.take(path))
                uploads.stored_bytes()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=take) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors
