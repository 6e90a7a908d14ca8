"""Clips of every container and codec show at each time what was drawn for it, or are refused with a sentence."""

import io
import subprocess
import sys

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image
from shared_demo import ROOT
from shared_media import (
    BLACK,
    CLIP_SIZE,
    GREEN,
    RED,
    SECONDS,
    WHITE,
    assert_clip,
    assert_quarters,
    clip_frame,
    turn_mp4,
    write_animation,
    write_clip,
)

from psa_paddle.utils.media import MediaError, animations, load_video

UNEVEN = [*np.arange(0, 2, 0.04), 2.0, 3.0, 4.0, 5.0]  # 25 frames a second for two seconds, then one
FORMATS = {
    "h264.mp4": {}, "h264.mkv": {}, "h264.mov": {}, "h264.ts": {"form": "mpegts"}, "h264.flv": {"form": "flv"},
    "h264.avi": {"form": "avi"}, "h264.3gp": {"form": "3gp"}, "h264.m4v": {"form": "mp4"}, "raw.h264": {"form": "h264"},
    "fragmented.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "8"}},
    "faststart.mp4": {"container": {"movflags": "faststart"}},
    "live.mkv": {"container": {"live": "1"}},
    "many keys.mp4": {"options": {"g": "4"}}, "one key.mp4": {"options": {"g": "1000", "sc_threshold": "0"}},
    "open gop.mp4": {"options": {"x264-params": "open-gop=1:keyint=8:scenecut=0"}},
    "no b-frames.mp4": {"options": {"bf": "0"}},
    "444.mp4": {"pix": "yuv444p"}, "10 bits.mp4": {"pix": "yuv420p10le"},
    "rgb.mp4": {"codec": "libx264rgb", "pix": "rgb24"},
    "bt709.mp4": {"options": {"colorspace": "bt709"}},
    "hevc.mp4": {"codec": "libx265"}, "hevc.mkv": {"codec": "libx265"},
    "hevc.ts": {"codec": "libx265", "form": "mpegts"},
    "raw.hevc": {"codec": "libx265", "form": "hevc"},
    "av1.mp4": {"codec": "libsvtav1"}, "av1.mkv": {"codec": "libsvtav1"}, "av1.webm": {"codec": "libsvtav1"},
    "av1.ivf": {"codec": "libsvtav1", "form": "ivf"},
    "vp9.webm": {"codec": "libvpx-vp9"}, "vp9.mp4": {"codec": "libvpx-vp9"}, "vp8.webm": {"codec": "libvpx"},
    "mpeg4.avi": {"codec": "mpeg4", "form": "avi"}, "mpeg4.mp4": {"codec": "mpeg4"}, "mpeg4.mkv": {"codec": "mpeg4"},
    "mpeg4.m4v": {"codec": "mpeg4", "form": "m4v"},
    "mjpeg.avi": {"codec": "mjpeg", "form": "avi", "pix": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pix": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pix": "yuv422p10le"}, "ffv1.mkv": {"codec": "ffv1", "pix": "bgr0"},
    "qtrle.mov": {"codec": "qtrle", "pix": "rgb24"}, "raw.avi": {"codec": "rawvideo", "form": "avi", "pix": "bgr24"},
    "wmv.asf": {"codec": "wmv2", "form": "asf"}, "flv1.flv": {"codec": "flv", "form": "flv"},
    "uneven.mkv": {"times": UNEVEN}, "uneven.mp4": {"times": UNEVEN},
    "uneven.webm": {"times": UNEVEN, "codec": "libvpx-vp9"},
}  # fmt: skip


@pytest.fixture(scope="session")
def clip_of(tmp_path_factory):
    """Path of a clip of a format, written once."""
    folder = tmp_path_factory.mktemp("clips")

    def make(name):
        path = folder / name
        return path if path.exists() else write_clip(path, **FORMATS[name])

    return make


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


def with_sound(path, picture: bool):
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        film = container.add_stream("libx264", rate=1, options={"threads": "1"}) if picture else None
        if picture:
            film.height, film.width, film.pix_fmt = *CLIP_SIZE, "yuv420p"
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        noise.sample_rate, noise.pts = 8000, 0
        container.mux(sound.encode(noise))
        if picture:
            for second in range(2):
                container.mux(film.encode(av.VideoFrame.from_ndarray(clip_frame(second), format="rgb24")))
            container.mux(film.encode())
        container.mux(sound.encode())
    return path


def test_a_rate_that_no_camera_has(tmp_path):
    """A bare stream that claims 1,000 frames a second is played at the usual 25."""
    clip = load_video(write_clip(tmp_path / "raw.h264", form="h264", times=np.arange(48) / 8), fps=12.5)
    assert len(clip.frames) == 24 and clip.fps == pytest.approx(12.5)
    assert_clip(clip, [i / 4 for i in range(24)])


