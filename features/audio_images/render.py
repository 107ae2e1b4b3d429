"""Rendering of audio images from samples."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from avfuse.features.audio_images.raster import Image
from avfuse.features.audio_images.registry import get_audio_image, list_audio_images
from avfuse.features.audio_images.spectral import SpectralFeatures
from avfuse.features.audio_images.styles import DEFAULT_SIZES, DRAWINGS, PADDINGS, STYLES, Size, Style
from avfuse.features.audio_images.waveform_checks import check_waveform
from avfuse.features.errors import UsageError

MIN_SIDE, MAX_SIDE = 8, 8192


def render(
    waveform: NDArray[np.floating],
    rate_hz: int,
    *,
    style: Style = "aligned",
    size: Size | None = None,
    representations: Sequence[str] | None = None,
) -> dict[str, Image]:
    """Draw a mono signal as audio images (MAiVAR, arXiv 2209.04780; docs/audio-images.md shows and defines each).

    Args:
        waveform: (samples,), any length from one sample on; silence gives flat images.
        rate_hz: its sampling rate.
        style: `aligned` fills the image, on the clip's own timeline; `paper` is as in the published experiments.
        size: (height, width) in pixels; by default 224 x 224 aligned, 360 x 360 paper.
        representations: names to draw; all that are registered by default.

    Returns:
        name -> uint8 (height, width, 3), RGB.

    Raises:
        ClipError (stage `render`): no samples, or samples that are NaN, infinite or beyond all measure.
        UsageError: an unknown name or style, an impossible size or rate, samples that are not floats.
    """
    images = [get_audio_image(name) for name in (list_audio_images() if representations is None else representations)]
    size = check_style(style, size)
    if rate_hz < 1:
        raise UsageError(f"rate_hz={rate_hz}: a rate is at least 1 sample per second")
    features = SpectralFeatures(check_waveform(waveform), int(rate_hz), PADDINGS[style])
    drawing = DRAWINGS[style](features, size)
    return {image.name: image.draw(features, drawing) for image in images}


def check_style(style: str, size: Size | None = None) -> Size:
    """Return the size to draw at, by default the style's own. Raises UsageError for an unknown style or a bad size."""
    if style not in STYLES:
        raise UsageError(f"unknown style '{style}': choose from {', '.join(STYLES)}")
    size = size or DEFAULT_SIZES[style]
    if not isinstance(size, tuple) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise UsageError(f"size={size!r}: write (height, width) in pixels, for example {DEFAULT_SIZES[style]}")
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise UsageError(f"a picture of {size[1]}x{size[0]} pixels: each side is {MIN_SIDE} to {MAX_SIDE}")
    return size
