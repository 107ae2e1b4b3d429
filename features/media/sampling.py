"""Sampling schemes: which frames of a clip are taken.

A scheme is a text: `uniform:25`, `strided:8x32`, `rate:2`, the first two also over temporal windows:
`strided:16x4@2/4` is the second of four windows, `strided:16x4@4` all four in a row.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from avfuse.features.errors import ClipError, UsageError
from avfuse.features.media.timeline import TimeInterval, Timeline

MAX_FRAMES_AT_RATE = 100_000
"""Limit of a fixed rate: a file that claims months would fill any memory with repeats."""

_HELP = (
    "write uniform:N (N frames evenly spread), strided:NxS (N frames, every S-th), either with @k/K for the k-th of K "
    "windows or @K for all of them, or rate:R (R frames per second)"
)
_SCHEME = re.compile(r"(?:uniform:(\d+)|strided:(\d+)x(\d+))(?:@(?:(\d+)/)?(\d+))?|rate:(\d+(?:\.\d+)?|\d+/\d+)")


@dataclass(frozen=True)
class Sampling:
    """A parsed scheme."""

    scheme: str
    """The text."""

    frames_per_window: int | None
    """N of `uniform:N` and `strided:NxS`; None for a fixed rate."""

    stride: int | None
    """S of `strided:NxS`, else None."""

    windows: tuple[int, ...]
    """Indices of the windows taken."""

    window_count: int
    """Number of windows that a clip is divided into."""

    rate: Fraction | None
    """Frames per second of `rate:R`, else None."""

    @property
    def frames_per_clip(self) -> int | None:
        """None when the clip's duration decides it."""
        return None if self.frames_per_window is None else self.frames_per_window * len(self.windows)

    @property
    def frames_needed(self) -> int:
        """Number of frames below which a clip repeats some."""
        if self.frames_per_window is None:
            return 1
        if self.stride:
            return (self.frames_per_window - 1) * self.stride + 1
        return self.frames_per_window * self.window_count

    def select(self, timeline: Timeline, start: Fraction, end: Fraction) -> NDArray[np.int64]:
        """Select frames of a clip between two times in seconds; return their ranks on the timeline, int64 (T,).

        The clip's frames are those with start <= time < end, or the one on display at `start` when there are none. A
        clip with too few frames repeats the nearest.

        Raises ClipError for a fixed rate that gives more than MAX_FRAMES_AT_RATE frames.
        """
        inside = timeline.inside(start, end)
        if self.rate is not None:
            return _at_rate(timeline, self.rate, start, end)
        chosen = [
            self._strided(len(inside), window) if self.stride else self._uniform(len(inside), window)
            for window in self.windows
        ]
        return inside.start + np.concatenate(chosen)

    def _uniform(self, available: int, window: int) -> NDArray[np.int64]:
        assert self.frames_per_window is not None
        first = min(window * available // self.window_count, available - 1)
        last = max((window + 1) * available // self.window_count, first + 1)
        return first + segment_centres(last - first, self.frames_per_window)

    def _strided(self, available: int, window: int) -> NDArray[np.int64]:
        assert self.frames_per_window is not None
        assert self.stride is not None
        span = (self.frames_per_window - 1) * self.stride + 1
        places = max(available - span + 1, 1)
        first = segment_centres(places, self.window_count)[window]
        return np.minimum(first + self.stride * np.arange(self.frames_per_window), available - 1)


@dataclass(frozen=True)
class FrameSelection:
    """Frames of one clip that several schemes select."""

    inside: range
    """Ranks of the clip's frames."""

    ranks: Mapping[str, NDArray[np.int64]]
    """Scheme -> ranks of the selected frames (T,)."""

    @property
    def wanted(self) -> set[int]:
        """Ranks that any scheme selects."""
        return {rank for ranks in self.ranks.values() for rank in ranks.tolist()}


def select_frames(samplings: Sequence[Sampling], timeline: Timeline, interval: TimeInterval) -> FrameSelection:
    """Select frames for every scheme; errors as in `Sampling.select`."""
    end = timeline.end if interval.end is None else min(interval.end, timeline.end)
    ranks = {sampling.scheme: sampling.select(timeline, interval.start, end) for sampling in samplings}
    return FrameSelection(timeline.inside(interval.start, end), ranks)


@lru_cache
def parse_sampling(scheme: str) -> Sampling:
    """Parse a scheme. Raises UsageError for an invalid one."""
    match = _SCHEME.fullmatch(scheme)
    if match is None:
        raise UsageError(f"unknown frame sampling '{scheme}': {_HELP}")
    uniform, strided, stride, window, count, rate = match.groups()
    windows = int(count or 1)
    chosen = (int(window) - 1,) if window else tuple(range(windows))
    numbers = [int(text) for text in (uniform, strided, stride, window, count) if text is not None]
    if 0 in numbers or chosen[-1] >= windows or (rate is not None and _is_zero(rate)):
        raise UsageError(f"frame sampling '{scheme}' makes no sense: {_HELP}")
    return Sampling(
        scheme=scheme,
        frames_per_window=int(uniform or strided) if rate is None else None,
        stride=int(stride) if stride else None,
        windows=chosen,
        window_count=windows,
        rate=Fraction(rate) if rate is not None else None,
    )


def frames_per_clip(scheme: str) -> int:
    """Number of frames that a scheme takes per clip.

    Raises UsageError for `rate:R`, whose number varies: a feature has one shape for all clips.
    """
    frames = parse_sampling(scheme).frames_per_clip
    if frames is None:
        raise UsageError(
            f"'{scheme}' gives each clip its own number of frames: a feature needs uniform:N or strided:NxS"
        )
    return frames


def segment_centres(available: int, segments: int) -> NDArray[np.int64]:
    """Centres of `segments` equal segments of `available` places: int(n / (2 N) + i n / N).

    TSN's test-time sampling (Wang et al., "Temporal Segment Networks", 2016), in integers so that no rounding of a
    float decides a frame. With fewer places than segments, places repeat.
    """
    segment = np.arange(segments, dtype=np.int64)
    return (available * (2 * segment + 1)) // (2 * segments)


def _at_rate(timeline: Timeline, rate: Fraction, start: Fraction, end: Fraction) -> NDArray[np.int64]:
    """Ranks of the frames on display at start, start + 1 / rate, ... before end: at least one."""
    count = max(1, -int((start - end) * rate // 1))
    if count > MAX_FRAMES_AT_RATE:
        raise ClipError("decode", f"{float(rate):g} frames a second of {float(end - start):.0f} s are {count} frames")
    return np.array([timeline.rank_at(start + index / rate) for index in range(count)], dtype=np.int64)


def _is_zero(rate: str) -> bool:
    numerator, _, denominator = rate.partition("/")
    return float(numerator) == 0 or (denominator != "" and int(denominator) == 0)
