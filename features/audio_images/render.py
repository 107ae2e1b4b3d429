"""From samples to the six images."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from avfuse.features.audio_images.raster import Array, Image
from avfuse.features.audio_images.spectral import AudioContent
from avfuse.features.audio_images.styles import DEFAULT_SIZES, DRAWINGS, PADDINGS, STYLES, Aligned, Paper, Size, Style
from avfuse.features.errors import UsageError
from avfuse.features.inputs.waveform_checks import checked_waveform

REPRESENTATION_REVISION = 2
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
        waveform: (samples,), any length from one sample on; silence gives flat pictures.
        rate_hz: its sampling rate.
        style: `aligned` fills the page, all on the clip's own timeline; `paper` is what the published experiments used.
        size: (height, width) in pixels; by default 224 x 224 aligned, 360 x 360 paper.
        representations: names to draw; all six by default.

    Returns:
        name -> uint8 (height, width, 3), RGB.

    Raises:
        ClipError (stage `render`): no samples, or samples that are NaN, infinite or beyond all measure.
        UsageError: a name that is no representation, an unknown style, a size or a rate that makes no sense,
            samples that are no floats.
    """
    names = list(REPRESENTATIONS) if representations is None else list(representations)
    for name in names:
        if name not in REPRESENTATIONS:
            raise UsageError(f"unknown representation '{name}': choose from {', '.join(REPRESENTATIONS)}")
    size = check_style(style, size)
    if rate_hz < 1:
        raise UsageError(f"rate_hz={rate_hz}: a rate is at least 1 sample per second")
    content = AudioContent(checked_waveform(waveform), int(rate_hz), PADDINGS[style])
    drawing = DRAWINGS[style](content, size)
    return {name: _DRAWERS[name](content, drawing) for name in names}


def check_style(style: str, size: Size | None = None) -> Size:
    """The size to draw at: the style's own where none is given. Raises UsageError for an unknown style or odd size."""
    if style not in STYLES:
        raise UsageError(f"unknown style '{style}': choose from {', '.join(STYLES)}")
    size = size or DEFAULT_SIZES[style]
    if not isinstance(size, tuple) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise UsageError(f"size={size!r}: write (height, width) in pixels, for example {DEFAULT_SIZES[style]}")
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise UsageError(f"a picture of {size[1]}x{size[0]} pixels: each side is {MIN_SIDE} to {MAX_SIDE}")
    return size


def _waveplot(content: AudioContent, drawing: Aligned | Paper) -> Image:
    return drawing.waveplot()


def _spectral_centroids(content: AudioContent, drawing: Aligned | Paper) -> Image:
    return drawing.curve(content.spectral_centroids)


def _spectral_rolloff(content: AudioContent, drawing: Aligned | Paper) -> Image:
    return drawing.curve(content.spectral_rolloff)


def _mfcc(content: AudioContent, drawing: Aligned | Paper) -> Image:
    return drawing.matrix(content.mfcc, _signed_colour_map(content.mfcc))


def _mfcc_scaled(content: AudioContent, drawing: Aligned | Paper) -> Image:
    return drawing.matrix(content.mfcc_scaled, _signed_colour_map(content.mfcc_scaled))


def _chromagram(content: AudioContent, drawing: Aligned | Paper) -> Image:
    return drawing.matrix(content.chromagram, "coolwarm")


def _signed_colour_map(matrix: Array) -> str:
    """librosa.display's rule: diverging colours when the bulk of the values lies on both sides of zero."""
    low, high = np.percentile(matrix, [2, 98])
    return "coolwarm" if low < 0 < high else "magma"


_DRAWERS: dict[str, Callable[[AudioContent, Aligned | Paper], Image]] = {
    "waveplot": _waveplot,
    "spectral_centroids": _spectral_centroids,
    "spectral_rolloff": _spectral_rolloff,
    "mfcc": _mfcc,
    "mfcc_scaled": _mfcc_scaled,
    "chromagram": _chromagram,
}

REPRESENTATIONS = tuple(_DRAWERS)
"""The six names, in the papers' order."""
