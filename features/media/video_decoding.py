"""Decoding of a video stream's packets to RGB frames, in decoder-output order; only requested frames are converted."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from avfuse.features.media.packets import AnyPacket, ffmpeg_message
from avfuse.features.media.timeline import is_increasing

_SKIPPING_CODECS = frozenset(["h264"])
"""Codecs whose decoder can skip frames that no other refers to; measured to change no other pixel."""

_STUB_BYTES = 19
"""MPEG-4 packets up to this size may be placeholders for a frame that shares another packet (FFmpeg's own bound)."""

_DEPENDENT_FRAMES = 2
"""Number of frames before a damaged one that may refer to it, when timestamps do not tell the decoding order."""


@dataclass
class DecodedVideo:
    """A stream decoded up to its end or its first damage."""

    ticks: list[int | None] = field(default_factory=list)
    """Timestamps of the frames, in decoder-output order."""

    pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    """Rank -> uint8 (H, W, 3) of the requested frames."""

    damage: str | None = None
    """The decoder's message where it ended early."""


def decode_expected(
    stream: av.video.stream.VideoStream, packets: Iterable[AnyPacket], expected: Sequence[int], requested: set[int]
) -> dict[int, NDArray[np.uint8]] | None:
    """Decode requested frames of a stream whose timestamps are known, skipping frames that none of them refers to.

    Args:
        stream, packets: from a key frame on; frames before the first expected one are passed over.
        expected: rising timestamps of the frames.
        requested: ranks among them.

    Returns:
        Rank -> uint8 (H, W, 3). None when the decoder gives other frames, another order or a damaged frame: then only
        decoding everything tells what is there.
    """
    ranks: dict[int | None, int] = {tick: rank for rank, tick in enumerate(expected)}
    pixels: dict[int, NDArray[np.uint8]] = {}
    codec = stream.codec_context
    to_rgb = _Converter()
    last = -1
    skipping = False
    try:
        for packet in _with_flush(packets):
            may_skip = last >= 0 and codec.name in _SKIPPING_CODECS
            needless = may_skip and packet is not None and ranks.get(packet.pts, -1) not in requested
            if needless != skipping:
                skipping = needless
                codec.skip_frame = "NONREF" if needless else "DEFAULT"
            for frame in codec.decode(packet):
                if last < 0 and frame.pts is not None and frame.pts < expected[0]:
                    continue
                rank = ranks.get(frame.pts)
                if frame.is_corrupt or rank is None or rank <= last or (last < 0 and rank > 0):
                    return None
                last = rank
                if rank in requested:
                    pixels[rank] = to_rgb(frame)
    except FFmpegError as error:
        ffmpeg_message(error)
        return None
    finally:
        codec.skip_frame = "DEFAULT"
        codec.flush_buffers()
    return pixels if pixels.keys() == requested else None


def decode_all(stream: av.video.stream.VideoStream, packets: Iterable[AnyPacket], requested: set[int]) -> DecodedVideo:
    """Decode up to the first damage: later frames may refer to damaged ones even if they look whole."""
    result = DecodedVideo()
    order: list[int | None] = []  # timestamps in decoding order
    codec = stream.codec_context
    to_rgb = _Converter()
    stubs = 0
    whole = None  # how many frames were decoded before the damage
    try:
        for packet in _with_flush(packets):
            if packet is not None:
                order.append(packet.pts)
            for frame in codec.decode(packet):
                if frame.is_corrupt:
                    result.damage = "a damaged picture"
                    whole = _frames_before_damage(frame.pts, order, result.ticks)
                    break
                if len(result.ticks) in requested:
                    result.pixels[len(result.ticks)] = to_rgb(frame)
                result.ticks.append(frame.pts)
            if packet is not None and codec.name == "mpeg4" and result.damage is None:
                # One packet, one frame, one of them held back: this decoder passes over broken packets without a word.
                stubs += packet.size <= _STUB_BYTES and len(order) - len(result.ticks) > 1 + stubs
                if len(order) - len(result.ticks) > 1 + stubs:
                    result.damage = "a picture is missing"
                    whole = _frames_before_damage(None, order, result.ticks)
            if result.damage is not None:
                break
    except FFmpegError as error:
        result.damage = ffmpeg_message(error)
        whole = _frames_before_damage(order[-1] if order else None, order, result.ticks)
    finally:
        codec.flush_buffers()
    if whole is not None:
        del result.ticks[whole:]
        result.pixels = {rank: pixels for rank, pixels in result.pixels.items() if rank < whole}
    return result


def first_frame(stream: av.video.stream.VideoStream, packets: Iterable[AnyPacket]) -> av.VideoFrame | None:
    """The first frame that decodes; None when there is none before the first damage."""
    codec = stream.codec_context
    try:
        for packet in _with_flush(packets):
            for frame in codec.decode(packet):
                return None if frame.is_corrupt else frame
    except FFmpegError as error:
        ffmpeg_message(error)
        return None
    finally:
        codec.flush_buffers()
    return None


def _frames_before_damage(damaged: int | None, order: list[int | None], shown: list[int | None]) -> int:
    """Number of shown frames that precede a damaged one in decoding order, which is not the order of display."""
    if damaged not in order or not is_increasing(shown):
        return max(len(shown) - _DEPENDENT_FRAMES, 0)
    suspects = [tick for tick in order[order.index(damaged) :] if tick is not None]
    first = min(suspects, default=None)
    return sum(first is None or tick < first for tick in shown)


def _with_flush(packets: Iterable[AnyPacket]) -> Iterator[AnyPacket | None]:
    """The packets, then None, on which a decoder returns the frames that it holds back."""
    yield from packets
    yield None


class _Converter:
    """Frames to upright RGB arrays of uint8 (H, W, 3)."""

    def __init__(self) -> None:
        self._reformatter = av.video.reformatter.VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        # One thread: PyAV's default of one per core is slower at these sizes, and clips are decoded side by side.
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        pixels = np.asarray(rgb.to_ndarray(), dtype=np.uint8)
        quarter_turns = round(frame.rotation / 90)
        return np.ascontiguousarray(np.rot90(pixels, quarter_turns)) if quarter_turns else pixels
