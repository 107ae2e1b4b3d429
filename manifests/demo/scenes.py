"""Draw the demo's pictures: shaded shapes that move through a cluttered, noisy and slightly shaky scene.

A picture is built as a camera would see it. A *plate* (the still background with its clutter) is drawn once per clip;
every frame cuts a window from it, paints the few pixels that move, and then exposes the whole: brightness, noise.
Coordinates are in pixels of the plate, x to the right and y down.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from avfuse.manifests.demo.camera import (
    FRAMES_PER_SECOND,
    HEIGHT_PIXELS,
    MARGIN_PIXELS,
    PLATE_HEIGHT,
    PLATE_WIDTH,
    WIDTH_PIXELS,
    film,
    wander,
)
from avfuse.manifests.demo.canvas import (
    SHAPES,
    Canvas,
    Floats,
    Pixels,
    Pose,
    Shape,
    blend,
    paint_cone,
    paint_ring,
    paint_rod,
    paint_shadow,
    paint_shape,
    rgb_of,
)

Motion = Literal["bounce", "swing", "spin"]

_WAVE_LAYERS = 5


@dataclass(frozen=True)
class Subject:
    """Picture of a seen class: one shape, one motion, over plain ground or over the sea."""

    shape: Shape
    motion: Motion
    at_sea: bool = False


@dataclass(frozen=True)
class Look:
    """Appearance that the pictures of one group share.

    Attributes:
        plate: the still background, (H + 2 margins, W + 2 margins, 3).
        object_rgb: colour of whatever moves, (3,), 0 to 255.
        ground_rgb: colour of the ground, (3,), 0 to 255.
        sea_rgb: colour of the sea, should there be one, (3,), 0 to 255.
        radius_pixels: size of whatever moves.
        horizon_y: row where the ground begins.
        noise_sigma: standard deviation of the sensor's noise, in grey levels.
        cones: how many cones a loudspeaker of this group has.
    """

    plate: Pixels
    object_rgb: Floats
    ground_rgb: Floats
    sea_rgb: Floats
    radius_pixels: float
    horizon_y: float
    noise_sigma: float
    cones: int


def subject_frames(
    subject: Subject, group_rng: np.random.Generator, clip_rng: np.random.Generator, frame_count: int
) -> Iterator[Pixels]:
    """Yield the frames of a seen class, uint8 (240, 320, 3).

    Args:
        subject: what is shown.
        group_rng: decides the look, alike for all clips of a group.
        clip_rng: decides motion, camera, light and noise.
        frame_count: how many frames to yield.
    """
    look = draw_look(group_rng)
    ground_y = float(clip_rng.uniform(look.horizon_y + 15, PLATE_HEIGHT - MARGIN_PIXELS - 12))
    poses = draw_poses(subject.motion, ground_y, look.radius_pixels, clip_rng, frame_count)
    waves = draw_waves(look, clip_rng) if subject.at_sea else []

    def paint(canvas: Canvas, index: int) -> None:
        pose = poses[index]
        for wave in waves:
            wave.paint(canvas, index)
        if not waves:
            paint_shadow(canvas, pose, look.radius_pixels, ground_y)
        if pose.pivot is not None:
            paint_rod(canvas, pose.pivot, (pose.x, pose.y))
        paint_shape(canvas, subject.shape, pose, look.radius_pixels, look.object_rgb)

    return film(look.plate, look.noise_sigma, clip_rng, frame_count, paint)


def performer_frames(
    group_rng: np.random.Generator, clip_rng: np.random.Generator, frame_count: int
) -> Iterator[Pixels]:
    """Yield frames of a loudspeaker whose cones pulse at random, uint8 (240, 320, 3).

    The picture of every heard class. It takes no class, so it cannot tell one; nor does it know the sound.

    Args:
        group_rng: decides the look, alike for all clips of a group.
        clip_rng: decides position, pulse, camera, light and noise.
        frame_count: how many frames to yield.
    """
    look = draw_look(group_rng)
    center_x = float(clip_rng.uniform(0.35, 0.65) * PLATE_WIDTH)
    center_y = float(clip_rng.uniform(0.45, 0.58) * PLATE_HEIGHT)
    pulses = [wander(clip_rng, frame_count, steps_per_second=6.0) for _ in range(look.cones)]
    plate = look.plate.copy()
    paint_cabinet(Canvas(plate), look, center_x, center_y)
    places = _cone_places(look)
    for offset_y, radius in places:
        paint_ring(Canvas(plate), center_x, center_y + offset_y, radius)

    def paint(canvas: Canvas, index: int) -> None:
        for (offset_y, radius), pulse in zip(places, pulses, strict=True):
            paint_cone(canvas, center_x, center_y + offset_y, radius, float(pulse[index]))

    return film(plate, look.noise_sigma, clip_rng, frame_count, paint)


def draw_look(rng: np.random.Generator) -> Look:
    """Draw what the clips of one group share: colours, texture, clutter, size and noise."""
    sky_hue, ground_hue = rng.uniform(0, 1, 2)
    sky_value, ground_value = rng.uniform(0.45, 0.9), rng.uniform(0.25, 0.75)
    sky = rgb_of(sky_hue, rng.uniform(0.1, 0.45), sky_value)
    ground = rgb_of(ground_hue, rng.uniform(0.1, 0.5), ground_value)
    horizon_y = float(rng.uniform(0.5, 0.72) * PLATE_HEIGHT)
    plate = _backdrop(rng, sky, ground, horizon_y)
    _scatter_clutter(Canvas(plate), rng)
    return Look(
        plate=plate,
        # Far from the sky's hue, so that the subject can be told from what is behind it most of the time.
        object_rgb=rgb_of(sky_hue + rng.uniform(0.2, 0.8), rng.uniform(0.55, 0.95), rng.uniform(0.55, 0.95)),
        ground_rgb=ground,
        sea_rgb=rgb_of(rng.uniform(0.5, 0.64), rng.uniform(0.35, 0.75), rng.uniform(0.4, 0.75)),
        radius_pixels=float(rng.uniform(17, 35)),
        horizon_y=horizon_y,
        noise_sigma=float(rng.uniform(2.0, 7.5)),
        cones=int(rng.integers(1, 4)),
    )


def draw_poses(
    motion: Motion, ground_y: float, radius: float, rng: np.random.Generator, frame_count: int
) -> list[Pose]:
    """Draw one motion's path: a list of ``frame_count`` poses in plate coordinates."""
    seconds = np.arange(frame_count) / FRAMES_PER_SECOND
    if motion == "bounce":
        return _bounce(ground_y - radius, rng, seconds)
    if motion == "swing":
        return _swing(rng, seconds)
    return _spin(rng, seconds)


