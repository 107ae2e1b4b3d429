"""From samples to the six images."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from features.audio_images.content import AudioContent
from features.audio_images.raster import Array, Image, draw_curve, draw_envelope, draw_matrix
from features.errors import ClipError, UsageError

SIZE = (224, 224)
REPRESENTATION_REVISION = 1
_FAINT = 0.4  # opacity of the envelope behind a curve


def render(
    waveform: NDArray[np.floating],
    rate_hz: int,
    size: tuple[int, int] = SIZE,
    representations: Sequence[str] | None = None,
) -> dict[str, Image]:
    """Draw a mono signal as audio images.

    Args:
        waveform: (samples,), any length from one sample on; silence gives flat pictures.
        rate_hz: its sampling rate.
        size: (height, width) in pixels; pictures fill it edge to edge.
        representations: names to draw; all six by default.

    Returns:
        name -> uint8 (height, width, 3), RGB.

    Raises:
        ClipError (stage `render`): no samples, or samples that are NaN or infinite.
        UsageError: a name that is no representation.
    """
    names = list(REPRESENTATIONS) if representations is None else list(representations)
    for name in names:
        if name not in REPRESENTATIONS:
            raise UsageError(f"unknown representation '{name}': choose from {', '.join(REPRESENTATIONS)}")
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.ndim != 1 or len(samples) == 0:
        raise ClipError("render", f"a waveform is a non-empty mono signal, not of shape {samples.shape}")
    if not np.isfinite(samples).all():
        raise ClipError("render", "the sound has NaN or infinite samples")
    content = AudioContent(samples, rate_hz)
    return {name: _DRAWERS[name](content, size) for name in names}


def _waveplot(content: AudioContent, size: tuple[int, int]) -> Image:
    return draw_envelope(content.samples, size)


def _spectral_centroids(content: AudioContent, size: tuple[int, int]) -> Image:
    return draw_curve(content.spectral_centroids, over=draw_envelope(content.samples, size, alpha=_FAINT))


def _spectral_rolloff(content: AudioContent, size: tuple[int, int]) -> Image:
    return draw_curve(content.spectral_rolloff, over=draw_envelope(content.samples, size, alpha=_FAINT))


def _mfcc(content: AudioContent, size: tuple[int, int]) -> Image:
    return draw_matrix(content.mfcc, size, _signed_colour_map(content.mfcc))


def _mfcc_scaled(content: AudioContent, size: tuple[int, int]) -> Image:
    return draw_matrix(content.mfcc_scaled, size, _signed_colour_map(content.mfcc_scaled))


def _chromagram(content: AudioContent, size: tuple[int, int]) -> Image:
    return draw_matrix(content.chromagram, size, "coolwarm")


def _signed_colour_map(matrix: Array) -> str:
    """The reference tool's rule: diverging colours when the bulk of the values lies on both sides of zero."""
    low, high = np.percentile(matrix, [2, 98])
    return "coolwarm" if low < 0 < high else "magma"


_DRAWERS: dict[str, Callable[[AudioContent, tuple[int, int]], Image]] = {
    "waveplot": _waveplot,
    "spectral_centroids": _spectral_centroids,
    "spectral_rolloff": _spectral_rolloff,
    "mfcc": _mfcc,
    "mfcc_scaled": _mfcc_scaled,
    "chromagram": _chromagram,
}

REPRESENTATIONS = tuple(_DRAWERS)
"""The six names, in the papers' order."""
