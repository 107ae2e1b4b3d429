"""Reading clips: one sequential decode, in which only the wanted frames become pixels.

A file's packets are looked at before any is decoded: their timestamps promise which frames there will be, so that the
wanted ones are known in time and what none of them needs is not decoded. Where the decoder shows other frames than
promised, its word counts and everything is decoded. In a long file, a clip is reached by seeking.
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
from avfuse.features.media.audio_decoding import lay
from avfuse.features.media.clip import MIN_DECODED_FRACTION, Frames, Media, Waveform
from avfuse.features.media.container import HELD_BYTES, Source
from avfuse.features.media.probe import size_of
from avfuse.features.media.sampling import Choice, Sampling, choose, parse_sampling
from avfuse.features.media.seeking import Stretch, find_stretch, stretch_sound
from avfuse.features.media.timeline import Interval, Promise, Seconds, Timeline
from avfuse.features.media.video_decoding import decode_everything, decode_promised

READERS = {"pyav": 2, "decord": decord_reader.REVISION}
"""Who turns packets into frames, each with the revision of what it gives. Sound is always PyAV's."""

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
        path: any media file FFmpeg reads; a sound file is a clip too.
        frames: a scheme such as `uniform:25`, `strided:8x32` or `rate:2` (docs/media.md), or None for no frames.
        audio: whether to decode the sound.
        start, end: interval in seconds since the first displayed frame (the first sample where there is no video).
        rate_hz: samples per second of the waveform; None: the file's own.
        whole_audio: keep sound that goes on after the last frame.
        reader: `pyav`, or `decord`, which gives no frames of a file in which it is not to be trusted.

    Returns:
        Media with `frames` (T, H, W, 3) uint8 at native size and `waveform` (samples,) float32. A stream that is absent
        or fails leaves the other usable; see Media.

    Raises:
        ClipError: the file cannot be opened at all, is cut short of most of the clip, or ends before it starts.
        UsageError: the sampling scheme, the interval, the rate or the reader makes no sense.
    """
    with MediaFile(path, reader) as file:
        schemes = [frames] if frames is not None else []
        return file.read(schemes, audio=audio, start=start, end=end, rate_hz=rate_hz, whole_audio=whole_audio)


@dataclass
class _Picture:
    """What reading one clip's picture gives. clip_end: when the picture ends, in seconds; None: it has none."""

    clip_end: Fraction | None = None
    by_scheme: dict[str, Frames] = field(default_factory=dict)
    error: ClipError | None = None
    notes: list[str] = field(default_factory=list)


