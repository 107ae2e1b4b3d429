"""Spectral features behind the audio images, by librosa's definitions, from one short-time transform per clip.

Parameters are those of the reference tool (`pymaivar`): 2048-sample Hann windows, hop 512, 20 MFCCs of 128 mel bands,
12 chroma bins, roll-off at 85 % of the magnitude. What librosa computes again in every function is computed once, and
only on access; results are librosa's.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Literal

import librosa
import numpy as np
import scipy.sparse
from numpy.typing import NDArray

FFT_SAMPLES = 2048
HOP_SAMPLES = 512
MFCC_COEFFICIENTS = 20
MEL_BANDS = 128
CHROMA_BINS = 12
ROLLOFF_FRACTION = 0.85
ROLLOFF_OFFSET = np.float32(0.01)
"""Added to the samples before the roll-off, as in the reference tool."""

_BINS = FFT_SAMPLES // 2 + 1
_TRANSFORM_FRAMES = 16
"""Frames transformed at a time: so many fit into a core's cache."""

_BLOCK_FRAMES = 256
"""Frames processed at a time, so that temporary memory does not grow with the clip."""

_PITCH_HZ = (150.0, 4000.0)
_PITCH_THRESHOLD = 0.1
"""librosa's range and threshold of the peaks that the tuning is estimated from."""

_DOUBT = 3e-5
"""Relative distance from the roll-off's threshold below which rounding decides: librosa's sum is repeated then."""

Array = NDArray[np.float32]
Padding = Literal["constant", "reflect"]


