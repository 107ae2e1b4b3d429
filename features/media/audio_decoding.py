"""Decoding of an audio stream's packets to a mono signal on the clip's timeline."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from avfuse.features.errors import ClipError
from avfuse.features.media.clip import MIN_DECODED_FRACTION, Waveform
from avfuse.features.media.packets import AnyPacket, ffmpeg_message, to_fraction

MAX_GAP_SECONDS = 3600
"""A longer gap in the timestamps is damage or a trap: filling it with silence could take any amount of memory."""

_JITTER_SECONDS = Fraction(1, 20)
"""Smallest jump of the timestamps that counts as a gap: recorders stamp packets on arrival, and those of unbroken sound
were seen to stray by an AAC packet (23 ms)."""


@dataclass(frozen=True)
class DecodedAudio:
    """Decoded sound; all times are seconds on the container's clock."""

    samples: NDArray[np.float32]
    """(samples,), mono."""

    rate_hz: int
    """Sampling rate."""

    start: Fraction
    """Time of the first sample."""

    expected_start: Fraction
    """Start by the packets' timestamps."""

    expected_end: Fraction
    """End by the packets' timestamps."""

    damage: str | None
    """The decoder's message where decoding broke off; None when all of it decoded."""

    @property
    def end(self) -> Fraction:
        return self.start + Fraction(len(self.samples), self.rate_hz)


def to_waveform(signal: DecodedAudio, start: Fraction, end: Fraction | None, rate_hz: int | None) -> Waveform:
    """Cut and resample the sound of a clip; silence fills the time before the first sample.

    Args:
        signal: the decoded sound.
        start, end: of the clip, seconds on the container's clock; an `end` of None is the sound's own.
        rate_hz: of the waveform; None keeps the file's own.

    Raises ClipError when there is no sound, or too little decoded before damage.
    """
    if signal.damage is not None:
        first = max(start, signal.expected_start)
        last = signal.expected_end if end is None else min(end, signal.expected_end)
        decoded = max(min(signal.end, last) - max(signal.start, first), Fraction(0))
        if decoded < MIN_DECODED_FRACTION * (last - first):
            whole = f"{float(last - first):.1f} s of sound"
            raise ClipError("decode", f"only {float(decoded):.1f} of {whole} can be decoded ({signal.damage})")
    samples = _cut(signal, start, end)
    if not len(samples):
        raise ClipError("decode", "the audio stream has no samples within the clip")
    return Waveform(samples=samples, rate_hz=signal.rate_hz).at_rate(rate_hz or signal.rate_hz)


def _cut(signal: DecodedAudio, start: Fraction, end: Fraction | None) -> NDArray[np.float32]:
    first = round((start - signal.start) * signal.rate_hz)
    last = round((end - signal.start) * signal.rate_hz) if end is not None else len(signal.samples)
    lead = max(0, min(-first, last - first))
    if lead > MAX_GAP_SECONDS * signal.rate_hz:
        raise ClipError("decode", f"the audio stream claims to begin {lead // signal.rate_hz} s late")
    samples = signal.samples[max(first, 0) : max(last, 0)]
    if not len(samples):
        return samples
    return np.concatenate([np.zeros(lead, dtype=np.float32), samples]) if lead else samples.copy()


def decode_audio(stream: av.audio.stream.AudioStream, packets: Iterable[AnyPacket]) -> DecodedAudio:
    """Decode up to the first damage. Gaps in the timestamps become silence; channels are averaged.

    Raises ClipError when there are no samples.
    """
    codec = stream.codec_context
    base = to_fraction(stream.time_base) or Fraction(1, stream.rate or 1)
    if codec is None:
        raise ClipError("decode", "there is no decoder for its audio codec")
    signal = _AudioJoiner(base)
    expected_start: Fraction | None = None
    expected_end = Fraction(0)
    problem: str | None = None
    damaged = False
    try:
        for packet in packets:
            if packet.pts is not None:
                expected_start = packet.pts * base if expected_start is None else expected_start
                expected_end = max(expected_end, (packet.pts + (packet.duration or 0)) * base)
            if damaged:
                continue
            try:
                decoded = codec.decode(packet)
            except FFmpegError as error:
                # What cannot be decoded before the first sound is lead-in; after that it is where the sound ends.
                problem, damaged = ffmpeg_message(error), signal.rate_hz is not None
                continue
            for frame in decoded:
                signal.add(frame)
        for frame in codec.decode(None) if not damaged else ():
            signal.add(frame)
    finally:
        codec.flush_buffers()
    samples = signal.finish()
    if signal.rate_hz is None or not len(samples):
        raise ClipError("decode", f"the audio stream gives no samples{f' ({problem})' if problem else ''}")
    start = signal.start if expected_start is None else expected_start
    return DecodedAudio(samples, signal.rate_hz, signal.start, start, expected_end, problem if damaged else None)


class _AudioJoiner:
    """Concatenates audio frames in decoding order."""

    def __init__(self, base: Fraction) -> None:
        self.rate_hz: int | None = None
        self._base = base
        self.start = Fraction(0)
        self._pieces: list[NDArray[np.float32]] = []
        self._length = 0
        self._form: tuple[str, str, int] | None = None
        self._to_float: av.AudioResampler | None = None

    def add(self, frame: av.AudioFrame) -> None:
        if self.rate_hz is None:
            self.rate_hz = frame.rate
            if frame.pts is not None:
                self.start = frame.pts * self._base
        form = (frame.format.name, frame.layout.name, frame.rate)
        if form != self._form:  # the first frame, or a stream that changes its channels or rate midway
            self._flush()
            self._to_float = av.AudioResampler(format="fltp", layout=frame.layout, rate=self.rate_hz)
            self._form = form
        assert self._to_float is not None
        self._fill_gap(frame)
        for converted in self._to_float.resample(frame):
            self._extend(converted.to_ndarray().mean(axis=0, dtype=np.float32))

    def finish(self) -> NDArray[np.float32]:
        self._flush()
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, dtype=np.float32)

    def _fill_gap(self, frame: av.AudioFrame) -> None:
        assert self.rate_hz is not None
        if frame.pts is None:
            return
        gap = round((frame.pts * self._base - self.start) * self.rate_hz) - self._length
        if gap > MAX_GAP_SECONDS * self.rate_hz:
            raise ClipError("decode", f"the audio stream claims a gap of {gap // self.rate_hz} s")
        if gap > _JITTER_SECONDS * self.rate_hz:
            self._extend(np.zeros(gap, dtype=np.float32))

    def _flush(self) -> None:
        if self._to_float is not None:
            for converted in self._to_float.resample(None):
                self._extend(converted.to_ndarray().mean(axis=0, dtype=np.float32))

    def _extend(self, samples: NDArray[np.float32]) -> None:
        self._pieces.append(samples)
        self._length += len(samples)
