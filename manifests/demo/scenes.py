"""Draw the demo's pictures: shaded shapes that move through a cluttered, noisy and slightly shaky scene.

A picture is built as a camera would see it. A *plate* (the still background with its clutter) is drawn once per clip;
every frame cuts a window from it, paints the few pixels that move, and then exposes the whole: brightness, noise.
Coordinates are in pixels of the plate, x to the right and y down.
"""

import colorsys
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH_PIXELS = 320
HEIGHT_PIXELS = 240
FRAMES_PER_SECOND = 25

Shape = Literal["disc", "square", "star"]
Motion = Literal["bounce", "swing", "spin"]
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Number = TypeVar("Number", np.uint8, np.int16)

# How far a shape's outermost point lies from its centre, in radii of the disc of the same area.
_REACH: dict[Shape, float] = {"disc": 1.0, "square": 1.26, "star": 1.42}
_SHAPES = tuple(_REACH)
# How far the camera can wander; the plate is larger than a frame by this much on each side.
_MARGIN_PIXELS = 24
_PLATE_WIDTH = WIDTH_PIXELS + 2 * _MARGIN_PIXELS
_PLATE_HEIGHT = HEIGHT_PIXELS + 2 * _MARGIN_PIXELS
_NOISE_PAD = 32
_OCCLUSION_PROBABILITY = 0.3
_WAVE_LAYERS = 5


@dataclass(frozen=True)
class Subject:
    """What a seen class shows: one shape, one motion, over plain ground or over the sea."""

    shape: Shape
    motion: Motion
    at_sea: bool = False


