"""Pictures and clips of known content, in every format that a script can write, and what must be seen in them."""

import struct
import zlib
from fractions import Fraction

import av
import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE, BLACK = (230, 20, 20), (20, 200, 30), (30, 40, 220), (255, 255, 255), (0, 0, 0)
QUARTERS = (RED, GREEN, BLUE, WHITE)  # top left, top right, bottom left, bottom right
GRAYS = tuple((level,) * 3 for level in (0, 85, 170, 255))
# What the quarters show once a picture is turned as EXIF orientations 1 to 8 say.
TURNED = {1: (0, 1, 2, 3), 2: (1, 0, 3, 2), 3: (3, 2, 1, 0), 4: (2, 3, 0, 1)}
TURNED |= {5: (0, 2, 1, 3), 6: (2, 0, 3, 1), 7: (3, 1, 2, 0), 8: (1, 3, 0, 2)}
SECONDS = (RED, GREEN, BLUE, (220, 220, 30), (30, 200, 200), (200, 40, 200))  # what fills each second of a clip
CLIP_SIZE = (84, 112)
RATE = 8

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


def quarters(colours=QUARTERS, height=48, width=64, dtype=np.uint8) -> np.ndarray:
    """[height, width, C] (or [height, width] of scalars) whose quarters have the four colours."""
    colours = np.array(colours, dtype)
    rows, columns = (np.arange(n) * 2 // n for n in (height, width))
    return colours[rows[:, None] * 2 + columns]


def picture(mode="RGB") -> Image.Image:
    """The four quarters in RED, GREEN, BLUE and WHITE, or in four grays."""
    if mode in ("L", "1"):
        return Image.fromarray(quarters((0, 85, 170, 255)))
    return Image.fromarray(quarters()).convert(mode)


def seen_quarters(pixels) -> np.ndarray:
    """Mean colour of the middle of each quarter, [4, 3]."""
    pixels = np.asarray(pixels).astype(float)
    h, w = pixels.shape[:2]
    middle = [(slice(int(r * h / 2 + h / 6), int(r * h / 2 + h / 3) + 1)) for r in (0, 1)]
    across = [(slice(int(c * w / 2 + w / 6), int(c * w / 2 + w / 3) + 1)) for c in (0, 1)]
    return np.array([pixels[y, x].reshape(-1, 3).mean(0) for y in middle for x in across])


def assert_quarters(pixels, colours, within: float = 3.0) -> None:
    seen = seen_quarters(pixels)
    assert np.abs(seen - np.array(colours, float)).max() <= within, f"saw {seen.round().tolist()}, not {colours}"


def png(pixels: np.ndarray, kind: int, extra=b"") -> bytes:
    """A PNG of 16 bits a sample, which Pillow does not write; kind: 0 gray, 2 RGB, 4 gray and alpha, 6 RGBA."""
    rows = pixels.astype(">u2").reshape(pixels.shape[0], -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *([(b"tRNS", extra)] if extra else []), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def clip_frame(second: float, size=CLIP_SIZE) -> np.ndarray:
    """What a clip shows at a second: its colour, a white corner at the top left, a black one at the bottom right."""
    height, width = size
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = SECONDS[int(second + 1e-6) % len(SECONDS)]
    pixels[: height // 3, : width // 4] = WHITE
    pixels[-(height // 3) :, -(width // 4) :] = BLACK
    return pixels


def write_clip(
    path, codec="libx264", form=None, pix="yuv420p", times=None, size=CLIP_SIZE, options=None, container=None, last=1.0,
    frames=None,
):  # fmt: skip
    """Six seconds at 8 frames a second, or frames at ``times``, the last of which stays ``last`` seconds.

    options: of the codec; container: of the file; frames: uint8 [T, H, W, 3] instead of ``clip_frame``'s.
    """
    uneven = times is not None
    times = np.arange(6 * RATE) / RATE if times is None else times
    frames = [clip_frame(second, size) for second in times] if frames is None else frames
    unit = Fraction(1, 1000 if uneven else RATE)
    colorspace = 1 if options and "bt709" in str(options) else None
    with av.open(str(path), "w", format=form, options=container or {}) as file:
        stream = file.add_stream(codec, rate=RATE, options={"threads": "1", **(options or {})})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pix
        stream.codec_context.time_base = unit
        packets = []
        for second, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format=pix, dst_colorspace=colorspace)
            frame.time_base, frame.pts = unit, round(second / unit)
            packets += stream.encode(frame)
        packets += stream.encode()
        for packet in packets:
            if uneven and packet.pts == round(times[-1] / unit):
                packet.duration = round(last / unit)
            file.mux(packet)
    return path


def write_animation(path, durations, background=WHITE, **how):
    """An animated picture that shows second i's colour for durations[i] milliseconds."""
    frames = [Image.fromarray(clip_frame(i)) for i in range(len(durations))]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=list(durations), loop=0, **how)
    return path


def turn_mp4(source, path, degrees: int):
    """A copy of an MP4 that says to show it turned clockwise, as phones do: the matrix of its track header."""
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    data = bytearray(source.read_bytes())
    at = data.find(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def assert_clip(clip, seconds=None, within: float = 6.0, turned: int = 0) -> None:
    """Every frame shows what ``clip_frame`` drew for its time (for ``seconds``, where they are given)."""
    for frame, second in zip(clip.frames, clip.times if seconds is None else seconds, strict=True):
        wanted = np.rot90(clip_frame(second, CLIP_SIZE), turned).astype(float)
        frame = frame.astype(float)
        assert frame.shape == wanted.shape, f"{frame.shape}, not {wanted.shape}"
        assert np.abs(frame - wanted).mean() <= within, f"another picture than second {second:.2f}'s"


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