@dataclass(frozen=True)
class SpectralFeatures:
    """Spectral features of one mono signal, each computed on first access.

    The T frames lie `HOP_SAMPLES` apart, the first centred on the first sample.
    """

    samples: Array
    """(samples,)."""

    rate_hz: int
    """Sampling rate."""

    padding: Padding = "constant"
    """Before and after the signal: zeros (librosa's default since 0.10) or the signal mirrored (up to 0.8)."""

    @property
    def magnitude(self) -> Array:
        """(1025, T), modulus of the short-time Fourier transform, equal to librosa's to the bit."""
        return self._transformed[0]

    @property
    def frame_count(self) -> int:
        return len(self._frames)

    @cached_property
    def spectral_centroids(self) -> Array:
        """(T,), Hz: the mean frequency, weighted with the magnitude; 0 where a frame is silent."""
        frequencies = librosa.fft_frequencies(sr=self.rate_hz, n_fft=FFT_SAMPLES).astype(np.float32)
        total = self.magnitude.sum(axis=0)
        weighted = np.einsum("f,ft->t", frequencies, self.magnitude)
        return np.divide(weighted, total, out=np.zeros_like(total), where=total >= np.finfo(np.float32).tiny)

    @cached_property
    def spectral_rolloff(self) -> Array:
        """(T,), Hz: the frequency below which 85 % of the magnitude lies, of the signal + 0.01.

        In frames that lie wholly inside the signal, adding a constant changes the first two bins only: a Hann window's
        transform has no others. The other frames are transformed again, and so are those in which rounding decides.
        """
        offset = np.array([FFT_SAMPLES / 2, -FFT_SAMPLES / 4]) * ROLLOFF_OFFSET  # of the window, at bins 0 and 1
        bins = np.empty(self.frame_count, dtype=np.int64)
        again = self._overhanging
        for block in _slices(self.frame_count, _BLOCK_FRAMES):
            shifted = np.abs(self._transformed[1][:, block] + offset[:, None])
            bins[block], doubtful = _search_rolloff(self.magnitude[:, block], shifted)
            again[block] |= doubtful
        transform = _Transform()
        for block in _slices(int(np.count_nonzero(again)), _TRANSFORM_FRAMES):
            frames = np.flatnonzero(again)[block]
            below = np.cumsum(np.abs(transform(self._shifted_frames(frames))), axis=1)  # as librosa adds up
            bins[frames] = np.count_nonzero(below < np.float32(ROLLOFF_FRACTION) * below[:, -1:], axis=1)
        return (bins * np.float32(self.rate_hz / FFT_SAMPLES)).astype(np.float32)

    @cached_property
    def mfcc(self) -> Array:
        """(20, T): the cosine transform of 128 mel bands in decibels, down to 80 below the loudest."""
        mel = np.empty((MEL_BANDS, self.frame_count), dtype=np.float32)
        filters = _mel_filters(self.rate_hz)
        for block in _slices(self.frame_count, _BLOCK_FRAMES):
            mel[:, block] = filters @ self.magnitude[:, block] ** 2
        return librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=80), n_mfcc=MFCC_COEFFICIENTS)

    @cached_property
    def mfcc_scaled(self) -> Array:
        """(20, T), each coefficient with mean 0 and variance 1 over time; a constant one stays at 0."""
        centred = self.mfcc - self.mfcc.mean(axis=1, keepdims=True)
        deviation = self.mfcc.std(axis=1, keepdims=True)
        return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 1e-6)

    @cached_property
    def chromagram(self) -> Array:
        """(12, T), each frame scaled to maximum 1; 0 where a frame is silent. Tuned to the clip's own `tuning`."""
        filters = _chroma_filters(self.rate_hz, self.tuning)
        chroma = np.empty((CHROMA_BINS, self.frame_count), dtype=np.float32)
        for block in _slices(self.frame_count, _BLOCK_FRAMES):
            # Not `@`: that one's sums depend on how many threads share them.
            chroma[:, block] = np.einsum("cf,ft->ct", filters, self.magnitude[:, block] ** 2)
        return librosa.util.normalize(chroma, norm=np.inf, axis=0)

    @cached_property
    def tuning(self) -> float:
        """Deviation from A = 440 Hz in semitones, -0.5 to 0.5: librosa.estimate_tuning to the bit; 0 without pitch."""
        peaks = [self._pitches(block) for block in _slices(self.frame_count, _BLOCK_FRAMES)]
        pitches, strengths = (np.concatenate(column) for column in zip(*peaks, strict=True))
        if not len(pitches):
            return 0.0
        strong = strengths >= np.median(strengths)
        return float(librosa.pitch_tuning(pitches[strong], resolution=0.01, bins_per_octave=CHROMA_BINS))

    def _pitches(self, block: slice) -> tuple[Array, Array]:
        """Frequencies (Hz) and strengths of the spectral peaks of a block of frames, by librosa.piptrack's rule."""
        magnitude = self.magnitude[:, block]
        frequencies = librosa.fft_frequencies(sr=self.rate_hz, n_fft=FFT_SAMPLES)
        low, high = _PITCH_HZ
        (inside,) = np.nonzero((frequencies >= low) & (frequencies < min(high, self.rate_hz / 2)))
        if not len(inside):
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        power = magnitude[inside[0] - 1 : inside[-1] + 2] ** 2  # with a neighbour on either side
        threshold = np.float32(_PITCH_THRESHOLD) * magnitude.max(axis=0) ** 2
        loud = np.where(power > threshold, power, np.float32(0))
        here = loud[1:-1]
        bins, frames = np.nonzero((here > loud[:-2]) & (here >= loud[2:]))
        below, at, above = (power[bins + step, frames] for step in range(3))
        # A parabola through each peak and its neighbours, in the mixed precision that librosa's kernel computes it in.
        curvature = (above + below) - 2.0 * at.astype(np.float64)
        slope = (above - below).astype(np.float64) / 2
        steep = np.abs(slope) >= np.abs(curvature)
        shift = np.where(steep, 0, -slope / np.where(steep, 1, curvature)).astype(np.float32)
        strengths = at + np.float32(0.5) * ((above - below) / np.float32(2)) * shift
        pitches = (inside[0] + bins + shift.astype(np.float64)) * float(self.rate_hz) / FFT_SAMPLES
        return pitches.astype(np.float32), strengths

    @cached_property
    def _transformed(self) -> tuple[Array, NDArray[np.complex64]]:
        """(1025, T) the transform's modulus, and (2, T) its first two bins as they are."""
        magnitude = np.empty((_BINS, self.frame_count), dtype=np.float32)
        first_bins = np.empty((2, self.frame_count), dtype=np.complex64)
        transform = _Transform()
        for block in _slices(self.frame_count, _TRANSFORM_FRAMES):
            spectrum = transform(self._frames[block])
            np.abs(spectrum.T, out=magnitude[:, block])
            first_bins[:, block] = spectrum[:, :2].T
        return magnitude, first_bins

    @cached_property
    def _frames(self) -> Array:
        """(T, 2048) view: the signal under each window."""
        return _framed(self._padded)

    @cached_property
    def _padded(self) -> Array:
        return np.pad(self.samples, FFT_SAMPLES // 2, mode=self.padding)  # type: ignore[no-any-return]

    @property
    def _overhanging(self) -> NDArray[np.bool_]:
        """(T,): whether a frame's window reaches into the padding of zeros."""
        if self.padding != "constant":
            return np.zeros(self.frame_count, dtype=bool)
        centres = np.arange(self.frame_count) * HOP_SAMPLES
        return (centres < FFT_SAMPLES // 2) | (centres + FFT_SAMPLES // 2 > len(self.samples))

    def _shifted_frames(self, frames: NDArray[np.int64]) -> Array:
        """(frames, 2048) of the signal + 0.01, which is added before padding."""
        shifted = self._frames[frames] + ROLLOFF_OFFSET
        if self.padding == "constant":
            place = frames[:, None] * HOP_SAMPLES + np.arange(FFT_SAMPLES) - FFT_SAMPLES // 2
            shifted[(place < 0) | (place >= len(self.samples))] = 0
        return shifted


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(at, min(at + size, count)) for at in range(0, count, size))


def _framed(padded: Array) -> Array:
    return np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES]


