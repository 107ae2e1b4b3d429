"""Six audio images of one clip from samples in memory, one thread: `render` against the reference tool's way.

The reference way (pymaivar) makes each picture on its own: librosa from the samples, then a matplotlib figure. Here its
figures are drawn at our size, without margins, on a canvas in memory: no window, no PNG, no file.
"""

from collections.abc import Callable

import librosa
import librosa.display
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Page
from numpy.typing import NDArray
from pairs import compare, write
from sklearn.preprocessing import minmax_scale, scale
from threadpoolctl import threadpool_limits

from features.audio_images import REPRESENTATIONS, SIZE, render

RATE_HZ = 44_100
SECONDS = 4.8
DOTS_PER_INCH = 100

Samples = NDArray[np.float32]


def main() -> None:
    samples = music()
    check_equal_work(render(samples, RATE_HZ), reference(samples))
    with threadpool_limits(limits=1):
        figure = compare(
            "render_speedup_over_reference",
            lambda: render(samples, RATE_HZ),
            lambda: reference(samples),
            speedup=True,
        )
    write("render", [figure])


def music() -> Samples:
    """Notes with overtones that fade, four a second, in a little noise: (samples,), peak 0.9."""
    rng = np.random.default_rng(0)
    time = np.arange(int(SECONDS * RATE_HZ)) / RATE_HZ
    sound = rng.normal(scale=0.01, size=len(time))
    for start in np.arange(0, SECONDS, 0.25):
        since = np.maximum(time - start, 0)
        pitch_hz = 220 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
        overtones = sum(np.sin(2 * np.pi * pitch_hz * number * since) / number for number in range(1, 7))
        sound += np.exp(-4 * since) * (since > 0) * overtones
    return (0.9 * sound / np.abs(sound).max()).astype(np.float32)


def reference(samples: Samples) -> dict[str, NDArray[np.uint8]]:
    return {name: _picture(draw, samples) for name, draw in _REFERENCE.items()}


def _picture(draw: Callable[[Axes, Samples], None], samples: Samples) -> NDArray[np.uint8]:
    height, width = SIZE
    # The same pixels as through pyplot, at less than half the cost: `waveshow` asks for a redraw at every change, and
    # gets none before there is a canvas to draw on. Nothing has to be closed either.
    page = Page(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
    axes = page.add_axes((0, 0, 1, 1))
    axes.axis("off")
    draw(axes, samples)
    canvas = FigureCanvasAgg(page)
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def _waveplot(axes: Axes, samples: Samples) -> None:
    librosa.display.waveshow(samples, sr=RATE_HZ, ax=axes)


def _spectral_centroids(axes: Axes, samples: Samples) -> None:
    centroids = librosa.feature.spectral_centroid(y=samples, sr=RATE_HZ)[0]
    _curve_over_waveplot(axes, samples, centroids)


def _spectral_rolloff(axes: Axes, samples: Samples) -> None:
    rolloff = librosa.feature.spectral_rolloff(y=samples + 0.01, sr=RATE_HZ)[0]
    _curve_over_waveplot(axes, samples, rolloff)


def _curve_over_waveplot(axes: Axes, samples: Samples, values: NDArray[np.floating]) -> None:
    librosa.display.waveshow(samples, sr=RATE_HZ, alpha=0.4, ax=axes)
    axes.plot(librosa.frames_to_time(np.arange(len(values)), sr=RATE_HZ), minmax_scale(values), color="r")


def _mfcc(axes: Axes, samples: Samples) -> None:
    coefficients = librosa.feature.mfcc(y=samples, sr=RATE_HZ)
    librosa.display.specshow(coefficients, sr=RATE_HZ, x_axis="time", ax=axes)


def _mfcc_scaled(axes: Axes, samples: Samples) -> None:
    coefficients = librosa.feature.mfcc(y=samples, sr=RATE_HZ).astype(np.float64)  # in float32 scale warns of rounding
    librosa.display.specshow(scale(coefficients, axis=1), sr=RATE_HZ, x_axis="time", ax=axes)


def _chromagram(axes: Axes, samples: Samples) -> None:
    chroma = librosa.feature.chroma_stft(y=samples, sr=RATE_HZ, hop_length=512)
    librosa.display.specshow(
        chroma, sr=RATE_HZ, x_axis="time", y_axis="chroma", hop_length=512, cmap="coolwarm", ax=axes
    )


_REFERENCE: dict[str, Callable[[Axes, Samples], None]] = {
    "waveplot": _waveplot,
    "spectral_centroids": _spectral_centroids,
    "spectral_rolloff": _spectral_rolloff,
    "mfcc": _mfcc,
    "mfcc_scaled": _mfcc_scaled,
    "chromagram": _chromagram,
}


def check_equal_work(ours: dict[str, NDArray[np.uint8]], theirs: dict[str, NDArray[np.uint8]]) -> None:
    for name in REPRESENTATIONS:
        for image in (ours[name], theirs[name]):
            if image.shape != (*SIZE, 3) or image.dtype != np.uint8 or image.min() == image.max():
                raise SystemExit(f"{name} came out as {image.dtype} {image.shape}, or blank")


if __name__ == "__main__":
    main()
