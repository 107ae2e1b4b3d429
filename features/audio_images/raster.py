"""Drawing arrays straight into RGB pixels: filled envelope, anti-aliased curve, colour-mapped matrix.

All images are uint8 (H, W, 3). Time runs left to right over the full width, so column c shows the c-th of W equal
pieces of the clip whatever is drawn.
"""

from functools import cache

import matplotlib
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Array = NDArray[np.floating]

ENVELOPE_RGB = (31, 119, 180)
CURVE_RGB = (255, 0, 0)
_CURVE_HALF_WIDTH_PIXELS = 0.75


def draw_envelope(samples: Array, size: tuple[int, int], alpha: float = 1.0) -> Image:
    """The +-max envelope of a signal, filled, on white, scaled to its largest peak. `size` is (H, W)."""
    height, width = size
    peaks = _column_peaks(np.abs(samples), width)
    loudest = peaks.max()
    half = peaks / loudest * (height / 2) if loudest > 0 else np.zeros(width)
    half = np.maximum(half, 0.5)  # silence is a thin line, not an empty page
    coverage = _vertical_coverage(height / 2 - half, height / 2 + half, height)
    page = np.full((height, width, 3), 255.0)
    return _to_pixels(_blend(page, coverage * alpha, ENVELOPE_RGB))


def draw_curve(values: Array, over: Image) -> Image:
    """A red line over an image: `values` (T,) spread over the full width, their minimum at the bottom, their maximum at
    the top. A constant curve lies at the bottom."""
    height, width = over.shape[:2]
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros(len(values))
    margin = _CURVE_HALF_WIDTH_PIXELS
    edges = np.linspace(0, len(values) - 1, width + 1)
    y = (height - margin) - np.interp(edges, np.arange(len(values)), scaled) * (height - 2 * margin)
    top, bottom = np.minimum(y[:-1], y[1:]), np.maximum(y[:-1], y[1:])
    if len(values) > width:  # a column spans several values: keep the peaks between its edges
        exact = (height - margin) - scaled * (height - 2 * margin)
        column = np.minimum((np.arange(len(values)) * width) // len(values), width - 1)
        np.minimum.at(top, column, exact)
        np.maximum.at(bottom, column, exact)
    coverage = _vertical_coverage(top - margin, bottom + margin, height)
    return _to_pixels(_blend(over.astype(np.float64), coverage, CURVE_RGB))


def draw_matrix(matrix: Array, size: tuple[int, int], colour_map: str) -> Image:
    """A matrix (rows, T) as coloured cells, row 0 at the bottom, colours over the matrix's own range."""
    height, width = size
    rows, columns = matrix.shape
    low, high = float(matrix.min()), float(matrix.max())
    scaled = (matrix - low) / (high - low) if high > low else np.zeros_like(matrix)
    shades = np.minimum((scaled * 256).astype(np.int64), 255)
    row = rows - 1 - (2 * np.arange(height) + 1) * rows // (2 * height)
    column = (2 * np.arange(width) + 1) * columns // (2 * width)
    return _colours(colour_map)[shades[np.ix_(row, column)]]


@cache
def _colours(name: str) -> Image:
    """(256, 3) uint8 lookup table of a matplotlib colour map."""
    return (matplotlib.colormaps[name](np.arange(256), bytes=True))[:, :3]


def _column_peaks(values: Array, width: int) -> NDArray[np.float64]:
    """Maximum of each of `width` equal pieces; a piece shorter than one sample takes the sample it lies in."""
    starts = np.arange(width) * len(values) // width
    return np.maximum.reduceat(values, starts).astype(np.float64)


def _vertical_coverage(top: NDArray[np.float64], bottom: NDArray[np.float64], height: int) -> NDArray[np.float64]:
    """(H, W) share of each pixel that lies between `top` and `bottom` (W,), which count rows from the image's top."""
    rows = np.arange(height)[:, None]
    return np.clip(np.minimum(bottom, rows + 1) - np.maximum(top, rows), 0, 1)


def _blend(
    page: NDArray[np.float64], opacity: NDArray[np.float64], colour: tuple[int, int, int]
) -> NDArray[np.float64]:
    return page + opacity[..., None] * (np.array(colour, dtype=np.float64) - page)


def _to_pixels(page: NDArray[np.float64]) -> Image:
    return np.rint(page).astype(np.uint8)