def _bounce(lowest_y: float, rng: np.random.Generator, seconds: npt.NDArray[np.float64]) -> list[Pose]:
    """Fall and rise along parabolas while drifting sideways and rocking a little."""
    height = rng.uniform(55, 120)
    flight = np.mod(seconds / rng.uniform(0.55, 1.1) + rng.uniform(), 1.0)
    y = lowest_y - height * 4 * flight * (1 - flight)
    x = PLATE_WIDTH * rng.uniform(0.35, 0.65) + rng.uniform(10, 80) * _sine(rng, seconds, 2.0, 5.0)
    angle = rng.uniform(-0.15, 0.15) + rng.uniform(0, 0.15) * _sine(rng, seconds, 0.8, 2.0)
    return [Pose(*pose) for pose in zip(x.tolist(), y.tolist(), angle.tolist(), strict=True)]


def _swing(rng: np.random.Generator, seconds: npt.NDArray[np.float64]) -> list[Pose]:
    """Swing on a string from a pivot near the top."""
    pivot = (float(PLATE_WIDTH * rng.uniform(0.38, 0.62)), float(rng.uniform(10, 60)))
    length = rng.uniform(80, 150)
    swing = rng.uniform(0.45, 0.95) * _sine(rng, seconds, 1.1, 2.2)
    x, y = pivot[0] + length * np.sin(swing), pivot[1] + length * np.cos(swing)
    return [Pose(*pose, pivot) for pose in zip(x.tolist(), y.tolist(), (-swing).tolist(), strict=True)]


