"""Clips of every container and codec show at each time what was drawn for it, or are refused with a sentence."""

import io
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image
from shared_demo import ROOT
from shared_media import (
    BLACK,
    CLIP_SIZE,
    FORMATS,
    GREEN,
    RED,
    SECONDS,
    WHITE,
    assert_clip,
    assert_quarters,
    clip_frame,
    turn_mp4,
    with_sound,
    write_animation,
    write_clip,
)

from psa_paddle.utils.media import MediaError, animations, load_video


@pytest.mark.parametrize("name", FORMATS)
def test_format(name, clip_of):
    """Two frames a second, each of the second that the model is told, from the first frame on."""
    clip = load_video(clip_of(name), fps=2)
    assert len(clip.frames) == 12 and clip.fps == pytest.approx(2, rel=0.02)
    assert clip.times == pytest.approx([i / 2 for i in range(12)], abs=0.1)
    assert_clip(clip, [i / 2 for i in range(12)])


@pytest.mark.parametrize("name", ["h264.mp4", "many keys.mp4", "h264.ts", "h264.avi", "vp9.webm", "uneven.mkv"])
def test_single_moments(name, clip_of):
    """A few frames far apart, which are sought and not decoded one after the other."""
    clip = load_video(clip_of(name), fps=0.4)
    assert len(clip.frames) == 2 and clip.times == pytest.approx([0, 3], abs=0.1)
    assert_clip(clip, [0, 3])


def test_no_finer_than_the_film(clip_of):
    clip = load_video(clip_of("h264.mp4"), fps=30)
    assert len(clip.frames) == 48 and clip.fps == pytest.approx(8)
    assert_clip(clip)


def test_at_most_max_frames(clip_of):
    clip = load_video(clip_of("h264.mp4"), fps=8, max_frames=7)
    assert clip.times == pytest.approx([0, 1, 2, 3, 4, 5]) and clip.fps == pytest.approx(1)
    assert_clip(clip)


def test_what_appears_at_second_fifteen(tmp_path):
    """The clip of the report: every frame in the first 10 s, one a second after that."""
    times = [*np.arange(0, 10, 0.04), *range(10, 30)]
    path = write_clip(tmp_path / "uneven.mkv", times=times)
    clip = load_video(path, fps=1)
    assert len(clip.frames) == 30 and clip.times[15] == pytest.approx(15, abs=0.01)
    assert_clip(clip, list(range(30)))


def test_few_pictures_for_long(tmp_path):
    """A slide show of three pictures, 10 s each: none is missed."""
    clip = load_video(write_animation(tmp_path / "slides.gif", [10_000] * 3), fps=1)
    assert len(clip.frames) == 4 and clip.times == pytest.approx([0, 7.5, 15, 22.5])
    assert_clip(clip, [0, 0, 1, 2])


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_by_the_container(degrees, clip_of, tmp_path):
    clip = load_video(turn_mp4(clip_of("h264.mp4"), tmp_path / "turned.mp4", degrees), fps=1)
    assert_clip(clip, turned=-degrees // 90)


@pytest.mark.parametrize("size", [(83, 111), (17, 33), (2, 2), (16, 400)], ids=str)
def test_odd_sizes(size, tmp_path):
    path = write_clip(tmp_path / "odd.mkv", codec="ffv1", pix="bgr0", size=size)
    clip = load_video(path, fps=1)
    assert clip.frames.shape[1] % 28 == 0 and clip.frames.shape[2] % 28 == 0
    middle = clip.frames[:, clip.frames.shape[1] // 2, clip.frames.shape[2] // 2].astype(int)
    assert size == (2, 2) or np.abs(middle - np.array(SECONDS)).max() <= 6


@pytest.mark.parametrize(
    "name,codec,pix", [("a.mov", "qtrle", "argb"), ("a.mkv", "ffv1", "bgra"), ("b.mov", "png", "rgba")]
)
def test_what_is_transparent_shows_white(name, codec, pix, tmp_path):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1)
        stream.height, stream.width, stream.pix_fmt = *CLIP_SIZE, pix
        for second in range(4):
            pixels = np.dstack([clip_frame(second), np.full(CLIP_SIZE, 255, np.uint8)])
            pixels[:28, -28:, 3] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pix)))
        container.mux(stream.encode())
    frames = load_video(path, fps=1).frames
    assert (frames[:, 14, -14] == 255).all() and np.abs(frames[1, 42, 56].astype(int) - SECONDS[1]).max() <= 2


def test_film_in_gray(tmp_path):
    frames = load_video(write_clip(tmp_path / "gray.mp4", pix="gray"), fps=1).frames
    assert (frames.max(-1) - frames.min(-1)).max() <= 2 and (frames[:, 10, 10] > 250).all()


ANIMATIONS = {
    "a.gif": {}, "a.webp": {"lossless": True}, "a.png": {}, "a.avif": {"quality": 95},
}  # fmt: skip


@pytest.mark.parametrize("name", ANIMATIONS)
def test_animated_picture(name, tmp_path):
    """Frames that stay for 0.5 to 2 s."""
    path = write_animation(tmp_path / name, [500, 1500, 1000, 2000, 500, 500], **ANIMATIONS[name])
    clip = load_video(path, fps=2)
    assert len(clip.frames) == 12 and clip.fps == pytest.approx(2, rel=0.01)
    assert_clip(clip, [0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 5])


