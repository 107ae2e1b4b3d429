"""What decoding gives: pixels and samples that never lose their time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.errors import ClipError


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Video frames of one clip.

    pixels: uint8 (T, H, W, 3), RGB, upright. times: float64 (T,), each frame's own start in seconds of the file's
    timeline. indices: int64 (T,), each frame's rank among the displayed frames of the clip. available: how many frames
    the clip has; fewer than T means that some were repeated.
    """

    pixels: NDArray[np.uint8]
    times: NDArray[np.float64]
    indices: NDArray[np.int64]
    available: int


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """Sound of one clip: float32 (samples,), mono (mean of channels), at the file's own rate."""

    samples: NDArray[np.float32]
    rate_hz: int

    @property
    def duration_seconds(self) -> float:
        return len(self.samples) / self.rate_hz

    @property
    def is_silent(self) -> bool:
        return not np.any(self.samples)


@dataclass(frozen=True, kw_only=True)
class Media:
    """One decoded clip. `frames` or `waveform` is None when it was not asked for, when the file has no such stream, or
    when that stream failed; `frames_error` and `waveform_error` tell a failure from an absence."""

    frames: Frames | None
    waveform: Waveform | None
    has_audio: bool
    frames_error: ClipError | None = None
    waveform_error: ClipError | None = None
