"""Which of a clip's frames a scheme takes."""

import re

import numpy as np
from numpy.typing import NDArray

from features.errors import UsageError


def parse_frames(scheme: str) -> int:
    """The number of frames that a scheme such as `uniform:25` gives.

    Raises UsageError for anything else.
    """
    match = re.fullmatch(r"uniform:([1-9][0-9]*)", scheme)
    if match is None:
        raise UsageError(f"unknown frame sampling '{scheme}': write uniform:N with N >= 1, for example uniform:25")
    return int(match.group(1))


def uniform_indices(available: int, wanted: int) -> NDArray[np.int64]:
    """Centres of `wanted` equal segments of `available` frames: int(n / (2 N) + i n / N).

    TSN's test-time sampling (Wang et al., "Temporal Segment Networks", 2016), in integers so that no rounding of a
    float decides a frame. With fewer frames than segments, frames repeat.
    """
    segment = np.arange(wanted, dtype=np.int64)
    return (available * (2 * segment + 1)) // (2 * wanted)
