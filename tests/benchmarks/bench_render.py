"""Six audio images of one clip from samples in memory, one thread: `render` against the reference tool's way.

The reference way (pymaivar) makes each picture on its own: librosa from the samples, then a pyplot figure at its own
size; only the PNG file is left out. It runs twice, because librosa has dropped the `waveplot` it calls: once ported to
`waveshow`, the function that librosa names in its place, and once with what `waveplot` drew spelled out, which is the
fastest way known here to get the reference's pictures from matplotlib.

The floor is what no way of making all six can do without: one short-time transform and the mel and chroma products.
"""

import warnings
from collections.abc import Callable
from functools import partial

import librosa
import librosa.display
import matplotlib
import numpy as np
import reference_drawings
from matplotlib import pyplot
from matplotlib.axes import Axes
from numpy.typing import NDArray
from pairs import Figure, compare, write
from threadpoolctl import threadpool_limits
from transformers import ASTFeatureExtractor

from avfuse.features.audio_images import DEFAULT_SIZES, REPRESENTATIONS, Size, render
from avfuse.features.inputs import filter_bank

RATE_HZ = 44_100
SECONDS = 4.8
OWN_SIZE = (500, 1400)
"""(height, width) of the reference tool's figures; the roll-off's is (500, 1000)."""

Samples = NDArray[np.float32]
Pictures = dict[str, NDArray[np.uint8]]


def main() -> None:
    matplotlib.use("Agg")
    samples = music()
    check_equal_work(render(samples, RATE_HZ, style="paper", size=OWN_SIZE), reference(samples))
    with threadpool_limits(limits=1):
        write("render", list(figures(samples)))


def figures(samples: Samples) -> list[Figure]:
    ours, aligned = (lambda **how: render(samples, RATE_HZ, **how)), DEFAULT_SIZES["aligned"]
    return [
        compare(
            "render_speedup_over_reference",
            ours,
            lambda: reference(samples, waveplot=waveshow),
            speedup=True,
        ),
        compare("render_speedup_over_lean_reference", ours, lambda: reference(samples), speedup=True),
        compare(
            "render_speedup_over_lean_reference_at_our_size",
            ours,
            lambda: reference(samples, size=aligned),
            speedup=True,
        ),
        compare(
            "render_paper_speedup_over_lean_reference_360",
            lambda: ours(style="paper"),
            lambda: reference(samples, size=DEFAULT_SIZES["paper"]),
            speedup=True,
        ),
        compare(
            "render_paper_speedup_over_lean_reference_at_its_size",
            lambda: ours(style="paper", size=OWN_SIZE),
            lambda: reference(samples),
            speedup=True,
        ),
        compare("render_time_over_floor", ours, lambda: floor(samples)),
        filter_bank_figure(),
    ]


def filter_bank_figure() -> Figure:
    """Ten seconds at 16 kHz, against transformers' feature extractor (its numpy path)."""
    samples = np.random.default_rng(0).normal(scale=0.1, size=10 * filter_bank.RATE_HZ).astype(np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter")
        extractor = ASTFeatureExtractor()
    extract = partial(extractor, samples, sampling_rate=filter_bank.RATE_HZ, return_tensors="np")
    if np.abs(extract()["input_values"] - filter_bank.filter_banks([samples])).max() > 1e-5:
        raise SystemExit("the filter banks differ: with torchaudio installed, transformers takes another path")
    return compare(
        "filter_bank_speedup_over_transformers", lambda: filter_bank.filter_banks([samples]), extract, speedup=True
    )


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


Waveplot = Callable[..., None]


def reference(samples: Samples, size: Size | None = None, waveplot: Waveplot | None = None) -> Pictures:
    """Through pyplot, as the tool draws: a figure is opened, drawn on, read and closed for every picture."""
    pictures = {}
    for name in REPRESENTATIONS:
        height, width = size or ((500, 1000) if name == "spectral_rolloff" else OWN_SIZE)
        inches = reference_drawings.INCHES_HIGH
        figure = pyplot.figure(figsize=(width / height * inches, inches), dpi=height / inches)
        reference_drawings.draw_on(pyplot.gca(), name, samples, RATE_HZ, waveplot or reference_drawings.waveplot)
        pyplot.axis("off")
        figure.canvas.draw()
        pictures[name] = np.array(np.asarray(figure.canvas.buffer_rgba())[..., :3])  # type: ignore[attr-defined]
        pyplot.close(figure)
    return pictures


def waveshow(axes: Axes, samples: Samples, rate_hz: int, alpha: float | None = None) -> None:
    librosa.display.waveshow(samples, sr=rate_hz, alpha=alpha)


_FILTERS = (
    librosa.filters.mel(sr=RATE_HZ, n_fft=2048, n_mels=128),
    librosa.filters.chroma(sr=RATE_HZ, n_fft=2048),
)


def floor(samples: Samples) -> None:
    power = np.abs(librosa.stft(samples)) ** 2
    for filters in _FILTERS:
        filters @ power


def check_equal_work(ours: Pictures, theirs: Pictures) -> None:
    for name in set(REPRESENTATIONS) - {"spectral_rolloff"}:
        correlation = np.corrcoef(ours[name].ravel(), theirs[name].ravel())[0, 1]
        if correlation < 0.97:
            raise SystemExit(f"{name} is not the reference's picture: correlation {correlation:.3f}")


if __name__ == "__main__":
    main()
