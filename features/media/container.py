"""An open media file and its packets, which are buffered for small files."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType

import av
from av.error import FFmpegError

from avfuse.features.errors import ClipError
from avfuse.features.media.audio_decoding import DecodedAudio, decode_audio
from avfuse.features.media.packets import AnyPacket, ffmpeg_message, to_fraction
from avfuse.features.media.probe import MediaRef, file_size, find_media, open_container, video_stream
from avfuse.features.media.timeline import ExpectedFrames
from avfuse.features.media.video_decoding import first_frame

MAX_BUFFERED_BYTES = 256 * 2**20
"""Packets of files up to this size are buffered; a larger file is read again each time."""

MAX_PICTURE_PIXELS = 2**27
"""Frames that claim more pixels (16K has as many) are damage or a trap."""


class MediaSource:
    """One open media file: its first video stream and its first audio stream, None without one.

    ref: the file that `path` leads to, if known already; its content in memory is not read again.

    Raises ClipError when the file cannot be opened, or declares an absurdly large picture.
    """

    def __init__(self, path: Path, ref: MediaRef | None = None) -> None:
        self.path = path
        self.ref = ref or find_media(path)
        self.container = open_container(self.ref)
        self.video = video_stream(self.container)
        self.audio = self.container.streams.audio[0] if self.container.streams.audio else None
        if self.video is not None:
            if self.video.width * self.video.height > MAX_PICTURE_PIXELS:
                self.close()
                raise ClipError("open", f"claims a picture of {self.video.width}x{self.video.height}")
            self.video.codec_context.thread_count = 1  # clips are decoded side by side, in processes
        self._is_small = file_size(self.ref) <= MAX_BUFFERED_BYTES
        self._at_start = True

    def __enter__(self) -> "MediaSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.__dict__.pop("_buffered_packets", None)
        self.container.close()

    def packets(self, stream: av.stream.Stream) -> Iterable[AnyPacket]:
        """Packets of a stream from its first on, up to damage of the container."""
        return self._buffered_packets[stream.index] if self._is_small else self.reread(stream)

    def packets_from(self, stream: av.stream.Stream, time: Fraction) -> Iterator[AnyPacket]:
        """Packets of a stream from the last key frame before a time on the container's clock, in seconds."""
        self._at_start = False
        base = to_fraction(stream.time_base) or Fraction(1)
        try:
            self.container.seek(int(time / base), stream=stream)
        except FFmpegError as error:
            ffmpeg_message(error)
            return
        yield from _until_damage(self.container.demux(stream))

    @cached_property
    def expected_frames(self) -> ExpectedFrames | None:
        """The frames that the packets promise; None where there is no video stream, or nothing in it."""
        if self.video is None:
            return None
        expected = ExpectedFrames.of(list(self.packets(self.video)), self.video)
        return expected if len(expected.timeline) else None

    @cached_property
    def origin(self) -> Fraction:
        """Time 0, the first displayed frame, on the container's clock, in seconds.

        The first frame that decodes counts, not the first packet: a stream cut before its first key frame begins with
        frames that cannot be decoded. AVI has no display times: there the stream's start is time 0.
        """
        assert self.video is not None
        base = to_fraction(self.video.time_base) or Fraction(1)
        if self.is_avi:
            return (self.video.start_time or 0) * base
        shown = self._first_frame.pts if self._first_frame is not None else None
        return (shown if shown is not None else self.video.start_time or 0) * base

    @property
    def is_rotated(self) -> bool:
        """Whether the file's frames are stored rotated."""
        return self._first_frame is not None and self._first_frame.rotation != 0

    @cached_property
    def signal(self) -> DecodedAudio:
        """Sound of the whole file, decoded once. Raises ClipError when there is none."""
        assert self.audio is not None
        return decode_audio(self.audio, self.packets(self.audio))

    @property
    def is_avi(self) -> bool:
        return self.container.format.name == "avi"

    @cached_property
    def _first_frame(self) -> av.VideoFrame | None:
        assert self.video is not None
        packets = self.packets(self.video) if "_buffered_packets" in self.__dict__ else self.reread(self.video)
        return first_frame(self.video, packets)

    @cached_property
    def _buffered_packets(self) -> dict[int, list[AnyPacket]]:
        held: dict[int, list[AnyPacket]] = {
            stream.index: [] for stream in (self.video, self.audio) if stream is not None
        }
        if self._at_start:
            self._at_start = False
            for packet in _until_damage(self.container.demux(*(self.container.streams[index] for index in held))):
                held[packet.stream_index].append(packet)
        else:
            with open_container(self.ref) as container:
                for packet in _until_damage(container.demux(*(container.streams[index] for index in held))):
                    held[packet.stream_index].append(packet)
        return held

    def reread(self, stream: av.stream.Stream) -> Iterator[AnyPacket]:
        """Packets of a stream from its first on, by opening the file again: nothing is buffered."""
        with open_container(self.ref) as container:
            yield from _until_damage(container.demux(container.streams[stream.index]))


def _until_damage(packets: Iterator[AnyPacket]) -> Iterator[AnyPacket]:
    """Packets that are not empty, up to damage of the container itself."""
    try:
        for packet in packets:
            if packet.size:
                yield packet
    except FFmpegError as error:
        ffmpeg_message(error)
        return
