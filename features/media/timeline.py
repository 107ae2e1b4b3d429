"""When each displayed frame starts, in exact fractions of a second."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
from numpy.typing import NDArray

from features.media.sampling import uniform_indices

_FALLBACK_RATE = Fraction(25)


@dataclass(frozen=True)
class Timeline:
    """Start times of the displayed frames, seconds since the first of them.

    `origin` is that first frame's place on the container's clock; `end` is the last frame's start plus its duration.
    """

    starts: tuple[Fraction, ...]
    origin: Fraction
    end: Fraction

    def uniform(self, wanted: int, start: float | None, end: float | None) -> NDArray[np.int64]:
        """Indices of `wanted` frames spread over those with start <= time < end.

        An interval between two frames gives the one on display then. Needs at least one frame.
        """
        first = Fraction(start) if start is not None else Fraction(0)
        last = Fraction(end) if end is not None else self.end
        inside = [index for index, time in enumerate(self.starts) if first <= time < last]
        if not inside:
            inside = [max((i for i, time in enumerate(self.starts) if time <= first), default=0)]
        return np.asarray(inside, dtype=np.int64)[uniform_indices(len(inside), wanted)]


@dataclass(frozen=True)
class Clock:
    """What turns a stream's timestamps into seconds: its time base, average rate and start."""

    base: Fraction
    frames_per_second: Fraction
    start: int

    @classmethod
    def of(cls, stream: av.video.stream.VideoStream) -> "Clock":
        rate = stream.average_rate or stream.guessed_rate or _FALLBACK_RATE
        return cls(base=stream.time_base or 1 / rate, frames_per_second=rate, start=stream.start_time or 0)


def timeline(ticks: Sequence[int | None], clock: Clock) -> Timeline:
    """Place frames in time from their timestamps in decoder-output order.

    Where these do not rise strictly they are not to be trusted (AVI with packed B-frames, as UCF101's), and a frame's
    time is its index over the average rate. `ticks` are in units of the clock's base.
    """
    known = [tick for tick in ticks if tick is not None]
    if len(known) == len(ticks) and all(a < b for a, b in pairwise(known)):
        starts = tuple((tick - known[0]) * clock.base for tick in known)
        origin = known[0] * clock.base if known else Fraction(0)
    else:
        starts = tuple(index / clock.frames_per_second for index in range(len(ticks)))
        origin = clock.start * clock.base
    end = starts[-1] + 1 / clock.frames_per_second if starts else Fraction(0)
    return Timeline(starts=starts, origin=origin, end=end)


@dataclass(frozen=True)
class Promise:
    """What a video stream promises before it is decoded: its timeline, and how many frames that should have been, more
    than the timeline has where the file was cut short of what its header says."""

    timeline: Timeline
    frames: int
    clock: Clock


def promised_timeline(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Promise:
    """The timeline that the packets promise, without decoding them. Frames that an edit list hides are left out."""
    packets = [packet for packet in container.demux(stream) if packet.size]
    ticks = [packet.pts if packet.pts is not None else packet.dts for packet in packets if not packet.is_discard]
    known = sorted(tick for tick in ticks if tick is not None)
    clock = Clock.of(stream)
    promised = timeline(known if len(known) == len(ticks) else ticks, clock)
    # AVI's header counts the packets. An MP4's count includes those an edit list leaves out, but its index does not;
    # other containers' indices hold key frames only, and promise nothing.
    claimed = stream.frames if container.format.name == "avi" else len(stream.index_entries)
    lost = max(0, claimed - len(packets))
    return Promise(promised, len(ticks) + lost, clock)
