"""Layout of audio images in the two styles."""

from collections.abc import Callable
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from avfuse.features.audio_images.raster import (
    BLUE,
    RED,
    WHITE,
    Array,
    Image,
    Opacity,
    Strip,
    colour_cells,
    paint,
    widen,
)
from avfuse.features.audio_images.spectral import HOP_SAMPLES, Padding, SpectralFeatures

Style = Literal["aligned", "paper"]
STYLES: tuple[Style, ...] = get_args(Style)
DEFAULT_SIZES: dict[Style, tuple[int, int]] = {"aligned": (224, 224), "paper": (360, 360)}
"""(height, width) in pixels."""

Size = tuple[int, int]
_FAINT = 0.4
"""Opacity of the envelope behind a curve."""


class Aligned:
    """Full-bleed images, in which a column of pixels is the same interval of the clip in all images.

    Envelope: the largest sample of each column's interval, scaled to the clip's peak. Curve: at the frames' own times,
    from its minimum at the bottom to its maximum at the top; a constant one lies at the bottom. Matrix: each pixel
    shows the frame nearest in time.
    """

    padding: Padding = "constant"
    _PEN_RADIUS = 0.75
    _PARTS = 4

    def __init__(self, features: SpectralFeatures, size: Size) -> None:
        self._features = features
        self._size = size

    def waveplot(self) -> Image:
        return paint(self._envelope, BLUE)

    def curve(self, values: Array) -> Image:
        height, width = self._size
        strip = Strip(0, width, self._PARTS)
        samples = len(self._features.samples)
        x = np.arange(len(values)) * (HOP_SAMPLES * width / samples)
        x, values = np.append(x, max(width, x[-1])), np.append(values, values[-1])
        room = height - 2 * self._PEN_RADIUS
        y = height - self._PEN_RADIUS - room * _unit_range(values)
        top, bottom = widen(*strip.extremes(x, y), self._PEN_RADIUS, self._PARTS)
        return paint(strip.cover(self._size, (top, bottom)), RED, self._faint)

    def matrix(self, values: Array, colour_map: str) -> Image:
        height, width = self._size
        centres = (np.arange(width) + 0.5) * (len(self._features.samples) / width)
        columns = np.minimum((centres / HOP_SAMPLES + 0.5).astype(np.int64), values.shape[1] - 1)
        rows = len(values) - 1 - _cells(0, height, height, len(values))
        return colour_cells(values, rows, columns, colour_map)

    @cached_property
    def _envelope(self) -> Opacity:
        height, width = self._size
        starts = np.arange(width) * len(self._features.samples) // width
        peaks = np.maximum.reduceat(np.abs(self._features.samples), starts).astype(np.float64)
        loudest = peaks.max()
        half = peaks * (height / 2 / loudest) if loudest > 0 else peaks
        half = np.maximum(half, 0.5)  # silence is a thin line, not an empty page
        return Strip(0, width, 1).cover(self._size, (height / 2 - half, height / 2 + half))

    @cached_property
    def _faint(self) -> Image:
        return paint(_FAINT * self._envelope, BLUE)