def _spin(rng: np.random.Generator, seconds: npt.NDArray[np.float64]) -> list[Pose]:
    """Turn about the own centre; half of the clips also circle about a point."""
    turns = rng.choice([-1.0, 1.0]) * seconds * rng.uniform(0.4, 1.1) + rng.uniform()
    orbit = rng.uniform(25, 60) if rng.uniform() < 0.5 else 0.0
    circle = 2 * np.pi * (seconds / rng.uniform(1.5, 3.5) + rng.uniform())
    x = PLATE_WIDTH * rng.uniform(0.35, 0.65) + orbit * np.cos(circle)
    y = PLATE_HEIGHT * rng.uniform(0.4, 0.6) + orbit * 0.7 * np.sin(circle)
    return [Pose(*pose) for pose in zip(x.tolist(), y.tolist(), (2 * np.pi * turns).tolist(), strict=True)]


def _cone_places(look: Look) -> list[tuple[float, float]]:
    """Offset down from the cabinet's centre and radius of each cone, in pixels."""
    radius = 0.75 * look.radius_pixels + 12
    if look.cones == 1:
        return [(0.0, 1.3 * radius)]
    if look.cones == 2:
        return [(-1.05 * radius, 0.6 * radius), (0.75 * radius, radius)]
    return [(-1.75 * radius, 0.45 * radius), (-0.5 * radius, 0.65 * radius), (1.15 * radius, 0.9 * radius)]


def paint_cabinet(canvas: Canvas, look: Look, center_x: float, center_y: float) -> None:
    """Paint the loudspeaker's box around its cones, with rounded corners and a soft shadow."""
    places = _cone_places(look)
    half_width = 1.3 * max(radius for _, radius in places)
    top = min(offset - 1.25 * radius for offset, radius in places)
    bottom = max(offset + 1.25 * radius for offset, radius in places)
    center_y, half_height = center_y + (top + bottom) / 2, (bottom - top) / 2
    window = canvas.window(
        center_x - half_width - 16, center_x + half_width + 16, center_y - half_height - 16, center_y + half_height + 16
    )
    if window is None:
        return
    pixels, x, y = window
    corner = 7.0
    beyond_x = np.maximum(np.abs(x - center_x) - half_width + corner, 0)
    beyond_y = np.maximum(np.abs(y - center_y) - half_height + corner, 0)
    distance = np.hypot(beyond_x, beyond_y) - corner
    blend(pixels, 0.4 * np.clip(1 - distance / 14, 0, 1), np.zeros(3, np.float32))
    light = 0.8 - 0.22 * (y - center_y) / half_height - 0.08 * (x - center_x) / half_width
    blend(pixels, np.clip(0.5 - distance / 1.4, 0, 1), look.object_rgb * light[..., None])


@dataclass(frozen=True)
class Wave:
    """One layer of the sea: a tile that repeats sideways, scrolls, and bobs.

    Attributes:
        rgb: colours, (h, period + W, 3).
        alpha: opacity, (h, period + W).
        top: plate row of the tile's first row.
        period: pixels after which the tile repeats.
        speed: pixels per frame, to either side.
        bob_phase: where in its up and down the layer starts, in radians.
    """

    rgb: Floats
    alpha: Floats
    top: float
    period: int
    speed: float
    bob_phase: float

    def paint(self, canvas: Canvas, index: int) -> None:
        """Paint the layer as it stands in frame ``index``, across the whole width."""
        row = round(self.top + 2.0 * math.sin(0.16 * index + self.bob_phase)) - canvas.top
        start = int(self.speed * index + canvas.left) % self.period
        first, last = max(row, 0), min(row + self.rgb.shape[0], HEIGHT_PIXELS)
        if first >= last:
            return
        rows, columns = slice(first - row, last - row), slice(start, start + WIDTH_PIXELS)
        blend(canvas.pixels[first:last], self.alpha[rows, columns], self.rgb[rows, columns])


