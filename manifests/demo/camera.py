"""The camera: it wanders over a plate, something may stand in its way, and its exposure flickers with noise."""

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from avfuse.manifests.demo.canvas import Canvas, Floats, Pixels, blend, rgb_of

WIDTH_PIXELS = 320
HEIGHT_PIXELS = 240
FRAMES_PER_SECOND = 25
# How far the camera can wander; the plate is larger than a frame by this much on each side.
MARGIN_PIXELS = 24
PLATE_WIDTH = WIDTH_PIXELS + 2 * MARGIN_PIXELS
PLATE_HEIGHT = HEIGHT_PIXELS + 2 * MARGIN_PIXELS
_NOISE_PAD = 32
_OCCLUSION_PROBABILITY = 0.3

Number = TypeVar("Number", np.uint8, np.int16)


def film(
    plate: Pixels,
    noise_sigma: float,
    rng: np.random.Generator,
    frame_count: int,
    paint: Callable[[Canvas, int], None],
) -> Iterator[Pixels]:
    """Shoot a scene: move the camera over the plate, let ``paint`` add what moves, then expose."""
    lefts, tops = _camera_path(rng, frame_count), _camera_path(rng, frame_count)
    gains = rng.uniform(0.82, 1.08) + rng.uniform(0, 0.1) * wander(rng, frame_count, steps_per_second=1.5)
    noise = _noise_plate(rng, noise_sigma)
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
    drift = rng.uniform(0, 8) * wander(rng, frame_count, steps_per_second=0.7)
    tremor = rng.uniform(0, 1.2) * wander(rng, frame_count, steps_per_second=9.0)
    path = rng.uniform(0.4, 1.6) * MARGIN_PIXELS + drift + tremor
    return np.clip(np.rint(path), 0, 2 * MARGIN_PIXELS).astype(np.int64)


def _draw_post(rng: np.random.Generator) -> tuple[float, float, Floats] | None:
    """Now and then something stands between camera and scene: its x, its half width, its colour."""
    x, half_width = float(rng.uniform(0.2, 0.8) * PLATE_WIDTH), float(rng.uniform(5, 14))
    rgb = rgb_of(rng.uniform(), rng.uniform(0.1, 0.4), rng.uniform(0.2, 0.5))
    return (x, half_width, rgb) if rng.uniform() < _OCCLUSION_PROBABILITY else None


def _paint_post(canvas: Canvas, center_x: float, half_width: float, rgb: Floats) -> None:
    window = canvas.window(center_x - half_width - 3, center_x + half_width + 3, 0, PLATE_HEIGHT)
    if window is None:
        return
    pixels, x, _ = window
    across = (x - center_x) / half_width
    alpha = np.clip((1.0 - np.abs(across)) * half_width / 3 + 0.5, 0, 1)
    blend(pixels, alpha, rgb * (1.05 - 0.35 * np.square(across + 0.3))[..., None])


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


def wander(rng: np.random.Generator, frame_count: int, *, steps_per_second: float) -> npt.NDArray[np.float64]:
    """A smooth random curve in [-1, 1], (frame_count,), that takes a new direction so many times a second."""
    seconds = np.arange(frame_count) / FRAMES_PER_SECOND
    knot_count = math.ceil(frame_count / FRAMES_PER_SECOND * steps_per_second) + 2
    knots = rng.uniform(-1, 1, knot_count)
    position = seconds * steps_per_second
    before = position.astype(np.int64)
    part = position - before
    ease = part * part * (3 - 2 * part)
    return knots[before] * (1 - ease) + knots[before + 1] * ease