class MediaFile:
    """One open file, from which any number of clips are read, one after the other. A context manager.

    Raises ClipError when the file cannot be opened, UsageError for an unknown reader.
    """

    def __init__(self, path: str | Path, reader: str = DEFAULT_READER) -> None:
        check_reader(reader)
        self.path = Path(path)
        self.reader = reader
        self._source = Source(self.path)

    def __enter__(self) -> "MediaFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; leaving a `with` block does it too."""
        self._source.close()

    @property
    def duration(self) -> Fraction:
        """When the last frame ends, in seconds since the first; of a file without a picture, how long its sound is; of
        a file too large to be held in memory, what its container claims.

        Raises ClipError where there is neither picture nor sound.
        """
        source = self._source
        if source.container.duration is not None and size_of(source.medium) > HELD_BYTES:
            return Fraction(source.container.duration, av.time_base)
        if source.promise is not None:
            return source.promise.timeline.end
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
        """Decode one clip once for all sampling schemes and its sound; arguments and errors as in `decode`."""
        samplings = [parse_sampling(scheme) for scheme in schemes]
        interval = Interval.of(start, end)
        if rate_hz is not None and rate_hz < 1:
            raise UsageError(f"rate_hz={rate_hz}: a rate is at least 1 sample per second")
        stretch = find_stretch(self._source, interval) if self.reader == "pyav" else None
        picture = self._stretch_picture(stretch, samplings, interval) if stretch is not None else None
        if picture is None:
            stretch, picture = None, self._whole_picture(samplings, interval)
        waveform, waveform_error = None, None
        if audio and self._source.audio is not None:
            picture_end = None if whole_audio else picture.clip_end
            try:
                waveform = self._waveform(interval, stretch, picture_end, rate_hz, picture.notes)
            except ClipError as error:
                waveform_error = error
        return Media(
            reader=f"{self.reader}-{READERS[self.reader]}",
            start=float(interval.start),
            by_scheme=picture.by_scheme,
            waveform=waveform,
            has_audio=self._source.audio is not None,
            frames_error=picture.error,
            waveform_error=waveform_error,
            notes=tuple(picture.notes),
        )

    def _stretch_picture(self, stretch: Stretch, samplings: Sequence[Sampling], interval: Interval) -> _Picture | None:
        """The frames of a clip reached by seeking; None where the decoder does not give what its packets promise."""
        assert self._source.video is not None
        picture = _Picture(stretch.timeline.end if stretch.reaches_end else interval.end)
        if samplings:
            choice = choose(samplings, stretch.timeline, interval)
            pixels = decode_promised(self._source.video, stretch.packets, stretch.timeline.ticks, choice.wanted)
            if pixels is None:
                return None
            _fill(picture, samplings, choice, stretch.timeline, pixels)
        return picture

    def _whole_picture(self, samplings: Sequence[Sampling], interval: Interval) -> _Picture:
        """The frames of a clip of a file that is read from its start."""
        promise = self._source.promise
        if promise is None:
            what = "no video stream" if self._source.video is None else "the video stream is empty"
            return _Picture(error=ClipError("decode", what) if samplings else None)
        picture = _Picture(promise.timeline.end)
        _check_reach(promise, interval)
        if promise.lost:
            picture.notes.append(f"the file is cut short: {promise.lost} frames that its header counts are missing")
        if samplings:
            try:
                self._choose_and_decode(picture, promise, samplings, interval)
            except ClipError as error:
                picture.error = error
        return picture

    def _choose_and_decode(
        self, picture: _Picture, promise: Promise, samplings: Sequence[Sampling], interval: Interval
    ) -> None:
        source = self._source
        assert source.video is not None
        choice = choose(samplings, promise.timeline, interval)
        if self.reader == "decord":
            if reason := decord_reader.distrust(source, promise):
                raise ClipError("decode", f"decord cannot be trusted with this file ({reason}): use --reader pyav")
            pixels = decord_reader.read(source.medium, promise, choice.wanted)
            _fill(picture, samplings, choice, promise.timeline, pixels)
            return
        if promise.is_certain and not source.is_avi:
            ticks = promise.timeline.ticks
            promised = decode_promised(source.video, source.packets(source.video), ticks, choice.wanted)
            if promised is not None:
                _fill(picture, samplings, choice, promise.timeline, promised)
                return
        decoded = decode_everything(source.video, source.packets(source.video), choice.wanted)
        if not decoded.ticks:
            raise ClipError("decode", f"no video frame can be decoded{_because(decoded.damage)}")
        last = decoded.ticks[-1]
        shown = promise.clock.timeline(decoded.ticks, promise.durations.get(last, 0) if last is not None else 0)
        choice = self._checked_choice(picture, promise, samplings, interval, shown, decoded.damage)
        if missing := choice.wanted - decoded.pixels.keys():
            again = decode_everything(source.video, source.packets(source.video), missing)
            decoded.pixels.update(again.pixels)
        _fill(picture, samplings, choice, shown, decoded.pixels)

    def _checked_choice(
        self,
        picture: _Picture,
        promise: Promise,
        samplings: Sequence[Sampling],
        interval: Interval,
        shown: Timeline,
        damage: str | None,
    ) -> Choice:
        """The frames to take of those that the decoder showed, where these are enough of the clip."""
        claimed = promise.claimed(interval)
        found = len(shown.inside(interval.start, interval.end or shown.end)) if interval.start < shown.end else 0
        if found < MIN_DECODED_FRACTION * claimed or not found:
            raise ClipError("decode", f"only {found} of {claimed} video frames can be decoded{_because(damage)}")
        if damage is not None and found < claimed:
            picture.notes.append(f"damaged: {found} of {claimed} frames decode before it{_because(damage)}")
        return choose(samplings, shown, interval)

    def _waveform(
        self,
        interval: Interval,
        stretch: Stretch | None,
        picture_end: Fraction | None,
        rate_hz: int | None,
        notes: list[str],
    ) -> Waveform:
        source = self._source
        assert source.audio is not None
        if stretch is not None:
            signal = stretch_sound(source, stretch, interval)
            origin = stretch.origin
        else:
            signal = source.signal
            origin = signal.start if source.promise is None else source.origin
        ends = [end for end in (interval.end, picture_end) if end is not None]
        end = origin + min(ends) if ends else None
        waveform = lay(signal, origin + interval.start, end, rate_hz)
        if signal.damage is not None and (end is None or signal.end < end):
            notes.append(f"damaged: the sound ends at {float(signal.end - origin):.2f} s{_because(signal.damage)}")
        return waveform


def check_reader(name: str) -> None:
    """Raises UsageError for a reader that there is not, or that is not installed."""
    if name not in READERS:
        raise UsageError(f"unknown reader '{name}': choose from {', '.join(READERS)}")
    if name == "decord":
        decord_reader.require()


def _check_reach(promise: Promise, interval: Interval) -> None:
    """Raises ClipError where the file ends before the clip starts, or was cut short of most of the clip."""
    found = len(promise.timeline.inside(interval.start, interval.end or promise.timeline.end))
    if interval.start >= promise.timeline.end:
        found = 0
    claimed = promise.claimed(interval)
    if not claimed:
        raise ClipError("decode", f"the file ends at {float(promise.timeline.end):.2f} s, before the clip starts")
    if found < MIN_DECODED_FRACTION * claimed:
        raise ClipError("open", f"the file is cut short: {found} of {claimed} video frames are there")


def _fill(
    picture: _Picture,
    samplings: Sequence[Sampling],
    choice: Choice,
    timeline: Timeline,
    pixels: Mapping[int, NDArray[np.uint8]],
) -> None:
    first, available = choice.inside.start, len(choice.inside)
    distinct = {rank - first: pixels[rank] for rank in sorted(choice.wanted)}
    for sampling in samplings:
        ranks = choice.ranks[sampling.scheme]
        picture.by_scheme[sampling.scheme] = Frames(
            distinct=distinct,
            indices=ranks - first,
            times=timeline.times(ranks),
            available=available,
            time_source=timeline.source,
        )
        if available < sampling.frames_needed:
            there = "1 frame" if available == 1 else f"{available} frames"
            picture.notes.append(
                f"{sampling.scheme} needs {sampling.frames_needed} frames, the clip has {there}: they repeat"
            )


def _because(damage: str | None) -> str:
    return f" ({damage})" if damage else ""
