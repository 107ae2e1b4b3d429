"""Decoded audio frames laid onto the clip's timeline as one mono signal."""

from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from features.media.clip import Waveform

_JITTER_SECONDS = Fraction(1, 50)
"""Timestamps may be off by this much (containers round them) before a jump counts as a gap in the sound."""


class WaveformBuilder:
    """Collects audio frames in decoding order. Gaps in their timestamps become silence; channels are averaged."""

    def __init__(self) -> None:
        self.rate_hz: int | None = None
        self.first_time = Fraction(0)
        self._pieces: list[NDArray[np.float32]] = []
        self._length = 0
        self._to_float: av.AudioResampler | None = None

    def add(self, frame: av.AudioFrame) -> None:
        if self._to_float is None:
            self._to_float = av.AudioResampler(format="fltp", layout=frame.layout, rate=frame.rate)
            self.rate_hz = frame.rate
            if frame.pts is not None and frame.time_base is not None:
                self.first_time = frame.pts * frame.time_base
        for converted in self._to_float.resample(frame):
            self._append(converted)

    def finish(self) -> None:
        """Flush what the converter holds back; call once, after the last frame."""
        if self._to_float is not None:
            for converted in self._to_float.resample(None):
                self._append(converted)

    def cut(self, start: Fraction, end: Fraction | None) -> Waveform:
        """Samples between two moments of the container's clock; silence where sound begins later than `start`."""
        assert self.rate_hz is not None, "no frame was added"
        signal = np.concatenate(self._pieces) if self._pieces else np.zeros(0, dtype=np.float32)
        first = round((start - self.first_time) * self.rate_hz)
        last = round((end - self.first_time) * self.rate_hz) if end is not None else len(signal)
        lead = np.zeros(max(0, min(-first, last - first)), dtype=np.float32)
        samples = np.concatenate([lead, signal[max(first, 0) : max(last, 0)]])
        return Waveform(samples=samples, rate_hz=self.rate_hz)

    def _append(self, frame: av.AudioFrame) -> None:
        assert self.rate_hz is not None
        if frame.pts is not None and frame.time_base is not None:
            position = round((frame.pts * frame.time_base - self.first_time) * self.rate_hz)
            gap = position - self._length
            if gap > _JITTER_SECONDS * self.rate_hz:
                self._extend(np.zeros(gap, dtype=np.float32))
        self._extend(frame.to_ndarray().mean(axis=0, dtype=np.float32))

    def _extend(self, samples: NDArray[np.float32]) -> None:
        self._pieces.append(samples)
        self._length += len(samples)