def test_gif_without_durations_runs_as_in_a_browser(tmp_path):
    clip = load_video(write_animation(tmp_path / "a.gif", [0] * 6), fps=1000)
    assert clip.fps == pytest.approx(10) and len(clip.frames) == 6


def test_transparent_gif_lies_on_white(tmp_path):
    pixels = np.zeros((2, 56, 56, 4), np.uint8)
    pixels[0, :, :28], pixels[1, :, 28:] = (*RED, 255), (*GREEN, 255)
    frames = [Image.fromarray(p) for p in pixels]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=1000, disposal=2)
    clip = load_video(tmp_path / "a.gif")
    assert_quarters(clip.frames[0], (RED, WHITE) * 2)
    assert_quarters(clip.frames[1], (WHITE, GREEN) * 2)


def test_animation_of_too_many_pixels(tmp_path, monkeypatch):
    path = write_animation(tmp_path / "a.gif", [500] * 3)
    monkeypatch.setattr(animations, "MAX_WORK", 2 * 84 * 112)
    with pytest.raises(MediaError, match="has 3 frames of 112x84; scale it down first"):
        load_video(path)


@pytest.mark.parametrize("name,codec,form,fps", [("one.mp4", "libx264", "mp4", 2), ("one.flv", "flv", "flv", 16)])
def test_single_frame(name, codec, form, fps, tmp_path):
    """Also one of a file that does not say how long it stays: as long as one frame at its rate."""
    clip = load_video(write_clip(tmp_path / name, codec, form, times=[0]))
    assert len(clip.frames) == 2 and clip.fps == pytest.approx(fps)
    assert_clip(clip, [0, 0])


def test_start_later_than_zero(tmp_path):
    """Times count from the first frame, as positions do."""
    path = write_clip(tmp_path / "late.mkv", times=100 * 6 + np.arange(48) / 8, last=0.125)
    clip = load_video(path, fps=1)
    assert clip.times == pytest.approx(range(6), abs=0.1)
    assert_clip(clip)


def test_sound_beside_the_picture(tmp_path):
    clip = load_video(with_sound(tmp_path / "both.mkv", picture=True), fps=1)
    assert len(clip.frames) == 2
    assert_clip(clip, [0, 1])


def test_a_rate_that_no_camera_has(tmp_path):
    """A bare stream that claims 1,000 frames a second is played at the usual 25."""
    clip = load_video(write_clip(tmp_path / "raw.h264", form="h264", times=np.arange(48) / 8), fps=12.5)
    assert len(clip.frames) == 24 and clip.fps == pytest.approx(12.5)
    assert_clip(clip, [i / 4 for i in range(24)])


def test_a_list_of_files_in_disguise_opens_none_of_them(clip_of, tmp_path, monkeypatch):
    """FFmpeg would play the clip that the list names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private.mp4").write_bytes(clip_of("h264.mp4").read_bytes())
    (tmp_path / "film.mp4").write_bytes(b"ffconcat version 1.0\n# \x01\nfile private.mp4\n")
    with av.open(io.BytesIO((tmp_path / "film.mp4").read_bytes())) as container:
        assert container.format.name == "concat"
    with pytest.raises(MediaError, match="no video"):
        load_video(tmp_path / "film.mp4")


@pytest.mark.parametrize("name", ["raw.h264", "h264.ts", "live.mkv"])
def test_streams_that_may_end_anywhere_play_up_to_their_end(name, clip_of, tmp_path):
    data = clip_of(name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * 0.6)])
    clip = load_video(tmp_path / name, fps=2)
    assert 2 <= len(clip.frames) < 12
    assert_clip(clip)


def test_garbage_after_the_end_is_ignored(clip_of, tmp_path):
    (tmp_path / "a.mp4").write_bytes(clip_of("h264.mp4").read_bytes() + b"-- appended by a mail program --\n")
    assert_clip(load_video(tmp_path / "a.mp4", fps=1))


MEASURE = """
import resource, sys
from psa_paddle.utils.media import load_video
load_video("demo/sample.mp4", fps=0.1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
clip = load_video(sys.argv[1], fps=1, max_pixels=50_000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, len(clip.frames))
"""


def test_long_film_in_little_memory(tmp_path):
    """200 frames of 1280x720 are 527 MiB of RGB; only those looked at are kept, and they are small."""
    times = np.arange(200) / 10
    frames = [clip_frame(second, (720, 1280)) for second in range(6)]
    path = write_clip(
        tmp_path / "a.mkv", "mpeg4", times=times, frames=[frames[int(t) % 6] for t in times], options={"g": "100"}
    )
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], cwd=ROOT, capture_output=True, text=True)
    mebibytes, count = map(int, done.stdout.split())
    assert count == 20 and mebibytes < 100


def test_corner_is_black():
    """The drawing itself: the last corner tells a turned frame from an upright one."""
    assert tuple(clip_frame(0)[-1, -1]) == BLACK and tuple(clip_frame(0)[0, 0]) == WHITE
