"""What decoding gives: pixels and samples that never lose their time."""

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
"""A damaged clip is used when at least this share of its frames, or of its sound, decodes before the damage."""

Sound = Literal["waveform", "silent", "no audio stream", "undecodable", "not asked for"]
"""What became of a clip's sound."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Video frames that one scheme takes of one clip.

    distinct: rank -> uint8 (H, W, 3), RGB, upright, at native size; frames that several schemes take are shared.
    indices: int64 (T,), each frame's rank among the displayed frames of the clip. times: float64 (T,), each frame's own
    start in seconds of the file's timeline. available: how many frames the clip has. time_source: where `times` come
    from.
    """

    distinct: Mapping[int, NDArray[np.uint8]]
    indices: NDArray[np.int64]
    times: NDArray[np.float64]
    available: int
    time_source: TimeSource

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (T, H, W, 3). Raises ClipError where the picture's size changes within the clip."""
        sizes = {"x".join(map(str, self.distinct[rank].shape[1::-1])) for rank in self.indices.tolist()}
        if len(sizes) > 1:
            raise ClipError("decode", f"the picture's size changes within the clip ({', '.join(sorted(sizes))})")
        return np.stack([self.distinct[rank] for rank in self.indices.tolist()])

    @property
    def repeated(self) -> int:
        """How many of the T frames are repeats, because the clip has too few."""
        return len(self.indices) - len(np.unique(self.indices))


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """Sound of one clip: float32 (samples,), mono (mean of channels), from the clip's start on."""

    samples: NDArray[np.float32]
    rate_hz: int

    @property
    def duration_seconds(self) -> float:
        return len(self.samples) / self.rate_hz

    def at_rate(self, rate_hz: int) -> "Waveform":
        """The same sound with another sampling rate (soxr, high quality), of one sample at least.

        Raises UsageError for a rate below 1.
        """
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
    """One decoded clip.

    reader: who decoded the frames, with its revision (`pyav-2`). start: where the clip starts, in seconds of the file's
    timeline. by_scheme: the frames of each scheme asked for; empty when none was, or when `frames_error` says what is
    wrong with the picture. waveform: None when it was not asked for, when the file has no audio stream, or when
    `waveform_error` says what is wrong with it; `sound` tells these apart. notes: what a user should know of a clip
    that is used all the same, a line each.
    """

    reader: str
    start: float
    by_scheme: Mapping[str, Frames]
    waveform: Waveform | None
    has_audio: bool
    frames_error: ClipError | None = None
    waveform_error: ClipError | None = None
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> Frames | None:
        """The frames, where one scheme was asked for (of several, the first)."""
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
