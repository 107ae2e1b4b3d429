"""The numbers behind the six audio images, by librosa's definitions, from one short-time transform per clip.

Parameters are those of the reference tool (`pymaivar`): 2048-sample Hann windows, hop 512, 20 MFCCs of 128 mel bands,
12 chroma bins, roll-off at 85 % of the energy. Padding at the ends is librosa's present default, `constant`.
"""

import warnings
from dataclasses import dataclass
from functools import cache, cached_property

import librosa
import numpy as np
from numpy.typing import NDArray

FFT_SAMPLES = 2048
HOP_SAMPLES = 512
MFCC_COEFFICIENTS = 20
MEL_BANDS = 128
ROLLOFF_FRACTION = 0.85
_ROLLOFF_OFFSET = 0.01  # the reference tool adds it to the samples before the roll-off

Array = NDArray[np.float32]


@dataclass(frozen=True)
class AudioContent:
    """Lazily computed content of one mono signal, float32 (samples,). Frames lie `HOP_SAMPLES` apart, T in all."""

    samples: Array
    rate_hz: int

    @cached_property
    def waveform(self) -> Array:
        """The signal, zero-padded to one window where it is shorter."""
        missing = FFT_SAMPLES - len(self.samples)
        return np.pad(self.samples, (0, missing)) if missing > 0 else self.samples

    @cached_property
    def magnitude(self) -> Array:
        """(1025, T), modulus of the short-time Fourier transform."""
        return np.abs(librosa.stft(self.waveform, n_fft=FFT_SAMPLES, hop_length=HOP_SAMPLES))

    @cached_property
    def power(self) -> Array:
        """(1025, T)."""
        return self.magnitude**2

    @cached_property
    def spectral_centroids(self) -> Array:
        """(T,), Hz; 0 where a frame is silent."""
        return librosa.feature.spectral_centroid(S=self.magnitude, sr=self.rate_hz)[0]

    @cached_property
    def spectral_rolloff(self) -> Array:
        """(T,), Hz: the frequency below which 85 % of the magnitude lies, of the signal + 0.01."""
        shifted = librosa.stft(self.waveform + np.float32(_ROLLOFF_OFFSET), n_fft=FFT_SAMPLES, hop_length=HOP_SAMPLES)
        return librosa.feature.spectral_rolloff(S=np.abs(shifted), sr=self.rate_hz, roll_percent=ROLLOFF_FRACTION)[0]

    @cached_property
    def mfcc(self) -> Array:
        """(20, T)."""
        mel = _mel_filters(self.rate_hz) @ self.power
        return librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=80), n_mfcc=MFCC_COEFFICIENTS)

    @cached_property
    def mfcc_scaled(self) -> Array:
        """(20, T), each coefficient with mean 0 and variance 1 over time; a constant one stays at 0."""
        centred = self.mfcc - self.mfcc.mean(axis=1, keepdims=True)
        deviation = self.mfcc.std(axis=1, keepdims=True)
        return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 1e-6)

    @cached_property
    def chromagram(self) -> Array:
        """(12, T), each frame scaled to maximum 1; 0 where a frame is silent. Tuning is estimated from the clip."""
        tuning = _tuning(self.power, self.rate_hz)
        return librosa.feature.chroma_stft(S=self.power, sr=self.rate_hz, tuning=tuning)


@cache
def _mel_filters(rate_hz: int) -> Array:
    """(128, 1025)."""
    with warnings.catch_warnings():
        # At very high rates some low bands are narrower than a frequency bin; they stay at the decibel floor.
        warnings.filterwarnings("ignore", message="Empty filters detected")
        return librosa.filters.mel(sr=rate_hz, n_fft=FFT_SAMPLES, n_mels=MEL_BANDS)  # type: ignore[no-any-return]


def _tuning(power: Array, rate_hz: int) -> float:
    """librosa.estimate_tuning, with 0 (and no warning) for a sound without any pitch."""
    pitches, strengths = librosa.piptrack(S=power, sr=rate_hz, n_fft=FFT_SAMPLES)
    voiced = pitches > 0
    if not voiced.any():
        return 0.0
    return float(librosa.pitch_tuning(pitches[voiced & (strengths >= np.median(strengths[voiced]))]))
