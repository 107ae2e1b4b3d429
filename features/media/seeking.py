"""Seeking to clips in long files, so that hours before them are not read.

Only in containers with an index of key frames and timestamps of their own. Whenever anything is unexpected, no span is
found and the file is read from its start instead.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile

import av

from avfuse.features.errors import ClipError
from avfuse.features.media.audio_decoding import DecodedAudio, decode_audio
from avfuse.features.media.container import MAX_BUFFERED_BYTES, MediaSource
from avfuse.features.media.packets import AnyPacket, to_fraction
from avfuse.features.media.timeline import Clock, TimeInterval, Timeline

LONG_SECONDS = 60
"""Files that claim a shorter duration are read from their start."""

_SEEKABLE = ("mp4", "matroska")
_STEPS_BACK = (0, 10, 60)
"""Seconds to seek further back when the key frame found lies after the clip's start."""

_SOUND_LEAD_SECONDS = Fraction(1)
"""Sound is decoded from so much earlier: codecs need preceding packets to give the samples of a whole decode."""


@dataclass(frozen=True)
class PacketSpan:
    """Video packets around one clip of a long file."""

    packets: list[AnyPacket]
    """Packets from a key frame on."""

    timeline: Timeline
    """The frames that the packets promise."""

    origin: Fraction
    """Time 0 on the container's clock, in seconds."""

    reaches_end: bool
    """Whether the last packet is the file's last."""


def find_packet_span(source: MediaSource, interval: TimeInterval) -> PacketSpan | None:
    """Find the packets that one clip's frames need; None when the file is better read from its start.

    Raises ClipError when the file ends before the clip starts.
    """
    video = source.video
    base = to_fraction(video.time_base) if video is not None else None
    if interval.is_whole or video is None or base is None or not _is_long(source):
        return None
    origin = source.origin
    zero = round(origin / base)
    first = zero + math.ceil(interval.start / base)
    end = zero + math.ceil(interval.end / base) if interval.end is not None else None
    for back in _STEPS_BACK:
        packets, reaches_end = _collect_packets(source, origin + interval.start - back, end)
        if not packets or any(packet.pts is None for packet in packets):
            return None
        if packets[0].is_keyframe and (packets[0].pts or 0) <= first:
            break
    else:
        return None
    durations = {packet.pts: packet.duration or 0 for packet in packets if not packet.is_discard}
    ticks = sorted(tick for tick in durations if tick is not None and tick >= (packets[0].pts or 0))
    if not ticks:
        return None
    timeline = Clock.of(video).timeline(ticks, durations[ticks[-1]], zero)
    if reaches_end and interval.start >= timeline.end:
        raise ClipError("decode", f"the file ends at {float(timeline.end):.2f} s, before the clip starts")
    return PacketSpan(packets, timeline, origin, reaches_end)


def decode_span_audio(source: MediaSource, span: PacketSpan, interval: TimeInterval) -> DecodedAudio:
    """Decode the sound of one clip with a lead before it. Raises ClipError when there is none.

    The file is opened again: some decoders (AAC's noise substitution) carry state over that no flush resets, and the
    sound of a clip must not depend on the clips read before it.
    """
    assert source.audio is not None
    base = to_fraction(source.audio.time_base) or Fraction(1)
    start = span.origin + interval.start
    end = span.origin + interval.end if interval.end is not None else None
    for back in _STEPS_BACK if start > _SOUND_LEAD_SECONDS else ():
        with MediaSource(source.path, source.ref) as own:
            assert own.audio is not None
            following = own.packets_from(own.audio, start - back - _SOUND_LEAD_SECONDS)
            packets = list(takewhile(lambda packet: _starts_before(packet, base, end), following))
            if packets and _starts_before(packets[0], base, start - _SOUND_LEAD_SECONDS / 2):
                return decode_audio(own.audio, packets)
    with MediaSource(source.path, source.ref) as own:
        assert own.audio is not None
        packets = list(takewhile(lambda packet: _starts_before(packet, base, end), own.reread(own.audio)))
        return decode_audio(own.audio, packets)


def _starts_before(packet: AnyPacket, base: Fraction, end: Fraction | None) -> bool:
    return end is None or packet.pts is None or packet.pts * base < end


def _is_long(source: MediaSource) -> bool:
    claimed = source.container.duration
    seekable = any(name in source.container.format.name for name in _SEEKABLE)
    return seekable and claimed is not None and claimed > LONG_SECONDS * av.time_base


def _collect_packets(source: MediaSource, time: Fraction, end: int | None) -> tuple[list[AnyPacket], bool]:
    """Packets from a key frame on, until no later one can be shown before `end`; and whether the file ended."""
    assert source.video is not None
    packets: list[AnyPacket] = []
    size = 0
    for packet in source.packets_from(source.video, time):
        packets.append(packet)
        size += packet.size
        if size > MAX_BUFFERED_BYTES:
            return [], False
        if end is not None and packet.dts is not None and packet.dts >= end:
            return packets, False
    return packets, True
