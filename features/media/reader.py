"""Reading clips: one sequential decode, in which only wanted frames are converted to RGB.

A file's packets are examined before any is decoded: their timestamps tell which frames to expect, so that the wanted
ones are known and others can be skipped. When the decoder shows other frames than expected, it is believed and
everything is decoded. In a long file, a clip is reached by seeking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from numpy.typing import NDArray

from avfuse.features.errors import ClipError, UsageError
from avfuse.features.media import decord_reader
from avfuse.features.media.audio_decoding import to_waveform
from avfuse.features.media.clip import MIN_DECODED_FRACTION, Frames, Media, Waveform
from avfuse.features.media.container import MAX_BUFFERED_BYTES, MediaSource
from avfuse.features.media.probe import file_size
from avfuse.features.media.sampling import FrameSelection, Sampling, parse_sampling, select_frames
from avfuse.features.media.seeking import PacketSpan, decode_span_audio, find_packet_span
from avfuse.features.media.timeline import ExpectedFrames, Seconds, TimeInterval, Timeline
from avfuse.features.media.video_decoding import decode_all, decode_expected

READERS = {"pyav": 2, "decord": decord_reader.REVISION}
"""Readers of video frames, each with the revision of its output. Sound is always decoded by PyAV."""

DEFAULT_READER = "pyav"


def decode(
    path: str | Path,
    frames: str | None = "uniform:25",
    audio: bool = True,
    start: Seconds | None = None,
    end: Seconds | None = None,
    *,
    rate_hz: int | None = None,
    whole_audio: bool = False,
    reader: str = DEFAULT_READER,
) -> Media:
    """Decode one clip: its frames by a sampling scheme, and its sound.

    Args:
        path: any media file that FFmpeg reads, sound files included.
        frames: a scheme such as `uniform:25`, `strided:8x32` or `rate:2` (docs/media.md), or None for no frames.
        audio: whether to decode the sound.
        start, end: interval in seconds since the first displayed frame (the first sample where there is no video).
        rate_hz: samples per second of the waveform; None: the file's own.
        whole_audio: keep sound after the last frame.
        reader: `pyav`, or `decord`, which rejects files whose frames it numbers wrongly.

    Returns:
        Media with `frames` (T, H, W, 3) uint8 at native size and `waveform` (samples,) float32. When one stream is
        missing or fails, the other is still returned; see Media.

    Raises:
        ClipError: the file cannot be opened, lacks most of the clip, or ends before the clip starts.
        UsageError: an invalid sampling scheme, interval, rate or reader.
    """
    with MediaFile(path, reader) as file:
        schemes = [frames] if frames is not None else []
        return file.read(schemes, audio=audio, start=start, end=end, rate_hz=rate_hz, whole_audio=whole_audio)


@dataclass
class _DecodedClip:
    """The frames of one clip."""

    clip_end: Fraction | None = None
    """End of the video in seconds; None without video."""

    by_scheme: dict[str, Frames] = field(default_factory=dict)
    error: ClipError | None = None
    notes: list[str] = field(default_factory=list)


class MediaFile:
    """One open file, from which any number of clips are read in turn. A context manager.

    Raises ClipError when the file cannot be opened, UsageError for an unknown reader.
    """

    def __init__(self, path: str | Path, reader: str = DEFAULT_READER) -> None:
        check_reader(reader)
        self.path = Path(path)
        self.reader = reader
        self._source = MediaSource(self.path)

    def __enter__(self) -> "MediaFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; leaving a `with` block does it too."""
        self._source.close()

    @property
    def duration(self) -> Fraction:
        """End of the last frame in seconds since the first; without video, duration of the sound; for a file too large
        to buffer, the container's claim.

        Raises ClipError when there is neither video nor sound.
        """
        source = self._source
        if source.container.duration is not None and file_size(source.ref) > MAX_BUFFERED_BYTES:
            return Fraction(source.container.duration, av.time_base)
        if source.expected_frames is not None:
            return source.expected_frames.timeline.end
        if source.audio is None:
            raise ClipError("decode", "neither picture nor sound")
        return source.signal.end - source.signal.start

    def read(
        self,
        schemes: Sequence[str] = (),
        *,
        audio: bool = True,
        start: Seconds | None = None,
        end: Seconds | None = None,
        rate_hz: int | None = None,
        whole_audio: bool = False,
    ) -> Media:
        """Decode one clip, once for all sampling schemes; arguments and errors as in `decode`."""
        samplings = [parse_sampling(scheme) for scheme in schemes]
        interval = TimeInterval.of(start, end)
        if rate_hz is not None and rate_hz < 1:
            raise UsageError(f"rate_hz={rate_hz}: a rate is at least 1 sample per second")
        span = find_packet_span(self._source, interval) if self.reader == "pyav" else None
        clip = self._decode_span(span, samplings, interval) if span is not None else None
        if clip is None:
            span, clip = None, self._decode_from_start(samplings, interval)
        waveform, waveform_error = None, None
        if audio and self._source.audio is not None:
            picture_end = None if whole_audio else clip.clip_end
            try:
                waveform = self._waveform(interval, span, picture_end, rate_hz, clip.notes)
            except ClipError as error:
                waveform_error = error
        return Media(
            reader=f"{self.reader}-{READERS[self.reader]}",
            start=float(interval.start),
            by_scheme=clip.by_scheme,
            waveform=waveform,
            has_audio=self._source.audio is not None,
            frames_error=clip.error,
            waveform_error=waveform_error,
            notes=tuple(clip.notes),
        )

    def _decode_span(
        self, span: PacketSpan, samplings: Sequence[Sampling], interval: TimeInterval
    ) -> _DecodedClip | None:
        """Decode a clip reached by seeking; None when the decoder gives other frames than expected."""
        assert self._source.video is not None
        clip = _DecodedClip(span.timeline.end if span.reaches_end else interval.end)
        if samplings:
            selection = select_frames(samplings, span.timeline, interval)
            pixels = decode_expected(self._source.video, span.packets, span.timeline.ticks, selection.wanted)
            if pixels is None:
                return None
            _fill(clip, samplings, selection, span.timeline, pixels)
        return clip

    def _decode_from_start(self, samplings: Sequence[Sampling], interval: TimeInterval) -> _DecodedClip:
        """Decode a clip by reading the file from its start."""
        expected = self._source.expected_frames
        if expected is None:
            what = "no video stream" if self._source.video is None else "the video stream is empty"
            return _DecodedClip(error=ClipError("decode", what) if samplings else None)
        clip = _DecodedClip(expected.timeline.end)
        _check_coverage(expected, interval)
        if expected.lost:
            clip.notes.append(f"the file is cut short: {expected.lost} frames that its header counts are missing")
        if samplings:
            try:
                self._select_and_decode(clip, expected, samplings, interval)
            except ClipError as error:
                clip.error = error
        return clip

    def _select_and_decode(
        self, clip: _DecodedClip, expected: ExpectedFrames, samplings: Sequence[Sampling], interval: TimeInterval
    ) -> None:
        source = self._source
        assert source.video is not None
        selection = select_frames(samplings, expected.timeline, interval)
        if self.reader == "decord":
            if reason := decord_reader.untrusted_reason(source, expected):
                raise ClipError("decode", f"decord cannot be trusted with this file ({reason}): use --reader pyav")
            pixels = decord_reader.read(source.ref, expected, selection.wanted)
            _fill(clip, samplings, selection, expected.timeline, pixels)
            return
        if expected.is_certain and not source.is_avi:
            ticks = expected.timeline.ticks
            expected_pixels = decode_expected(source.video, source.packets(source.video), ticks, selection.wanted)
            if expected_pixels is not None:
                _fill(clip, samplings, selection, expected.timeline, expected_pixels)
                return
        decoded = decode_all(source.video, source.packets(source.video), selection.wanted)
        if not decoded.ticks:
            raise ClipError("decode", f"no video frame can be decoded{_because(decoded.damage)}")
        last = decoded.ticks[-1]
        shown = expected.clock.timeline(decoded.ticks, expected.durations.get(last, 0) if last is not None else 0)
        selection = self._reselect(clip, expected, samplings, interval, shown, decoded.damage)
        if missing := selection.wanted - decoded.pixels.keys():
            again = decode_all(source.video, source.packets(source.video), missing)
            decoded.pixels.update(again.pixels)
        _fill(clip, samplings, selection, shown, decoded.pixels)

    def _reselect(
        self,
        clip: _DecodedClip,
        expected: ExpectedFrames,
        samplings: Sequence[Sampling],
        interval: TimeInterval,
        shown: Timeline,
        damage: str | None,
    ) -> FrameSelection:
        """Select from the frames that the decoder showed. Raises ClipError when they are too few of the clip."""
        claimed = expected.count_claimed(interval)
        present = len(shown.inside(interval.start, interval.end or shown.end)) if interval.start < shown.end else 0
        if present < MIN_DECODED_FRACTION * claimed or not present:
            raise ClipError("decode", f"only {present} of {claimed} video frames can be decoded{_because(damage)}")
        if damage is not None and present < claimed:
            clip.notes.append(f"damaged: {present} of {claimed} frames decode before it{_because(damage)}")
        return select_frames(samplings, shown, interval)

    def _waveform(
        self,
        interval: TimeInterval,
        span: PacketSpan | None,
        picture_end: Fraction | None,
        rate_hz: int | None,
        notes: list[str],
    ) -> Waveform:
        source = self._source
        assert source.audio is not None
        if span is not None:
            signal = decode_span_audio(source, span, interval)
            origin = span.origin
        else:
            signal = source.signal
            origin = signal.start if source.expected_frames is None else source.origin
        ends = [end for end in (interval.end, picture_end) if end is not None]
        end = origin + min(ends) if ends else None
        waveform = to_waveform(signal, origin + interval.start, end, rate_hz)
        if signal.damage is not None and (end is None or signal.end < end):
            notes.append(f"damaged: the sound ends at {float(signal.end - origin):.2f} s{_because(signal.damage)}")
        return waveform