def with_cover(path):
    """Sound with the picture of its album."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44_100, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = *CLIP_SIZE, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(clip_frame(0), format="rgb24")))
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        noise.sample_rate, noise.pts = 44_100, 0
        container.mux(sound.encode(noise))
        container.mux(sound.encode())
    return path


def cut(name, share=0.5):
    return lambda clip_of, folder: clip_of(name).read_bytes()[: int(clip_of(name).stat().st_size * share)]


def holed(name, start, stop):
    """A clip with a part of its bytes overwritten."""

    def make(clip_of, folder):
        data = bytearray(clip_of(name).read_bytes())
        a, b = int(len(data) * start), int(len(data) * stop)
        data[a:b] = np.random.default_rng(0).bytes(b - a)
        return bytes(data)

    return make


def hollow(clip_of, folder):
    """Four of its six pictures are zeros."""
    path = write_clip(folder / "hollow.mov", "png", pix="rgb24", times=range(6))
    data = bytearray(path.read_bytes())
    pictures = [at for at in range(len(data)) if data.startswith(b"\x89PNG", at)]
    data[pictures[1] : pictures[5]] = bytes(pictures[5] - pictures[1])
    return bytes(data)


def still(form):
    def make(clip_of, folder):
        stream = io.BytesIO()
        Image.new("RGB", (56, 56), WHITE).save(stream, form)
        return stream.getvalue()

    return make


def thin(clip_of, folder):
    return write_clip(folder / "thin.mkv", codec="ffv1", pix="bgr0", size=(2, 600), times=[0, 1]).read_bytes()


REFUSED = {
    "half an mp4": (cut("h264.mp4"), "truncated"),
    "half a fast mp4": (cut("faststart.mp4"), "truncated"),
    "half a mov": (cut("h264.mov"), "truncated"),
    "half an mkv": (cut("h264.mkv"), "truncated"),
    "most of an mkv": (cut("h264.mkv", 0.97), "truncated"),
    "half a webm": (cut("vp9.webm"), "truncated"),
    "half an avi": (cut("mpeg4.avi"), "truncated"),
    "an avi without its last bytes": (lambda c, d: c("mpeg4.avi").read_bytes()[:-4], "truncated"),
    "half a gif": (lambda c, d: write_animation(d / "b.gif", [500] * 6).read_bytes()[:-40], "truncated"),
    "half a webp": (lambda c, d: write_animation(d / "b.webp", [500] * 6).read_bytes()[:-40], "truncated"),
    "half an apng": (lambda c, d: write_animation(d / "b.png", [500] * 6).read_bytes()[:-300], "truncated"),
    "an mp4 of 64-bit lengths, cut off": (
        lambda c, d: b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\1mdat" + (10_000).to_bytes(8, "big") + bytes(100),
        "truncated: the file ends",
    ),
    "the head of an mp4": (cut("faststart.mp4", 0.01), "truncated"),
    "the head of an mkv": (cut("h264.mkv", 0.02), "truncated"),
    "an mp4 without its data": (holed("faststart.mp4", 0.5, 1), "damaged|no frame"),
    "an mkv of noise": (holed("h264.mkv", 0.1, 0.99), "damaged|no frame"),
    "a film with a hole": (hollow, "nothing can be decoded at second 2.0"),
    "a jpeg": (still("JPEG"), "a JPEG picture that does not move; ask about it as an image"),
    "a png": (still("PNG"), "a PNG picture that does not move"),
    "a gif that does not move": (still("GIF"), "a GIF picture that does not move"),
    "sound in an mkv": (lambda c, d: with_sound(d / "sound.mka", picture=False).read_bytes(), "sound but no picture"),
    "an album's cover": (lambda c, d: with_cover(d / "album.mp4").read_bytes(), "sound but no picture"),
    "a thin film": (thin, "too thin"),
    "a playlist": (lambda c, d: b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "a playlist"),
    "a list of files": (lambda c, d: b"ffconcat version 1.0\nfile /etc/passwd\n", "a text file"),
    "a session description": (lambda c, d: b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n", "a text file"),
    "noise": (lambda c, d: np.random.default_rng(0).bytes(5000), "no video"),
    "zeros": (lambda c, d: bytes(100_000), "no video"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, clip_of, tmp_path, capfd):
    make, words = REFUSED[name]
    data = make(clip_of, tmp_path)
    (tmp_path / "film.mp4").write_bytes(data)
    with pytest.raises(MediaError, match=words) as caught:
        load_video(tmp_path / "film.mp4", fps=2)
    assert "film.mp4" in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # no line of a decoder


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
