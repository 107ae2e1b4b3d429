"""When each displayed frame starts, in exact arithmetic.

Time 0 is the first displayed frame. Timestamps stay integer ticks and times exact fractions until they are handed out:
no rounding of a float decides which frame is on display.
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
"""Where frames' times come from: the decoder's timestamps, or a frame's index over the average rate."""

Seconds = float | Fraction | Decimal
_FALLBACK_RATE = Fraction(25)


@dataclass(frozen=True)
class TimeInterval:
    """A stretch of a file's timeline in exact seconds; an `end` of None is the file's own."""

    start: Fraction
    end: Fraction | None

    @classmethod
    def of(cls, start: Seconds | None, end: Seconds | None) -> "TimeInterval":
        """0.4 means 2/5, not the binary fraction nearest to it: else the frame that starts at 2/5 would be missed.

        Raises UsageError for an interval that makes no sense.
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
    """Consecutive displayed frames. ticks: their rising starts, in units of `base` seconds; zero: the tick of time 0.

    last_duration: how long the last frame stays; origin: where time 0 lies on the container's clock; both in seconds.
    """

    ticks: Sequence[int]
    base: Fraction
    zero: int
    last_duration: Fraction
    origin: Fraction
    source: TimeSource

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def end(self) -> Fraction:
        """When the last frame has been shown."""
        return self.time(len(self) - 1) + self.last_duration

    def time(self, rank: int) -> Fraction:
        return (self.ticks[rank] - self.zero) * self.base

    def times(self, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Start times of some frames: float64 seconds."""
        return np.array([float(self.time(rank)) for rank in ranks.tolist()])

    def rank_at(self, time: Fraction) -> int:
        """The frame on display at a time: the last with start <= time. Before the first, the first."""
        return max(bisect_right(self.ticks, self.zero + math.floor(time / self.base)) - 1, 0)

    def inside(self, start: Fraction, end: Fraction) -> range:
        """Ranks of the frames with start <= time < end; where there is none, of the one on display at `start`."""
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
    """What turns a stream's timestamps into seconds: its time base, average rate and start."""

    base: Fraction
    frames_per_second: Fraction
    start: int

    @classmethod
    def of(cls, stream: av.video.stream.VideoStream) -> "Clock":
        rate = to_fraction(stream.average_rate) or to_fraction(stream.guessed_rate) or _FALLBACK_RATE
        return cls(base=to_fraction(stream.time_base) or 1 / rate, frames_per_second=rate, start=stream.start_time or 0)

    def timeline(self, ticks: Sequence[int | None], last_duration: int = 0, zero: int | None = None) -> Timeline:
        """Place frames in time from their timestamps in decoder-output order, in units of the clock's base.

        Where these do not rise strictly they are not to be trusted (AVI with packed B-frames, as UCF101's), and a
        frame's time is its index over the average rate. `zero`: the tick of time 0, unless it is the first one.
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
    """What the packets of a video stream promise before any is decoded.

    timeline: the displayed frames; frames that an edit list hides are left out. is_certain: whether every packet names
    its frame's time. hidden: how many packets are decoded for others' sake only. lost: frames that the file's header
    counts and the file does not hold: it was cut short.
    """

    timeline: Timeline
    is_certain: bool
    hidden: int
    lost: int
    clock: Clock
    durations: Mapping[int, int]

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
        """How many frames the header says there are between two moments, those that were cut off included."""
        end = self.timeline.end
        found = len(self.timeline.inside(interval.start, interval.end or end)) if interval.start < end else 0
        beyond = self.lost
        if interval.end is not None:
            beyond = min(beyond, max(0, math.ceil((interval.end - end) * self.clock.frames_per_second)))
        return found + beyond


def is_increasing(ticks: Sequence[int | None]) -> TypeGuard[Sequence[int]]:
    """Whether timestamps are all known and each is later than the one before."""
    return None not in ticks and all(a < b for a, b in pairwise(ticks))  # type: ignore[operator]


def _exact(name: str, seconds: Seconds | None) -> Fraction | None:
    if seconds is None:
        return None
    try:
        return Fraction(seconds if isinstance(seconds, Fraction) else str(seconds))
    except ValueError as error:
        raise UsageError(f"{name}={seconds}: not a number of seconds") from error
