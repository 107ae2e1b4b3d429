"""Validation of waveforms."""

import numpy as np
from numpy.typing import NDArray

from avfuse.features.errors import ClipError, UsageError

MAX_PEAK = 1e6
"""Sound lies in [-1, 1]; squares of samples as large as this overflow."""


def check_waveform(waveform: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return a mono signal as float32 (samples,).

    Raises ClipError (stage `render`) for no samples, or NaN, infinite or absurdly large ones; UsageError for integers,
    whose scale is unknown.
    """
    samples = np.asarray(waveform)
    if not np.issubdtype(samples.dtype, np.floating):
        raise UsageError(f"a waveform holds floats from -1 to 1, not {samples.dtype}: divide by its largest value")
    if samples.ndim != 1 or len(samples) == 0:
        raise ClipError("render", f"a waveform is a non-empty mono signal, not of shape {samples.shape}")
    peak = max(samples.max(), -samples.min())
    if not np.isfinite(peak):
        raise ClipError("render", "the sound has NaN or infinite samples")
    if peak > MAX_PEAK:
        raise ClipError("render", f"the sound has samples as large as {peak:.0e}: sound lies in [-1, 1]")
    return samples.astype(np.float32)