def draw_waves(look: Look, rng: np.random.Generator) -> list[Wave]:
    """Draw the layers of the sea from the horizon to the viewer, nearer ones larger, brighter and faster."""
    depth = (PLATE_HEIGHT - look.horizon_y) / _WAVE_LAYERS
    return [_draw_wave(look, rng, layer, look.horizon_y + layer * depth, depth) for layer in range(_WAVE_LAYERS)]


def _draw_wave(look: Look, rng: np.random.Generator, layer: int, crest_y: float, depth: float) -> Wave:
    nearness = (layer + 1) / _WAVE_LAYERS
    period = int(rng.uniform(45, 70) * (0.6 + nearness))
    amplitude = 2.0 + 4.5 * nearness
    # Deep enough that the next layer's lowest trough still covers this layer's end.
    height = round(depth + 4 * amplitude + 8)
    x = np.arange(period + WIDTH_PIXELS, dtype=np.float32)[None, :] * np.float32(2 * np.pi / period)
    y = np.arange(height, dtype=np.float32)[:, None]
    crest = amplitude * (1 - np.sin(x) - 0.3 * np.sin(2 * x + np.float32(rng.uniform(0, 6))))
    below = y - crest
    foam = 0.6 * np.exp(-0.5 * np.square((below - 1.5) / 1.6))
    shade = (0.72 + 0.34 * nearness - 0.2 * np.clip(below / depth, 0, 1))[..., None]
    water = look.sea_rgb * shade
    return Wave(
        rgb=(water + (235 - water) * foam[..., None]).astype(np.float32, copy=False),
        alpha=np.clip(below + 0.5, 0, 1),
        top=crest_y - amplitude,
        period=period,
        speed=float(rng.choice([-1, 1]) * rng.uniform(0.4, 1.2) * (0.5 + nearness)),
        bob_phase=float(rng.uniform(0, 2 * np.pi)),
    )


def _backdrop(rng: np.random.Generator, sky: Floats, ground: Floats, horizon_y: float) -> Pixels:
    """Sky over ground, each with a gradient, under a soft random texture."""
    y = np.arange(PLATE_HEIGHT, dtype=np.float32)[:, None, None]
    sky_part = sky * (0.78 + 0.3 * y / horizon_y)
    ground_part = ground * (0.75 + 0.4 * (y - horizon_y) / (PLATE_HEIGHT - horizon_y))
    is_ground = np.clip((y - horizon_y) / rng.uniform(1.5, 8.0), 0, 1)
    smooth = sky_part + (ground_part - sky_part) * is_ground
    coarse, fine = _texture(rng, cells=9), _texture(rng, cells=48)
    strength = rng.uniform(6, 18, 2)
    textured = smooth + (strength[0] * coarse + 0.45 * strength[1] * fine)[..., None]
    backdrop: Pixels = np.clip(textured, 0, 255).astype(np.uint8)
    return backdrop


def _texture(rng: np.random.Generator, *, cells: int) -> Floats:
    """Smooth random grey of about unit variance over the plate, with ``cells`` blobs across."""
    grid = rng.standard_normal((round(cells * 0.78), cells)).astype(np.float32)
    image = Image.fromarray(grid).resize((PLATE_WIDTH, PLATE_HEIGHT), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


def _scatter_clutter(canvas: Canvas, rng: np.random.Generator) -> None:
    """Put a few pale shapes of random kind, out of focus, behind everything."""
    for _ in range(int(rng.integers(3, 7))):
        pose = Pose(rng.uniform(0, PLATE_WIDTH), rng.uniform(0, PLATE_HEIGHT), rng.uniform(0, 6.28))
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        rgb = rgb_of(rng.uniform(), rng.uniform(0.1, 0.45), rng.uniform(0.3, 0.85))
        paint_shape(canvas, shape, pose, rng.uniform(7, 22), rgb, edge_pixels=rng.uniform(3, 10))


def _sine(
    rng: np.random.Generator, seconds: npt.NDArray[np.float64], shortest_seconds: float, longest_seconds: float
) -> npt.NDArray[np.float64]:
    """A sine over time with a random period and phase."""
    wave: npt.NDArray[np.float64] = np.sin(
        2 * np.pi * (seconds / rng.uniform(shortest_seconds, longest_seconds) + rng.uniform())
    )
    return wave
