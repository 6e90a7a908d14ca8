"""Video files, read by PyAV: when each frame is seen, and single frames scaled to one size."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import chain
from typing import Any

import av
import numpy as np

from .errors import MediaError, shown

# Formats that hold a film themselves; playlists and others would open further files or addresses.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,mxf,nut,rm,ivf,dv,h264,hevc,"
    "vvc,m4v,obu,av1,vc1,yuv4mpegpipe,swf,wtv,gxf,h263,h261"
)
USUAL_RATE = 25.0  # frames a second of a stream that does not say
MAX_RATE = 480
FAR = 1.0  # seconds: where no frame this near can be decoded, the file is damaged
WHITE = 255
BROKEN = (av.FFmpegError, OSError)  # some of FFmpeg's errors have no class of PyAV's


class _Bytes:
    """A file without a name, whose ``seek`` answers -1, as FFmpeg expects, to a place that damaged bytes made up."""

    def __init__(self, file):
        self._file, self.read, self.tell = file, file.read, file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, OverflowError):
            return -1


class Film:
    """One video file, open; a context manager.

    stamps: float64 [N], seconds at which each frame appears, ascending; end: when the last one disappears; height,
    width: pixels of a frame as it is shown, turned by the file's rotation.

    Raises:
        MediaError: no video, no frames, or a codec that cannot be decoded.
    """

    def __init__(self, file, name: str):
        self._file, self._name = file, name
        self._container: Any = None  # open: an ``av`` container
        try:
            first = self._read_index()
        except BaseException:
            self._close()
            raise
        self._turns = round(first.rotation / 90) % 4
        self.height, self.width = (first.width, first.height) if self._turns % 2 else (first.height, first.width)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self._close()

    def _close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self):
        """Open the file anew, at its start; returns its video stream."""
        self._close()
        self._file.seek(0)
        try:
            self._container = av.open(_Bytes(self._file), options={"format_whitelist": FORMATS})
        except (*BROKEN, ValueError) as error:
            raise MediaError(
                f"{self._name} cannot be decoded: it is truncated, damaged or no video ({_words(error)})."
            ) from None
        stream = self._container.streams.best("video")
        if stream is None or stream.disposition & stream.disposition.attached_pic:
            if self._container.streams.audio:
                raise MediaError(f"{self._name} has sound but no picture.")
            raise MediaError(f"{self._name} has no frames.")
        if stream.codec_context is None:
            raise MediaError(f"{self._name} has a codec that cannot be decoded here; convert it to H.264.")
        stream.thread_type = "AUTO"
        return stream

    def _read_index(self):
        """Note the time of every packet without decoding it; returns the first frame."""
        stream = self._open()
        packets, first = [], None
        for packet in self._packets(stream):
            if first is None:
                first = next(_decoded(packet), None)
            if packet.size and not packet.is_discard and not packet.is_corrupt:
                packets.append((packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe))
        if first is None:
            what = "no frames" if not packets else f"no frame that can be decoded ({stream.codec_context.name})"
            raise MediaError(f"{self._name} has {what}; it may be truncated.")
        self._set_times(packets, stream)
        return first

    def _set_times(self, packets: list, stream) -> None:
        durations: Sequence
        pts, dts, durations, _ = zip(*packets, strict=True)
        unit = float(stream.time_base)
        # AVI knows the order of decoding alone: its frames, like those without times, are told apart by counting.
        self._seekable = None not in pts and self._container.format.name != "avi"
        self._keys = sorted(p for p, _, _, key in packets if key) if self._seekable else []
        marks: Sequence = pts if self._seekable else dts
        if None in marks:  # a bare stream without times
            marks, durations, unit = range(len(packets)), [1] * len(packets), 1 / _rate(stream)
        order = np.argsort(marks, kind="stable")
        self._marks = [marks[i] for i in order]
        self._unit = unit
        self.stamps = np.array(self._marks) * unit
        gaps = np.diff(self.stamps)
        usual = float(np.median(gaps)) if gaps.any() else 1 / _rate(stream)
        self.end = float(self.stamps[-1]) + (durations[order[-1]] * unit or usual)

    def _packets(self, stream):
        """Packets up to the end of the file, or to where it cannot be read on."""
        try:
            yield from self._container.demux(stream)
        except BROKEN:
            return

    def pictures(self, numbers: list[int], height: int, width: int):
        """Yield (number, uint8 [height, width, 3]) of each frame of ``numbers``, which ascend.

        Raises:
            MediaError: a frame that cannot be decoded, nor another one within a second of it.
        """
        turned = (width, height) if self._turns % 2 else (height, width)
        for number, frame in self._seek(numbers) if self._seekable else self._count(numbers):
            yield number, np.rot90(_pixels(frame, *turned), self._turns)

    def _seek(self, numbers: list[int]):
        frames, before, frame = iter(()), None, None
        for number in numbers:
            wanted = self._marks[number]
            key = self._keys[max(bisect.bisect_right(self._keys, wanted) - 1, 0)] if self._keys else self._marks[0]
            if frame is None or frame.pts < key:
                frames, before, frame = self._frames_from(key), None, None
            while frame is None or frame.pts < wanted:
                later = next(frames, None)
                if later is None:
                    break
                before, frame = frame, later
            near = [f for f in (before, frame) if f is not None and abs(f.pts - wanted) * self._unit <= FAR]
            if not near:
                raise self._damaged(number)
            yield number, min(near, key=lambda f: abs(f.pts - wanted))

    def _frames_from(self, mark: int):
        """Decoded frames from the key frame at ``mark`` on, or from the start where the file cannot be sought in."""
        stream = self._open()
        if mark > self._marks[0]:
            try:
                self._container.seek(mark, stream=stream)
            except BROKEN:
                return self._decode(self._open())
            frames = self._decode(stream)
            first = next(frames, None)
            if first is not None and first.pts <= mark:
                return chain([first], frames)
            stream = self._open()
        return self._decode(stream)

    def _decode(self, stream):
        for packet in self._packets(stream):
            for frame in _decoded(packet):
                if not frame.is_corrupt and (frame.pts is not None or not self._seekable):
                    yield frame

    def _count(self, numbers: list[int]):
        wanted, number, frame = list(numbers), -1, None
        for number, frame in enumerate(self._decode(self._open())):  # noqa: B007
            if number == wanted[0]:
                yield number, frame
                del wanted[0]
                if not wanted:
                    return
        for rest in wanted:
            if frame is None or (self._marks[rest] - self._marks[min(number, rest)]) * self._unit > FAR:
                raise self._damaged(rest)
            yield rest, frame

    def _damaged(self, number: int) -> MediaError:
        second = self.stamps[number] - self.stamps[0]
        return MediaError(f"{self._name} is truncated or damaged: nothing can be decoded at second {second:.1f}.")


def _rate(stream) -> float:
    """Frames a second that the codec or the container names, if it is one that a camera or a screen could have."""
    for rate in (stream.codec_context.framerate, stream.average_rate):
        if rate and rate <= MAX_RATE:
            return float(rate)
    return USUAL_RATE


def _decoded(packet):
    """The frames that a packet completes; none where it is damaged."""
    if packet.is_corrupt:
        return
    try:
        yield from packet.decode()
    except BROKEN:
        return


def _pixels(frame, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]; what is transparent shows white."""
    clear = any(component.is_alpha for component in frame.format.components)
    pixels = frame.reformat(width, height, "rgba" if clear else "rgb24", interpolation="BICUBIC").to_ndarray()
    if not clear:
        return pixels
    alpha = pixels[..., 3:].astype(np.uint16)
    return ((pixels[..., :3] * alpha + WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)


def _words(error: Exception) -> str:
    return shown(getattr(error, "strerror", None) or str(error))