def check_reader(name: str) -> None:
    """Raises UsageError for a reader that is unknown or not installed."""
    if name not in READERS:
        raise UsageError(f"unknown reader '{name}': choose from {', '.join(READERS)}")
    if name == "decord":
        decord_reader.import_decord()


def _check_coverage(expected: ExpectedFrames, interval: TimeInterval) -> None:
    """Raises ClipError when the file ends before the clip starts, or lacks most of the clip."""
    present = len(expected.timeline.inside(interval.start, interval.end or expected.timeline.end))
    if interval.start >= expected.timeline.end:
        present = 0
    claimed = expected.count_claimed(interval)
    if not claimed:
        raise ClipError("decode", f"the file ends at {float(expected.timeline.end):.2f} s, before the clip starts")
    if present < MIN_DECODED_FRACTION * claimed:
        raise ClipError("open", f"the file is cut short: {present} of {claimed} video frames are there")


def _fill(
    clip: _DecodedClip,
    samplings: Sequence[Sampling],
    selection: FrameSelection,
    timeline: Timeline,
    pixels: Mapping[int, NDArray[np.uint8]],
) -> None:
    first, available = selection.inside.start, len(selection.inside)
    distinct = {rank - first: pixels[rank] for rank in sorted(selection.wanted)}
    for sampling in samplings:
        ranks = selection.ranks[sampling.scheme]
        clip.by_scheme[sampling.scheme] = Frames(
            distinct=distinct,
            indices=ranks - first,
            times=timeline.times(ranks),
            available=available,
            time_source=timeline.source,
        )
        if available < sampling.frames_needed:
            there = "1 frame" if available == 1 else f"{available} frames"
            clip.notes.append(
                f"{sampling.scheme} needs {sampling.frames_needed} frames, the clip has {there}: they repeat"
            )


def _because(damage: str | None) -> str:
    return f" ({damage})" if damage else ""
