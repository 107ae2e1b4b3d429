"""Decoded clips: frames and waveform with their times."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from avfuse.features.errors import ClipError, UsageError
from avfuse.features.media.timeline import TimeSource

MIN_DECODED_FRACTION = 0.8
"""Share of a damaged clip's frames, or of its sound, that must decode before the damage for it to be used."""

Sound = Literal["waveform", "silent", "no audio stream", "undecodable", "not asked for"]
"""Outcome of decoding a clip's sound."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The video frames of one clip that a sampling scheme selects."""

    distinct: Mapping[int, NDArray[np.uint8]]
    """Rank -> uint8 (H, W, 3), RGB, upright, at native size; shared by the schemes of one decode."""

    indices: NDArray[np.int64]
    """(T,), rank of each frame among the displayed frames of the clip."""

    times: NDArray[np.float64]
    """(T,), start of each frame in seconds of the file's timeline."""

    available: int
    """Number of frames in the clip."""

    time_source: TimeSource
    """Source of `times`."""

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (T, H, W, 3). Raises ClipError when the frame size changes within the clip."""
        sizes = {"x".join(map(str, self.distinct[rank].shape[1::-1])) for rank in self.indices.tolist()}
        if len(sizes) > 1:
            raise ClipError("decode", f"the picture's size changes within the clip ({', '.join(sorted(sizes))})")
        return np.stack([self.distinct[rank] for rank in self.indices.tolist()])

    @property
    def repeated(self) -> int:
        """Number of the T frames that repeat another, because the clip has too few."""
        return len(self.indices) - len(np.unique(self.indices))


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """Sound of one clip, from the clip's start on."""

    samples: NDArray[np.float32]
    """(samples,), mono: the mean of the channels."""

    rate_hz: int
    """Sampling rate."""

    @property
    def duration_seconds(self) -> float:
        return len(self.samples) / self.rate_hz

    def at_rate(self, rate_hz: int) -> "Waveform":
        """Resample (soxr, high quality) to at least one sample. Raises UsageError for a rate below 1."""
        if rate_hz < 1:
            raise UsageError(f"rate_hz={rate_hz}: a rate is at least 1 sample per second")
        if rate_hz == self.rate_hz:
            return self
        resampled = soxr.resample(self.samples, self.rate_hz, rate_hz)
        return Waveform(samples=resampled if len(resampled) else self.samples[:1], rate_hz=rate_hz)

    @property
    def is_silent(self) -> bool:
        return not np.any(self.samples)


@dataclass(frozen=True, kw_only=True)
class Media:
    """One decoded clip."""

    reader: str
    """The reader that decoded the frames, with its revision (`pyav-2`)."""

    start: float
    """Start of the clip in seconds of the file's timeline."""

    by_scheme: Mapping[str, Frames]
    """Frames by sampling scheme; empty without schemes, or when `frames_error` is set."""

    waveform: Waveform | None
    """None when not requested, without an audio stream, or when `waveform_error` is set; `sound` says which."""

    has_audio: bool
    """Whether the file has an audio stream."""

    frames_error: ClipError | None = None
    """Reason why the frames could not be decoded."""

    waveform_error: ClipError | None = None
    """Reason why the sound could not be decoded."""

    notes: tuple[str, ...] = ()
    """Warnings about a clip that is used nevertheless, a line each."""

    @property
    def frames(self) -> Frames | None:
        """Frames of the first scheme; None without any."""
        return next(iter(self.by_scheme.values()), None)

    @property
    def sound(self) -> Sound:
        if not self.has_audio:
            return "no audio stream"
        if self.waveform_error is not None:
            return "undecodable"
        if self.waveform is None:
            return "not asked for"
        return "silent" if self.waveform.is_silent else "waveform"
