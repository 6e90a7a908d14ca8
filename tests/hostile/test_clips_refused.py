"""Files that are no clips, or not whole: one sentence that says so."""

import io

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image
from shared_media import CLIP_SIZE, WHITE, clip_frame, with_sound, write_animation, write_clip

from psa_paddle.utils.media import MediaError, load_video


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