class _Transform:
    """The windowed Fourier transform of up to `_TRANSFORM_FRAMES` frames (frames, 2048) -> (frames, 1025).

    In double precision and rounded once, as librosa's: quiet bins beside loud ones are right. The result is valid until
    the next call, which reuses its memory.
    """

    def __init__(self) -> None:
        self._windowed = np.empty((_TRANSFORM_FRAMES, FFT_SAMPLES))
        self._spectrum = np.empty((_TRANSFORM_FRAMES, _BINS), dtype=np.complex128)
        self._rounded = np.empty((_TRANSFORM_FRAMES, _BINS), dtype=np.complex64)

    def __call__(self, frames: Array) -> NDArray[np.complex64]:
        windowed = np.multiply(frames, _window(), out=self._windowed[: len(frames)])
        rounded = self._rounded[: len(frames)]
        rounded[...] = np.fft.rfft(windowed, out=self._spectrum[: len(frames)])
        return rounded


def _search_rolloff(magnitude: Array, first_bins: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Find the first bin up to which 85 % of each frame's magnitude lies, and whether rounding decided: both (frames,).

    magnitude: (1025, frames), with `first_bins` (2, frames) in place of its first two. The search has two steps: among
    sums of 32 bins, then within one of these groups.
    """
    group = 32
    frame = np.arange(magnitude.shape[1])
    below = np.add.reduceat(magnitude, np.arange(0, _BINS, group), axis=0)
    below[0] += first_bins.sum(axis=0) - magnitude[:2].sum(axis=0)
    np.cumsum(below, axis=0, out=below)
    threshold = np.float32(ROLLOFF_FRACTION) * below[-1]
    number = np.count_nonzero(below < threshold, axis=0)  # of the group
    before = np.where(number > 0, below[number - 1, frame], 0)
    inside = np.minimum(number * group + np.arange(group)[:, None], _BINS - 1)
    values = magnitude[inside, frame]
    values[:2] = np.where(number == 0, first_bins, values[:2])
    np.cumsum(values, axis=0, out=values)
    values += before
    step = np.minimum(np.count_nonzero(values < threshold, axis=0), group - 1)
    left = np.where(step > 0, values[step - 1, frame], before)
    margin = np.minimum(np.abs(values[step, frame] - threshold), np.abs(threshold - left))
    return number * group + step, margin <= _DOUBT * threshold


@cache
def _window() -> NDArray[np.float64]:
    return librosa.filters.get_window("hann", FFT_SAMPLES)  # type: ignore[no-any-return]


@lru_cache(maxsize=16)
def _mel_filters(rate_hz: int) -> scipy.sparse.csr_array:
    """(128, 1025), most of it zero."""
    with warnings.catch_warnings():
        # At very high rates some low bands are narrower than a frequency bin; they stay at the decibel floor.
        warnings.filterwarnings("ignore", message="Empty filters detected")
        return scipy.sparse.csr_array(librosa.filters.mel(sr=rate_hz, n_fft=FFT_SAMPLES, n_mels=MEL_BANDS))


@lru_cache(maxsize=256)
def _chroma_filters(rate_hz: int, tuning: float) -> Array:
    """(12, 1025), one for each of a hundred tunings per rate."""
    return librosa.filters.chroma(  # type: ignore[no-any-return]
        sr=rate_hz, n_fft=FFT_SAMPLES, tuning=tuning, n_chroma=CHROMA_BINS
    )
