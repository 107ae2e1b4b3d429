"""From one clip to the pixel arrays that backbones take. Runs in decode workers: nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from features.audio_images import render
from features.errors import ClipError
from features.media import Media, decode
from features.spec import FramesInput, ImageInput, Preprocess

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class NoAudio:
    """The clip has no audio stream: not a failure, and no feature either."""


Outcome = NDArray[np.uint8] | NoAudio | ClipError
"""What became of one input of one clip."""


def prepare(
    path: Path, start: float | None, end: float | None, inputs: Sequence[FramesInput | ImageInput]
) -> list[Outcome]:
    """Decode a clip once and make each input asked of it: uint8 arrays of `input.shape`.

    Nothing is raised for a broken clip: its ClipError stands in the place of every array it costs.
    """
    samplings = {each.sampling for each in inputs if isinstance(each, FramesInput)}
    wants_sound = any(isinstance(each, ImageInput) for each in inputs)
    media: dict[str | None, Media] = {}
    try:
        for index, sampling in enumerate(sorted(samplings) or [None]):
            media[sampling] = decode(path, sampling, audio=wants_sound and index == 0, start=start, end=end)
    except ClipError as error:
        return [error for _ in inputs]
    heard = next(iter(media.values()))
    images = _draw(heard, [each for each in inputs if isinstance(each, ImageInput)]) if wants_sound else {}
    return [images[each] if isinstance(each, ImageInput) else _stack(media[each.sampling], each) for each in inputs]


def _draw(media: Media, inputs: Sequence[ImageInput]) -> dict[ImageInput, Outcome]:
    if not media.has_audio:
        return {each: NoAudio() for each in inputs}
    if media.waveform is None:
        error = media.waveform_error or ClipError("decode", "the audio stream gives no samples")
        return dict.fromkeys(inputs, error)
    drawn: dict[ImageInput, Outcome] = {}
    for size in {(each.height, each.width) for each in inputs}:
        of_size = [each for each in inputs if (each.height, each.width) == size]
        try:
            pictures = render(media.waveform.samples, media.waveform.rate_hz, size, [e.representation for e in of_size])
        except ClipError as error:
            drawn.update(dict.fromkeys(of_size, error))
        else:
            drawn.update({e: _fit(pictures[e.representation], e.preprocess) for e in of_size})
    return drawn


def _stack(media: Media, wanted: FramesInput) -> Outcome:
    if media.frames is None:
        return media.frames_error or ClipError("decode", "no video frames")
    distinct = {index: _fit(pixels, wanted.preprocess) for index, pixels in _first_of_each(media)}
    return np.stack([distinct[index] for index in media.frames.indices.tolist()])


def _first_of_each(media: Media) -> list[tuple[int, NDArray[np.uint8]]]:
    """(index, pixels) of every distinct frame: a repeated frame is resized once."""
    assert media.frames is not None
    _, first = np.unique(media.frames.indices, return_index=True)
    return [(int(media.frames.indices[at]), media.frames.pixels[at]) for at in first]


def _fit(pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Short side to `resize`, then the centre `crop` x `crop`: to the byte what torchvision's Resize and CenterCrop
    give. (Resizing only what survives the crop is faster and off by a level here and there.)"""
    image = Image.fromarray(pixels)
    if preprocess.resize is not None:
        scale = preprocess.resize / min(image.size)
        width, height = (max(preprocess.resize, int(length * scale)) for length in image.size)
        image = image.resize((width, height), _FILTERS[preprocess.interpolation])
    side = preprocess.crop
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))
