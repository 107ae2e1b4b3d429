"""Rasterisation of arrays to RGB pixels: filled envelopes, anti-aliased curves, colour-mapped matrices.

Images are uint8 (H, W, 3). Distances are in pixels from the top left corner. A line is described by the rows that it
covers in each sub-column of a `Strip`, several per pixel, which makes its edges smooth.
"""

from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Array = NDArray[np.floating]
Opacity = NDArray[np.float32]
"""(H, W) from 0 to 1."""

WHITE, BLUE, RED = (255, 255, 255), (31, 119, 180), (255, 0, 0)


@dataclass(frozen=True)
class Strip:
    """Columns of an image from `left` to `right`, each divided into `parts` sub-columns."""

    left: int
    right: int
    parts: int

    @property
    def edges(self) -> NDArray[np.float64]:
        """(columns * parts + 1,), borders of the sub-columns."""
        return np.linspace(self.left, self.right, (self.right - self.left) * self.parts + 1)

    def extremes(self, x: Array, y: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and greatest y of a polyline with rising x in each sub-column; NaN where it does not reach."""
        edges = self.edges
        at_edges = np.interp(edges, x, y, left=np.nan, right=np.nan)
        least, greatest = np.fmin(at_edges[:-1], at_edges[1:]), np.fmax(at_edges[:-1], at_edges[1:])
        part = np.floor((x - self.left) * self.parts).astype(np.int64)
        inside = (part >= 0) & (part < len(least))
        np.fmin.at(least, part[inside], y[inside].astype(np.float64))
        np.fmax.at(greatest, part[inside], y[inside].astype(np.float64))
        return least, greatest

    def cover(self, size: tuple[int, int], *spans: tuple[Array, Array]) -> Opacity:
        """Share of each pixel that lies in one of the spans, which do not overlap: (H, W), from 0 to 1.

        size: (H, W) of the image. spans: a top and a bottom row per sub-column, NaN for none.
        """
        height, width = size
        # Each boundary adds to the column below it: what it leaves of its own pixel, then the rest of a whole one.
        steps = np.zeros((height + 2, width), dtype=np.float32)
        column = self.left + np.arange((self.right - self.left) * self.parts) // self.parts
        for top, bottom in spans:
            there = ~(np.isnan(top) | np.isnan(bottom))
            for boundary, share in ((top, 1 / self.parts), (bottom, -1 / self.parts)):
                rows = np.clip(boundary[there], 0, height)
                whole = rows.astype(np.int64)
                place = whole * width + column[there]
                rest = (share * (rows - whole)).astype(np.float32)
                np.add.at(steps.ravel(), place, np.float32(share) - rest)
                np.add.at(steps.ravel(), place + width, rest)
        for row in range(1, height):  # np.cumsum over rows takes three times as long
            steps[row] += steps[row - 1]
        return np.clip(steps[:height], 0, 1)


def widen(least: Array, greatest: Array, radius: float, parts: int) -> tuple[Array, Array]:
    """Rows that a round pen covers along a line, from the line's extremes in each sub-column.

    The line is the graph of a function, so that the rows in a sub-column have no holes.
    """
    top, bottom = np.full_like(least, np.nan), np.full_like(greatest, np.nan)
    reach = int(radius * parts)
    for step in range(-reach, reach + 1):
        rise = np.sqrt(radius**2 - (step / parts) ** 2)
        here, there = (slice(max(step, 0), len(top) + min(step, 0)), slice(max(-step, 0), len(top) - max(step, 0)))
        top[here] = np.fmin(top[here], least[there] - rise)
        bottom[here] = np.fmax(bottom[here], greatest[there] + rise)
    return top, bottom


def paint(opacity: Opacity, colour: tuple[int, int, int], page: Image | None = None) -> Image:
    """Paint one colour over a page, by default a white one."""
    if page is None:
        return np.take(_shades(colour), np.rint(opacity * 255).astype(np.uint8), axis=0)
    painted = page.copy()
    pixels = painted.reshape(-1, 3)
    (touched,) = np.nonzero(opacity.ravel())
    below = pixels[touched].astype(np.float32)
    pixels[touched] = np.rint(below + opacity.ravel()[touched, None] * (np.array(colour, np.float32) - below))
    return painted


def colour_cells(matrix: Array, rows: NDArray[np.int64], columns: NDArray[np.int64], colour_map: str) -> Image:
    """Paint pixel (r, c) in the colour of matrix[rows[r], columns[c]], over the matrix's own range."""
    low, high = matrix.min(), matrix.max()
    scaled = (matrix[:, columns] - low) / (high - low) if high > low else np.zeros((len(matrix), len(columns)))
    level = np.minimum((scaled * 256).astype(np.int64), 255)
    return np.take(np.take(_colours(colour_map), level, axis=0), rows, axis=0)


@cache
def _colours(name: str) -> Image:
    """(256, 3) uint8 lookup table of a matplotlib colour map."""
    return (matplotlib.colormaps[name](np.arange(256), bytes=True))[:, :3]


@cache
def _shades(colour: tuple[int, int, int]) -> Image:
    """(256, 3) from white to a colour."""
    share = np.linspace(0, 1, 256)[:, None]
    return np.rint((1 - share) * np.array(WHITE) + share * np.array(colour)).astype(np.uint8)
