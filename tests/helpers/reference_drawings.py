"""The six images the reference tool's way: each on its own, librosa from the samples, then a matplotlib figure.

The tool (pymaivar) used librosa 0.8, whose `waveplot` is gone since; what it drew is spelled out in `waveplot`.
"""

from collections.abc import Callable
from typing import Any

import librosa
import librosa.display
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.preprocessing import minmax_scale, scale

INCHES_HIGH = 5
MAX_POINTS, BINS_PER_SECOND = 50_000, 1000
PADDING: dict[str, Any] = {"pad_mode": "reflect"}  # librosa's default at that time
# Matrices are given a plain scale: librosa 1.0 would put zero at the middle of `coolwarm`.

Samples = NDArray[np.float32]


def draw(name: str, samples: Samples, rate_hz: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """One picture as uint8 (H, W, 3): default margins, no axes. `size` is (H, W)."""
    height, width = size
    dots_per_inch = height / INCHES_HIGH
    # The same pixels as through pyplot, with less around them: no window, no file, and nothing to be closed.
    figure = Figure(figsize=(width / dots_per_inch, INCHES_HIGH), dpi=dots_per_inch)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw_on(axes, name, samples, rate_hz)
    axes.axis("off")
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def waveplot(axes: Axes, samples: Samples, rate_hz: int, alpha: float | None = None) -> None:
    hop = 1 if len(samples) <= MAX_POINTS else rate_hz // BINS_PER_SECOND
    peaks = np.abs(librosa.util.frame(samples, frame_length=hop, hop_length=hop)).max(axis=0)
    seconds = librosa.times_like(peaks, sr=rate_hz, hop_length=hop)
    axes.fill_between(seconds, -peaks, peaks, color="C0", alpha=alpha)
    axes.set_xlim(seconds.min(), seconds.max())


def draw_on(axes: Axes, name: str, samples: Samples, rate_hz: int, waveplot: Callable[..., None] = waveplot) -> None:
    if name == "waveplot":
        waveplot(axes, samples, rate_hz)
    elif name in _CURVES:
        waveplot(axes, samples, rate_hz, alpha=0.4)
        values = _CURVES[name](samples, rate_hz)
        # The tool forgets the rate here: librosa takes 22 050 Hz.
        axes.plot(librosa.frames_to_time(np.arange(len(values))), minmax_scale(values), color="r")
    else:
        _MATRICES[name](axes, samples, rate_hz)


def plot_area(size: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of pixels that lie wholly inside matplotlib's default margins."""
    height, width = size
    rows = slice(int(np.ceil(0.12 * height)), int(0.89 * height))
    return rows, slice(int(np.ceil(0.125 * width)), int(0.9 * width))


def _spectral_centroids(samples: Samples, rate_hz: int) -> NDArray[np.floating]:
    return librosa.feature.spectral_centroid(y=samples, sr=rate_hz, **PADDING)[0]


def _spectral_rolloff(samples: Samples, rate_hz: int) -> NDArray[np.floating]:
    return librosa.feature.spectral_rolloff(y=samples + 0.01, sr=rate_hz, **PADDING)[0]


def _mfcc(axes: Axes, samples: Samples, rate_hz: int) -> None:
    coefficients = librosa.feature.mfcc(y=samples, sr=rate_hz, **PADDING)
    librosa.display.specshow(coefficients, sr=rate_hz, x_axis="time", norm=Normalize(), ax=axes)


def _mfcc_scaled(axes: Axes, samples: Samples, rate_hz: int) -> None:
    coefficients = librosa.feature.mfcc(y=samples, sr=rate_hz, **PADDING)
    scaled = scale(coefficients.astype(np.float64), axis=1)  # in float32 scikit-learn warns of rounding
    librosa.display.specshow(scaled, sr=rate_hz, x_axis="time", norm=Normalize(), ax=axes)


def _chromagram(axes: Axes, samples: Samples, rate_hz: int) -> None:
    chroma = librosa.feature.chroma_stft(y=samples, sr=rate_hz, hop_length=512, **PADDING)
    librosa.display.specshow(chroma, x_axis="time", y_axis="chroma", hop_length=512, cmap="coolwarm", ax=axes)


_CURVES: dict[str, Callable[[Samples, int], NDArray[np.floating]]] = {
    "spectral_centroids": _spectral_centroids,
    "spectral_rolloff": _spectral_rolloff,
}
_MATRICES: dict[str, Callable[[Axes, Samples, int], None]] = {
    "mfcc": _mfcc,
    "mfcc_scaled": _mfcc_scaled,
    "chromagram": _chromagram,
}
