"""A plain sequential decode, and the rules of sampling written out: what reading is held against."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np


class Plain:
    """A file decoded from start to end, nothing else: exact times since the first frame, and where that lies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = list(container.decode(stream))
            ticks = [frame.pts for frame in frames]
            self.is_increasing = None not in ticks and all(a < b for a, b in pairwise(ticks))
            if self.is_increasing:
                self.times = [(tick - ticks[0]) * stream.time_base for tick in ticks]
                last = frames[-1].duration * stream.time_base or 1 / stream.average_rate
            else:
                self.times = [rank / stream.average_rate for rank in range(len(ticks))]
                last = 1 / stream.average_rate
            is_avi = container.format.name == "avi"
            self.origin = Fraction(0) if is_avi else ticks[0] * stream.time_base
            self.end = self.times[-1] + last

    def pixels(self, ranks: set[int]) -> dict[int, np.ndarray]:
        with av.open(str(self._path)) as container:
            return {
                rank: np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                for rank, frame in enumerate(container.decode(video=0))
                if rank in ranks
            }

    def inside(self, start: Fraction, end: Fraction) -> list[int]:
        return [rank for rank, time in enumerate(self.times) if start <= time < end]

    def shown_at(self, time: Fraction) -> int:
        return max(rank for rank, start in enumerate(self.times) if start <= time)


def expected(plain: Plain, scheme: str, start: Fraction, end: Fraction) -> list[int]:
    """The rule of each scheme, written out."""
    inside = plain.inside(start, end)
    n = len(inside)
    kind, _, rest = scheme.partition(":")
    if kind == "rate":
        times = [start + k / Fraction(rest) for k in range(1000) if start + k / Fraction(rest) < end]
        return [plain.shown_at(time) for time in times]
    numbers, _, window = rest.partition("@")
    k, big_k = (int(part) for part in window.split("/")) if window else (1, 1)
    if kind == "uniform":
        count = int(numbers)
        part = inside[(k - 1) * n // big_k : k * n // big_k]
        return [part[int(Fraction(len(part), 2 * count) + i * Fraction(len(part), count))] for i in range(count)]
    count, stride = (int(part) for part in numbers.split("x"))
    places = max(n - (count - 1) * stride, 1)
    first = int(Fraction(places, 2 * big_k) + (k - 1) * Fraction(places, big_k))
    return [inside[min(first + i * stride, n - 1)] for i in range(count)]


def click_seconds(samples: np.ndarray, rate_hz: int) -> float:
    """The onset of the loud burst."""
    return float(np.argmax(np.abs(samples) > 0.45)) / rate_hz


def plain_sound(path: Path) -> tuple[np.ndarray, int, Fraction]:
    """Mean of channels of all samples in a row, their rate, and where the first lies on the container's clock."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        start = frames[0].pts * frames[0].time_base
        pieces = []
        for frame in frames:
            samples = frame.to_ndarray().astype(np.float64)
            if np.issubdtype(frame.to_ndarray().dtype, np.integer):
                samples /= 2.0 ** (8 * frame.to_ndarray().dtype.itemsize - 1)
            if not frame.format.is_planar:
                samples = samples.reshape(-1, frame.layout.nb_channels).T
            pieces.append(samples.mean(axis=0))
        return np.concatenate(pieces), stream.rate, start
