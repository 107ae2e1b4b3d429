"""Start times of displayed frames, in exact arithmetic.

Time 0 is the first displayed frame. Timestamps are integer ticks and times exact fractions until they are returned, so
that no rounding of a float decides which frame is on display.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Literal, TypeGuard

import av
import numpy as np
from numpy.typing import NDArray

from avfuse.features.errors import UsageError
from avfuse.features.media.packets import AnyPacket, to_fraction

TimeSource = Literal["timestamps", "index"]
"""Source of frames' times: the decoder's timestamps, or a frame's index over the average rate."""

Seconds = float | Fraction | Decimal
_FALLBACK_RATE = Fraction(25)


@dataclass(frozen=True)
class TimeInterval:
    """An interval of a file's timeline in exact seconds; an `end` of None is the file's own."""

    start: Fraction
    end: Fraction | None

    @classmethod
    def of(cls, start: Seconds | None, end: Seconds | None) -> "TimeInterval":
        """Build an interval from seconds, of which a float 0.4 means 2/5 and not the nearest binary fraction: otherwise
        the frame that starts at 2/5 would be missed.

        Raises UsageError for a negative start or an end before it.
        """
        first, last = _exact("start", start), _exact("end", end)
        if first is not None and first < 0:
            raise UsageError(f"start={start}: a clip starts at 0 seconds or later")
        if last is not None and last <= (first or 0):
            raise UsageError(f"end={end}: a clip ends after its start ({start or 0})")
        return cls(first or Fraction(0), last)

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.end is None


@dataclass(frozen=True)
class Timeline:
    """Consecutive displayed frames."""

    ticks: Sequence[int]
    """Rising start times, in units of `base`."""

    base: Fraction
    """Seconds per tick."""

    zero: int
    """Tick of time 0."""

    last_duration: Fraction
    """Seconds for which the last frame is shown."""

    origin: Fraction
    """Time 0 on the container's clock, in seconds."""

    source: TimeSource
    """Source of the ticks."""

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def end(self) -> Fraction:
        """End of the last frame, in seconds."""
        return self.time(len(self) - 1) + self.last_duration

    def time(self, rank: int) -> Fraction:
        return (self.ticks[rank] - self.zero) * self.base

    def times(self, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Start times of frames by rank: float64 seconds, (T,)."""
        return np.array([float(self.time(rank)) for rank in ranks.tolist()])

    def rank_at(self, time: Fraction) -> int:
        """Rank of the frame on display at a time: the last with start <= time, or the first."""
        return max(bisect_right(self.ticks, self.zero + math.floor(time / self.base)) - 1, 0)

    def inside(self, start: Fraction, end: Fraction) -> range:
        """Ranks of the frames with start <= time < end, or of the one on display at `start` when there are none."""
        first = self._count_before(start)
        last = self._count_before(end)
        if first < last:
            return range(first, last)
        shown = self.rank_at(start)
        return range(shown, shown + 1)

    def _count_before(self, time: Fraction) -> int:
        return bisect_left(self.ticks, self.zero + math.ceil(time / self.base))


@dataclass(frozen=True)
class Clock:
    """Conversion of a stream's timestamps to seconds."""

    base: Fraction
    """Seconds per tick."""

    frames_per_second: Fraction
    """Average rate."""

    start: int
    """First tick of the stream, as the container claims."""

    @classmethod
    def of(cls, stream: av.video.stream.VideoStream) -> "Clock":
        rate = to_fraction(stream.average_rate) or to_fraction(stream.guessed_rate) or _FALLBACK_RATE
        return cls(base=to_fraction(stream.time_base) or 1 / rate, frames_per_second=rate, start=stream.start_time or 0)

    def timeline(self, ticks: Sequence[int | None], last_duration: int = 0, zero: int | None = None) -> Timeline:
        """Place frames in time from their timestamps in decoder-output order.

        Timestamps that do not rise strictly are not trusted (AVI with packed B-frames, as in UCF101): then a frame's
        time is its index over the average rate.

        Args:
            ticks: timestamps, in units of the clock's base.
            last_duration: of the last frame, in the same units; 0 when unknown.
            zero: tick of time 0; by default the first.
        """
        frame_duration = 1 / self.frames_per_second
        if is_increasing(ticks):
            return Timeline(
                ticks=ticks,
                base=self.base,
                zero=ticks[0] if zero is None else zero,
                last_duration=last_duration * self.base if last_duration > 0 else frame_duration,
                origin=(ticks[0] if zero is None else zero) * self.base,
                source="timestamps",
            )
        return Timeline(range(len(ticks)), frame_duration, 0, frame_duration, self.start * self.base, "index")


@dataclass(frozen=True)
class ExpectedFrames:
    """The frames that the packets of a video stream promise, before any is decoded."""

    timeline: Timeline
    """The displayed frames, without those that an edit list hides."""

    is_certain: bool
    """Whether every packet has its frame's timestamp."""

    hidden: int
    """Number of packets that an edit list hides: decoded as references only."""

    lost: int
    """Number of frames that the header counts and the file lacks, because it was cut short."""

    clock: Clock
    """Conversion of the stream's timestamps."""

    durations: Mapping[int, int]
    """Timestamp -> duration of the frame, both in ticks; 0 when unknown."""

    @classmethod
    def of(cls, packets: Sequence[AnyPacket], stream: av.video.stream.VideoStream) -> "ExpectedFrames":
        clock = Clock.of(stream)
        shown = [packet for packet in packets if not packet.is_discard]
        ticks = [packet.pts if packet.pts is not None else packet.dts for packet in shown]
        durations = {packet.pts: packet.duration or 0 for packet in shown if packet.pts is not None}
        known = sorted(tick for tick in ticks if tick is not None)
        in_order: Sequence[int | None] = known if len(known) == len(ticks) else ticks
        # AVI's header counts the packets. An MP4's count includes those an edit list leaves out, but its index does
        # not; other containers' indices hold key frames only, and promise nothing.
        claimed = stream.frames if stream.container.format.name == "avi" else len(stream.index_entries)
        return cls(
            timeline=clock.timeline(in_order, durations.get(known[-1], 0) if known else 0),
            is_certain=len(durations) == len(shown),
            hidden=len(packets) - len(shown),
            lost=max(0, claimed - len(packets)),
            clock=clock,
            durations=durations,
        )

    def count_claimed(self, interval: TimeInterval) -> int:
        """Number of frames in an interval by the header, including those that were cut off."""
        end = self.timeline.end
        present = len(self.timeline.inside(interval.start, interval.end or end)) if interval.start < end else 0
        beyond = self.lost
        if interval.end is not None:
            beyond = min(beyond, max(0, math.ceil((interval.end - end) * self.clock.frames_per_second)))
        return present + beyond


def is_increasing(ticks: Sequence[int | None]) -> TypeGuard[Sequence[int]]:
    """Whether all timestamps are known and rise strictly."""
    return None not in ticks and all(a < b for a, b in pairwise(ticks))  # type: ignore[operator]


def _exact(name: str, seconds: Seconds | None) -> Fraction | None:
    if seconds is None:
        return None
    try:
        return Fraction(seconds if isinstance(seconds, Fraction) else str(seconds))
    except ValueError as error:
        raise UsageError(f"{name}={seconds}: not a number of seconds") from error