@dataclass(frozen=True)
class Look:
    """What the pictures of one group share.

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


@dataclass(frozen=True)
class Pose:
    """Where a shape is in one frame; ``pivot`` is where its string hangs from, if it has one."""

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
    ground_y = float(clip_rng.uniform(look.horizon_y + 15, _PLATE_HEIGHT - _MARGIN_PIXELS - 12))
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

    return _film(look, look.plate, clip_rng, frame_count, paint)


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
    center_x = float(clip_rng.uniform(0.35, 0.65) * _PLATE_WIDTH)
    center_y = float(clip_rng.uniform(0.45, 0.58) * _PLATE_HEIGHT)
    pulses = [_wander(clip_rng, frame_count, steps_per_second=6.0) for _ in range(look.cones)]
    plate = look.plate.copy()
    paint_cabinet(Canvas(plate), look, center_x, center_y)
    places = _cone_places(look)
    for offset_y, radius in places:
        paint_ring(Canvas(plate), center_x, center_y + offset_y, radius)

    def paint(canvas: Canvas, index: int) -> None:
        for (offset_y, radius), pulse in zip(places, pulses, strict=True):
            paint_cone(canvas, center_x, center_y + offset_y, radius, float(pulse[index]))

    return _film(look, plate, clip_rng, frame_count, paint)


def draw_look(rng: np.random.Generator) -> Look:
    """Draw what the clips of one group share: colours, texture, clutter, size and noise."""
    sky_hue, ground_hue = rng.uniform(0, 1, 2)
    sky_value, ground_value = rng.uniform(0.45, 0.9), rng.uniform(0.25, 0.75)
    sky = _rgb(sky_hue, rng.uniform(0.1, 0.45), sky_value)
    ground = _rgb(ground_hue, rng.uniform(0.1, 0.5), ground_value)
    horizon_y = float(rng.uniform(0.5, 0.72) * _PLATE_HEIGHT)
    plate = _backdrop(rng, sky, ground, horizon_y)
    _scatter_clutter(Canvas(plate), rng)
    return Look(
        plate=plate,
        # Far from the sky's hue, so that the subject can be told from what is behind it most of the time.
        object_rgb=_rgb(sky_hue + rng.uniform(0.2, 0.8), rng.uniform(0.55, 0.95), rng.uniform(0.55, 0.95)),
        ground_rgb=ground,
        sea_rgb=_rgb(rng.uniform(0.5, 0.64), rng.uniform(0.35, 0.75), rng.uniform(0.4, 0.75)),
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
    x = _PLATE_WIDTH * rng.uniform(0.35, 0.65) + rng.uniform(10, 80) * _sine(rng, seconds, 2.0, 5.0)
    angle = rng.uniform(-0.15, 0.15) + rng.uniform(0, 0.15) * _sine(rng, seconds, 0.8, 2.0)
    return [Pose(*pose) for pose in zip(x.tolist(), y.tolist(), angle.tolist(), strict=True)]


def _swing(rng: np.random.Generator, seconds: npt.NDArray[np.float64]) -> list[Pose]:
    """Swing on a string from a pivot near the top."""
    pivot = (float(_PLATE_WIDTH * rng.uniform(0.38, 0.62)), float(rng.uniform(10, 60)))
    length = rng.uniform(80, 150)
    swing = rng.uniform(0.45, 0.95) * _sine(rng, seconds, 1.1, 2.2)
    x, y = pivot[0] + length * np.sin(swing), pivot[1] + length * np.cos(swing)
    return [Pose(*pose, pivot) for pose in zip(x.tolist(), y.tolist(), (-swing).tolist(), strict=True)]


def _spin(rng: np.random.Generator, seconds: npt.NDArray[np.float64]) -> list[Pose]:
    """Turn about the own centre; half of the clips also circle about a point."""
    turns = rng.choice([-1.0, 1.0]) * seconds * rng.uniform(0.4, 1.1) + rng.uniform()
    orbit = rng.uniform(25, 60) if rng.uniform() < 0.5 else 0.0
    circle = 2 * np.pi * (seconds / rng.uniform(1.5, 3.5) + rng.uniform())
    x = _PLATE_WIDTH * rng.uniform(0.35, 0.65) + orbit * np.cos(circle)
    y = _PLATE_HEIGHT * rng.uniform(0.4, 0.6) + orbit * 0.7 * np.sin(circle)
    return [Pose(*pose) for pose in zip(x.tolist(), y.tolist(), (2 * np.pi * turns).tolist(), strict=True)]


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
    _blend(pixels, np.clip(0.5 - distance / edge_pixels, 0, 1), rgb * (light * rim)[..., None])


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
    _blend(pixels, strength * np.clip(1 - falloff, 0, 1), np.zeros(3, np.float32))


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
    _blend(pixels, np.clip(2.0 - distance, 0, 1), np.array([52, 46, 44], np.float32))


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
    _blend(pixels, 0.4 * np.clip(1 - distance / 14, 0, 1), np.zeros(3, np.float32))
    light = 0.8 - 0.22 * (y - center_y) / half_height - 0.08 * (x - center_x) / half_width
    _blend(pixels, np.clip(0.5 - distance / 1.4, 0, 1), look.object_rgb * light[..., None])


def paint_ring(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """Paint the metal ring that a cone sits in."""
    paint_shape(canvas, "disc", Pose(x, y, 0.0), radius * 1.04, np.full(3, 175, np.float32))


def paint_cone(canvas: Canvas, x: float, y: float, radius: float, pulse: float) -> None:
    """Paint one cone of a loudspeaker; ``pulse`` in [-1, 1] pushes it in or out."""
    pose = Pose(x, y, 0.0)
    grey = np.ones(3, np.float32)
    paint_shape(canvas, "disc", pose, radius * (0.9 + 0.06 * pulse), (52 + 14 * pulse) * grey)
    paint_shape(canvas, "disc", pose, radius * (0.34 + 0.08 * pulse), (120 + 35 * pulse) * grey)


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
        _blend(canvas.pixels[first:last], self.alpha[rows, columns], self.rgb[rows, columns])


def draw_waves(look: Look, rng: np.random.Generator) -> list[Wave]:
    """Draw the layers of the sea from the horizon to the viewer, nearer ones larger, brighter and faster."""
    depth = (_PLATE_HEIGHT - look.horizon_y) / _WAVE_LAYERS
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
        rgb=water + (235 - water) * foam[..., None],
        alpha=np.clip(below + 0.5, 0, 1),
        top=crest_y - amplitude,
        period=period,
        speed=float(rng.choice([-1, 1]) * rng.uniform(0.4, 1.2) * (0.5 + nearness)),
        bob_phase=float(rng.uniform(0, 2 * np.pi)),
    )


def _backdrop(rng: np.random.Generator, sky: Floats, ground: Floats, horizon_y: float) -> Pixels:
    """Sky over ground, each with a gradient, under a soft random texture."""
    y = np.arange(_PLATE_HEIGHT, dtype=np.float32)[:, None, None]
    sky_part = sky * (0.78 + 0.3 * y / horizon_y)
    ground_part = ground * (0.75 + 0.4 * (y - horizon_y) / (_PLATE_HEIGHT - horizon_y))
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
    image = Image.fromarray(grid).resize((_PLATE_WIDTH, _PLATE_HEIGHT), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


def _scatter_clutter(canvas: Canvas, rng: np.random.Generator) -> None:
    """Put a few pale shapes of random kind, out of focus, behind everything."""
    for _ in range(int(rng.integers(3, 7))):
        pose = Pose(rng.uniform(0, _PLATE_WIDTH), rng.uniform(0, _PLATE_HEIGHT), rng.uniform(0, 6.28))
        shape = _SHAPES[int(rng.integers(len(_SHAPES)))]
        rgb = _rgb(rng.uniform(), rng.uniform(0.1, 0.45), rng.uniform(0.3, 0.85))
        paint_shape(canvas, shape, pose, rng.uniform(7, 22), rgb, edge_pixels=rng.uniform(3, 10))


def _film(
    look: Look,
    plate: Pixels,
    rng: np.random.Generator,
    frame_count: int,
    paint: Callable[[Canvas, int], None],
) -> Iterator[Pixels]:
    """Shoot a scene: move the camera over the plate, let ``paint`` add what moves, then expose."""
    lefts, tops = _camera_path(rng, frame_count), _camera_path(rng, frame_count)
    gains = rng.uniform(0.82, 1.08) + rng.uniform(0, 0.1) * _wander(rng, frame_count, steps_per_second=1.5)
    noise = _noise_plate(rng, look.noise_sigma)
    noise_shifts = rng.integers(0, _NOISE_PAD, (frame_count, 2))
    post = _draw_post(rng)
    pixels = np.empty((HEIGHT_PIXELS, WIDTH_PIXELS, 3), np.uint8)
    scratch = np.empty(pixels.shape, np.uint16)
    for index in range(frame_count):
        canvas = Canvas(pixels, int(lefts[index]), int(tops[index]))
        pixels[...] = _frame_window(plate, canvas.left, canvas.top)
        paint(canvas, index)
        if post is not None:
            _paint_post(canvas, *post)
        shift_x, shift_y = noise_shifts[index].tolist()
        yield _expose(pixels, float(gains[index]), _frame_window(noise, shift_x, shift_y), scratch)


def _frame_window(plate: npt.NDArray[Number], left: int, top: int) -> npt.NDArray[Number]:
    """The part of a larger plate that a frame shows, as a view."""
    return plate[top : top + HEIGHT_PIXELS, left : left + WIDTH_PIXELS]


def _camera_path(rng: np.random.Generator, frame_count: int) -> npt.NDArray[np.int64]:
    """Offsets of the frame in the plate along one axis: a slow drift about a random point, with a little tremor."""
    drift = rng.uniform(0, 8) * _wander(rng, frame_count, steps_per_second=0.7)
    tremor = rng.uniform(0, 1.2) * _wander(rng, frame_count, steps_per_second=9.0)
    path = rng.uniform(0.4, 1.6) * _MARGIN_PIXELS + drift + tremor
    return np.clip(np.rint(path), 0, 2 * _MARGIN_PIXELS).astype(np.int64)


def _draw_post(rng: np.random.Generator) -> tuple[float, float, Floats] | None:
    """Now and then something stands between camera and scene: its x, its half width, its colour."""
    x, half_width = float(rng.uniform(0.2, 0.8) * _PLATE_WIDTH), float(rng.uniform(5, 14))
    rgb = _rgb(rng.uniform(), rng.uniform(0.1, 0.4), rng.uniform(0.2, 0.5))
    return (x, half_width, rgb) if rng.uniform() < _OCCLUSION_PROBABILITY else None


def _paint_post(canvas: Canvas, center_x: float, half_width: float, rgb: Floats) -> None:
    window = canvas.window(center_x - half_width - 3, center_x + half_width + 3, 0, _PLATE_HEIGHT)
    if window is None:
        return
    pixels, x, _ = window
    across = (x - center_x) / half_width
    alpha = np.clip((1.0 - np.abs(across)) * half_width / 3 + 0.5, 0, 1)
    _blend(pixels, alpha, rgb * (1.05 - 0.35 * np.square(across + 0.3))[..., None])


def _noise_plate(rng: np.random.Generator, sigma: float) -> npt.NDArray[np.int16]:
    """Sensor noise, mostly of brightness and a little of colour; frames cut shifted windows from one plate."""
    shape = (HEIGHT_PIXELS + _NOISE_PAD, WIDTH_PIXELS + _NOISE_PAD)
    grey = rng.standard_normal((*shape, 1), dtype=np.float32)
    color = rng.standard_normal((*shape, 3), dtype=np.float32)
    return np.rint(sigma * (0.9 * grey + 0.4 * color)).astype(np.int16)


def _expose(pixels: Pixels, gain: float, noise: npt.NDArray[np.int16], scratch: npt.NDArray[np.uint16]) -> Pixels:
    """Return the pixels brightened by ``gain`` with noise added, as a new array.

    In whole numbers and in place where that can be, because this touches every pixel of every frame.
    """
    # 255 * 1.18 * 128 still fits 16 bits.
    np.multiply(pixels, np.uint16(round(gain * 128)), out=scratch, dtype=np.uint16)
    np.right_shift(scratch, 7, out=scratch)
    levels = scratch.view(np.int16)
    levels += noise
    np.clip(levels, 0, 255, out=levels)
    exposed: Pixels = levels.astype(np.uint8)
    return exposed


def _blend(pixels: Pixels, alpha: npt.NDArray[np.floating], rgb: npt.NDArray[np.floating]) -> None:
    """Lay a colour over pixels in place: ``alpha`` (h, w) or broadcastable, ``rgb`` (3,) or (h, w, 3)."""
    opacity = alpha[..., None].astype(np.float32)
    mixed = pixels + (rgb - pixels) * opacity
    pixels[...] = np.clip(mixed, 0, 255)


def _wander(rng: np.random.Generator, frame_count: int, *, steps_per_second: float) -> npt.NDArray[np.float64]:
    """A smooth random curve in [-1, 1], (frame_count,), that takes a new direction so many times a second."""
    seconds = np.arange(frame_count) / FRAMES_PER_SECOND
    knot_count = math.ceil(frame_count / FRAMES_PER_SECOND * steps_per_second) + 2
    knots = rng.uniform(-1, 1, knot_count)
    position = seconds * steps_per_second
    before = position.astype(np.int64)
    part = position - before
    ease = part * part * (3 - 2 * part)
    return knots[before] * (1 - ease) + knots[before + 1] * ease


def _sine(
    rng: np.random.Generator, seconds: npt.NDArray[np.float64], shortest_seconds: float, longest_seconds: float
) -> npt.NDArray[np.float64]:
    """A sine over time with a random period and phase."""
    wave: npt.NDArray[np.float64] = np.sin(
        2 * np.pi * (seconds / rng.uniform(shortest_seconds, longest_seconds) + rng.uniform())
    )
    return wave


def _rgb(hue: float, saturation: float, value: float) -> Floats:
    """A colour from hue (in turns, wrapping), saturation and value, scaled to 0..255."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), dtype=np.float32)