class Paper:
    """The published images: the reference tool's matplotlib calls on a figure five inches high.

    The plot lies inside matplotlib's default margins. Envelope: the largest sample of every millisecond (of a clip up
    to 50 000 samples, every sample), outlined. Curve: at frame times that assume 22 050 Hz whatever the rate, cut off
    where the clip ends. Matrix: frames side by side, all of one width.
    """

    padding: Padding = "reflect"
    _FIGURE_INCHES = 5
    _LEFT, _RIGHT, _BOTTOM, _TOP = 0.125, 0.9, 0.11, 0.88
    _MARGIN = 0.05
    _POINTS_PER_INCH = 72
    _OUTLINE_POINTS, _CURVE_POINTS = 1.0, 1.5
    _MAX_SAMPLES, _BINS_PER_SECOND = 50_000, 1000
    _ASSUMED_RATE_HZ = 22_050
    _FILL_SHIFT = 0.5  # matplotlib's Agg draws filled shapes half a pixel further right and down than lines
    _PARTS = 8

    def __init__(self, features: SpectralFeatures, size: Size) -> None:
        self._features = features
        self._size = size

    def waveplot(self) -> Image:
        peak: float = self._peaks.max()  # type: ignore[assignment]  # a float32: the curves are computed in it
        return paint(self._envelope(-peak, peak, opacity=1), BLUE)

    def curve(self, values: Array) -> Image:
        seconds = np.arange(len(values)) * HOP_SAMPLES / self._ASSUMED_RATE_HZ
        y = self._y(_unit_range(values), *self._curve_range)
        radius = self._pixels(self._CURVE_POINTS) / 2
        top, bottom = widen(*self._strip.extremes(self._x(seconds), y), radius, self._PARTS)
        return paint(self._strip.cover(self._size, (top, bottom)), RED, self._faint)

    def matrix(self, values: Array, colour_map: str) -> Image:
        height, width = self._size
        top, bottom = (1 - self._TOP) * height, (1 - self._BOTTOM) * height
        rows = _cells(top, bottom, height, len(values))
        columns = _cells(self._LEFT * width, self._RIGHT * width, width, values.shape[1])
        page = np.full((height, width, 3), WHITE, dtype=np.uint8)
        inside = slice(*_ends(rows)), slice(*_ends(columns))
        page[inside] = colour_cells(values, len(values) - 1 - rows[inside[0]], columns[inside[1]], colour_map)
        return page

    @property
    def _curve_range(self) -> tuple[float, float]:
        """Least and greatest value of the plot: of the envelope, and of the curve from 0 to 1."""
        peak = float(self._peaks.max())
        return -peak, max(peak, 1.0)

    @cached_property
    def _faint(self) -> Image:
        return paint(self._envelope(*self._curve_range, opacity=_FAINT), BLUE)

    def _envelope(self, low: float, high: float, opacity: float) -> Opacity:
        """Filled and then outlined in one colour, which shows twice where a transparent fill and outline overlap."""
        x = self._x(np.arange(len(self._peaks)) * (self._hop / self._features.rate_hz)) + self._FILL_SHIFT
        zero = float(self._y(np.zeros(1), low, high)[0]) + self._FILL_SHIFT
        upper = self._y(self._peaks, low, high) + self._FILL_SHIFT
        least, greatest = self._strip.extremes(x, upper)
        middle = np.interp((self._strip.edges[:-1] + self._strip.edges[1:]) / 2, x, upper)
        filled = self._strip.cover(self._size, (middle, 2 * zero - middle))
        top, bottom = widen(least, greatest, self._pixels(self._OUTLINE_POINTS) / 2, self._PARTS)
        bottom = np.minimum(bottom, zero)  # below it the lower outline begins, its mirror image
        outlined = self._strip.cover(self._size, (top, bottom), (2 * zero - bottom, 2 * zero - top))
        return 1 - (1 - opacity * filled) * (1 - opacity * outlined)

    @cached_property
    def _hop(self) -> int:
        """Samples per point of the envelope."""
        few = len(self._features.samples) <= self._MAX_SAMPLES
        return 1 if few else max(1, self._features.rate_hz // self._BINS_PER_SECOND)

    @cached_property
    def _peaks(self) -> Array:
        samples = np.abs(self._features.samples)
        whole = len(samples) // self._hop * self._hop
        return samples[:whole].reshape(-1, self._hop).max(axis=1)

    @property
    def _strip(self) -> Strip:
        return Strip(round(self._LEFT * self._size[1]), round(self._RIGHT * self._size[1]), self._PARTS)

    def _x(self, seconds: Array) -> Array:
        """Convert seconds to pixels; the plot ends with the envelope's last point."""
        left, right = self._LEFT * self._size[1], self._RIGHT * self._size[1]
        end = (len(self._peaks) - 1) * self._hop / self._features.rate_hz
        if end == 0:  # a single sample: a dot in the middle
            return np.full(len(seconds), (left + right) / 2)
        return left + (right - left) * seconds / end

    def _y(self, values: Array, low: float, high: float) -> Array:
        top, bottom = (1 - self._TOP) * self._size[0], (1 - self._BOTTOM) * self._size[0]
        if high == low:
            return np.full(len(values), (top + bottom) / 2)
        margin = self._MARGIN * (high - low)
        return bottom - (bottom - top) * (values - (low - margin)) / (high - low + 2 * margin)

    def _pixels(self, points: float) -> float:
        return points / self._POINTS_PER_INCH * self._size[0] / self._FIGURE_INCHES


DRAWINGS: dict[Style, Callable[[SpectralFeatures, Size], Aligned | Paper]] = {"aligned": Aligned, "paper": Paper}
PADDINGS: dict[Style, Padding] = {"aligned": Aligned.padding, "paper": Paper.padding}


def _unit_range(values: Array) -> Array:
    """Scale the minimum to 0 and the maximum to 1; a constant to 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros(len(values))


def _cells(first: float, last: float, pixels: int, cells: int) -> NDArray[np.int64]:
    """(pixels,), index of the cell around each pixel's centre, of `cells` equal ones between two positions; -1 outside.

    A centre on a border belongs to the cell before it, as in Agg.
    """
    centres = np.arange(pixels) + 0.5
    cell = np.ceil((centres - first) * cells / (last - first)).astype(np.int64) - 1
    return np.where((centres > first) & (centres <= last), cell, -1)


def _ends(cells: NDArray[np.int64]) -> tuple[int, int]:
    """Start and end of the pixels that lie in a cell."""
    (inside,) = np.nonzero(cells >= 0)
    return int(inside[0]), int(inside[-1]) + 1
