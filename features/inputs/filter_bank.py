"""The log-mel filter bank of the Audio Spectrogram Transformer, by Kaldi's definition.

Gong et al., "AST: Audio Spectrogram Transformer" (2021); equals transformers' `ASTFeatureExtractor` (its NumPy path).
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from avfuse.features.audio_images.waveform_checks import check_waveform
from avfuse.features.errors import UsageError

RATE_HZ = 16_000
MEL_BANDS, FRAMES = 128, 1024
REVISION = 1

MEAN, HALF_RANGE = -4.2677393, 2 * 4.5689974
"""AudioSet's mean and twice its standard deviation, as used for the published checkpoints."""

_WINDOW_SAMPLES, _HOP_SAMPLES, _FFT_SAMPLES = 400, 160, 512
_LOWEST_HZ = 20
_PREEMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)
_BLOCK_FRAMES = 64  # a block fits into a core's cache


def filter_banks(waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Compute normalised filter banks.

    Computed in double precision (single precision is off by 3e-4 in quiet bands) and rounded once. Frames past the end
    of a clip are zero before normalisation; sound beyond 1024 frames (10.24 s) is cut.

    Args:
        waveforms: mono, each (samples,) at 16 kHz with at least one sample.

    Returns:
        float32 (clips, 1024, 128), time first.

    Raises:
        ClipError (stage `render`): a signal without samples, or with NaN, infinite or absurdly large ones.
        UsageError: not a list of mono signals of floats.
    """
    if isinstance(waveforms, np.ndarray) and waveforms.ndim < 2:
        raise UsageError("filter_banks takes a list of waveforms: write filter_banks([waveform])")
    banks = np.zeros((len(waveforms), FRAMES, MEL_BANDS))
    for bank, waveform in zip(banks, waveforms, strict=True):
        frames = _framed(waveform)
        for at in range(0, len(frames), _BLOCK_FRAMES):
            bank[at : at + _BLOCK_FRAMES][: len(frames) - at] = _log_mel(frames[at : at + _BLOCK_FRAMES])
    return ((banks - MEAN) / HALF_RANGE).astype(np.float32)


def _framed(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """(frames, 400) view of whole windows; a clip shorter than one is filled up with silence."""
    samples = check_waveform(waveform)
    samples = np.pad(samples, (0, max(0, _WINDOW_SAMPLES - len(samples))))
    return np.lib.stride_tricks.sliding_window_view(samples, _WINDOW_SAMPLES)[::_HOP_SAMPLES][:FRAMES]


def _log_mel(frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """(frames, 400) -> (frames, 128)."""
    centred = frames - frames.mean(axis=1, keepdims=True, dtype=np.float64)
    emphasised = centred.copy()
    emphasised[:, 1:] -= _PREEMPHASIS * centred[:, :-1]
    emphasised[:, 0] *= 1 - _PREEMPHASIS
    spectrum = np.fft.rfft(emphasised * np.hanning(_WINDOW_SAMPLES), _FFT_SAMPLES)
    mel = _filters() @ (spectrum.real**2 + spectrum.imag**2).T
    return np.log(np.maximum(mel, _FLOOR)).T


@cache
def _filters() -> scipy.sparse.csr_array:
    """(128, 257): triangles of equal width on Kaldi's mel scale, straight-sided on that scale and not in hertz."""
    bins = _mel(np.linspace(0, RATE_HZ / 2, _FFT_SAMPLES // 2 + 1))
    corners = np.linspace(_mel(_LOWEST_HZ), _mel(RATE_HZ / 2), MEL_BANDS + 2)
    left, peak, right = (corners[step : step + MEL_BANDS, None] for step in range(3))
    rise, fall = (bins - left) / (peak - left), (right - bins) / (right - peak)
    return scipy.sparse.csr_array(np.maximum(0, np.minimum(rise, fall)))


def _mel(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return 1127 * np.log1p(np.asarray(hertz) / 700)
