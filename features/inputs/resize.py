"""Resizing to a backbone's input size, byte for byte as in the library that trained it."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avfuse.features.spec import Preprocess

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Pixels = NDArray[np.uint8]


def resize_image(pixels: Pixels, preprocess: Preprocess | None) -> Pixels:
    """Resize an audio image (H, W, 3) to (crop, crop, 3)."""
    if preprocess is None or pixels.shape[:2] == (preprocess.crop, preprocess.crop):
        return pixels
    side = (preprocess.crop, preprocess.crop)
    return np.asarray(Image.fromarray(pixels).resize(side, _FILTERS[preprocess.interpolation]))


def resize_and_crop(pixels: Pixels, preprocess: Preprocess) -> Pixels:
    """Resize a frame (H, W, 3) and take its centre (crop, crop, 3).

    With antialiasing, equal to torchvision's Resize and CenterCrop of a PIL image. (Resizing what survives the crop
    is faster, but off by a level here and there.) Without, equal to its Resize(antialias=False) of a tensor.
    """
    height, width = pixels.shape[:2]
    new_height, new_width = _resized(height, width, preprocess)
    side = preprocess.crop
    begins = round if preprocess.centre == "even" else int
    top, left = begins((new_height - side) / 2), begins((new_width - side) / 2)
    if not preprocess.antialias:
        rows, columns = _points(height, new_height, top, side), _points(width, new_width, left, side)
        return _interpolate(pixels, rows, columns)
    image = Image.fromarray(pixels)
    if (new_height, new_width) != (height, width):
        image = image.resize((new_width, new_height), _FILTERS[preprocess.interpolation])
    return np.asarray(image.crop((left, top, left + side, top + side)))


def _resized(height: int, width: int, preprocess: Preprocess) -> tuple[int, int]:
    if preprocess.resize is None:
        return height, width
    if isinstance(preprocess.resize, tuple):
        return preprocess.resize
    shorter = min(height, width)
    # One division, as torchvision has it: the last digit decides which integer comes out.
    new_height, new_width = (int(preprocess.resize * side / shorter) for side in (height, width))
    return max(preprocess.resize, new_height), max(preprocess.resize, new_width)


_Points = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


def _points(old: int, new: int, first: int, count: int) -> _Points:
    """Bilinear sampling of positions `first` and on of `new` among `old`: both neighbours, and the second's weight."""
    scale = np.float32(old) / np.float32(new)
    places = np.maximum(
        scale * (np.arange(first, first + count, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0
    )
    before = np.minimum(places.astype(np.int64), old - 1)
    after = np.minimum(before + 1, old - 1)
    return before, after, np.minimum(places - before, 1).astype(np.float32)


def _interpolate(pixels: Pixels, rows: _Points, columns: _Points) -> Pixels:
    """Bilinear interpolation between the four nearest points."""
    above, below, down = rows
    left, right, across = columns
    needed, places = np.unique(np.concatenate([above, below]), return_inverse=True)
    kept = pixels[needed]
    between = kept.take(left, axis=1) * (1 - across)[:, None]
    between += kept.take(right, axis=1) * across[:, None]
    mixed = between.take(places[: len(above)], axis=0) * (1 - down)[:, None, None]
    mixed += between.take(places[len(above) :], axis=0) * down[:, None, None]
    return np.rint(mixed, out=mixed).astype(np.uint8)
