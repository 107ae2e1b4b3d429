"""Shapes with smooth edges, painted into a window of the scene. Coordinates are in pixels of the plate, x to the right
and y down."""

import colorsys
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Shape = Literal["disc", "square", "star"]
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# How far a shape's outermost point lies from its centre, in radii of the disc of the same area.
_REACH: dict[Shape, float] = {"disc": 1.0, "square": 1.26, "star": 1.42}
SHAPES = tuple(_REACH)


@dataclass(frozen=True)
class Pose:
    """Position of a shape in one frame; ``pivot``: the point that its string hangs from, if it has one."""

    x: float
    y: float
    angle_radians: float
    pivot: tuple[float, float] | None = None


@dataclass
class Canvas:
    """The frame being painted and the plate coordinates of its top left pixel."""

    pixels: Pixels
    left: int = 0
    top: int = 0

    def window(self, x_min: float, x_max: float, y_min: float, y_max: float) -> tuple[Pixels, Floats, Floats] | None:
        """Return the pixels inside a box with their x (1, w) and y (h, 1) coordinates, or None where nothing shows."""
        height, width = self.pixels.shape[:2]
        column_0, column_1 = max(0, math.floor(x_min) - self.left), min(width, math.ceil(x_max) - self.left + 1)
        row_0, row_1 = max(0, math.floor(y_min) - self.top), min(height, math.ceil(y_max) - self.top + 1)
        if column_0 >= column_1 or row_0 >= row_1:
            return None
        x = np.arange(column_0 + self.left, column_1 + self.left, dtype=np.float32)[None, :]
        y = np.arange(row_0 + self.top, row_1 + self.top, dtype=np.float32)[:, None]
        return self.pixels[row_0:row_1, column_0:column_1], x, y


def paint_shape(
    canvas: Canvas, shape: Shape, pose: Pose, radius: float, rgb: Floats, *, edge_pixels: float = 1.4
) -> None:
    """Paint a shape lit from the upper left; ``edge_pixels`` is how wide its edge fades (more looks out of focus)."""
    reach = _REACH[shape] * radius + edge_pixels
    window = canvas.window(pose.x - reach, pose.x + reach, pose.y - reach, pose.y + reach)
    if window is None:
        return
    pixels, x, y = window
    x, y = x - pose.x, y - pose.y
    cosine, sine = math.cos(pose.angle_radians), math.sin(pose.angle_radians)
    distance = shape_distance(shape, x * cosine + y * sine, y * cosine - x * sine, radius)
    light = 1.08 - (0.16 * x + 0.26 * y) / radius
    rim = np.clip(0.72 - distance / (0.22 * radius), 0.72, 1.0)
    blend(pixels, np.clip(0.5 - distance / edge_pixels, 0, 1), rgb * (light * rim)[..., None])


def shape_distance(shape: Shape, x: Floats, y: Floats, radius: float) -> Floats:
    """Return how far points lie outside a shape, in pixels, negative inside.

    The three shapes have about the same area at the same radius, so that size does not tell them apart. A distance,
    unlike a mask, gives smooth edges at any scale.

    Args:
        shape: which shape; each stands upright.
        x: offsets from the centre, broadcastable with ``y``.
        y: offsets from the centre.
        radius: radius of the disc of that area, in pixels.
    """
    if shape == "disc":
        return np.hypot(x, y) - np.float32(radius)
    if shape == "square":
        half = np.float32(0.886 * radius)
        return np.maximum(np.abs(x), np.abs(y)) - half
    return _star_distance(x, y, radius)


def _star_distance(x: Floats, y: Floats, radius: float) -> Floats:
    """Distance to the edge line of a five-pointed star, all ten edges folded onto one by symmetry."""
    outer, inner = 1.42 * radius, 0.72 * radius
    fifth = 2 * math.pi / 5
    # Angle from the nearest tip, in [-36, 36] degrees; the tip at the top has y < 0.
    angle = np.mod(np.arctan2(x, -y) + fifth / 2, fifth) - fifth / 2
    distance = np.hypot(x, y)
    along, across = distance * np.cos(angle), distance * np.abs(np.sin(angle))
    valley = (inner * math.cos(fifth / 2), inner * math.sin(fifth / 2))
    edge = (valley[0] - outer, valley[1])
    length = math.hypot(*edge)
    return (((along - outer) * edge[1] - across * edge[0]) / length).astype(np.float32)


def paint_shadow(canvas: Canvas, pose: Pose, radius: float, ground_y: float) -> None:
    """Darken the ground under a shape, less the higher it is."""
    strength = 0.45 * math.exp(-max(0.0, ground_y - pose.y) / 120)
    reach_x, reach_y = 2.2 * radius, 0.5 * radius
    window = canvas.window(pose.x - reach_x, pose.x + reach_x, ground_y - reach_y, ground_y + reach_y)
    if window is None:
        return
    pixels, x, y = window
    falloff = ((x - pose.x) / reach_x) ** 2 + ((y - ground_y) / reach_y) ** 2
    blend(pixels, strength * np.clip(1 - falloff, 0, 1), np.zeros(3, np.float32))


def paint_rod(canvas: Canvas, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Paint the string of a pendulum, about three pixels wide."""
    (x_0, y_0), (x_1, y_1) = start, end
    window = canvas.window(min(x_0, x_1) - 3, max(x_0, x_1) + 3, min(y_0, y_1) - 3, max(y_0, y_1) + 3)
    if window is None:
        return
    pixels, x, y = window
    length = math.hypot(x_1 - x_0, y_1 - y_0)
    along = np.clip(((x - x_0) * (x_1 - x_0) + (y - y_0) * (y_1 - y_0)) / length**2, 0, 1)
    distance = np.hypot(x - x_0 - along * (x_1 - x_0), y - y_0 - along * (y_1 - y_0))
    blend(pixels, np.clip(2.0 - distance, 0, 1), np.array([52, 46, 44], np.float32))


def paint_ring(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """Paint the metal ring that a cone sits in."""
    paint_shape(canvas, "disc", Pose(x, y, 0.0), radius * 1.04, np.full(3, 175, np.float32))


def paint_cone(canvas: Canvas, x: float, y: float, radius: float, pulse: float) -> None:
    """Paint one cone of a loudspeaker; ``pulse`` in [-1, 1] pushes it in or out."""
    pose = Pose(x, y, 0.0)
    grey = np.ones(3, np.float32)
    paint_shape(canvas, "disc", pose, radius * (0.9 + 0.06 * pulse), (52 + 14 * pulse) * grey)
    paint_shape(canvas, "disc", pose, radius * (0.34 + 0.08 * pulse), (120 + 35 * pulse) * grey)


def blend(pixels: Pixels, alpha: npt.NDArray[np.floating], rgb: npt.NDArray[np.floating]) -> None:
    """Lay a colour over pixels in place: ``alpha`` (h, w) or broadcastable, ``rgb`` (3,) or (h, w, 3)."""
    opacity = alpha[..., None].astype(np.float32)
    mixed = pixels + (rgb - pixels) * opacity
    pixels[...] = np.clip(mixed, 0, 255)


def rgb_of(hue: float, saturation: float, value: float) -> Floats:
    """A colour from hue (in turns, wrapping), saturation and value, scaled to 0..255."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), dtype=np.float32)
