"""decord as the reader, on files in which it can be trusted.

decord numbers a file's packets, those included that an edit list hides, and shows frames of other moments than the
numbers mean. So the packets are looked at first, and a file whose numbering is open to doubt is refused.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import ClipError, UsageError
from features.media.timeline import Promise

REVISION = 1


def distrust(promise: Promise, *, reorders_without_times: bool) -> str | None:
    """Why decord's numbering of a file's frames is open to doubt; None where it is not.

    `reorders_without_times`: the container (AVI) gives decoding order only, and the codec shows frames in another.
    """
    if promise.hidden:
        return f"an edit list hides {promise.hidden} of its frames"
    if not promise.is_certain:
        return "some frames have no time of their own"
    if reorders_without_times:
        return "AVI does not say in which order its frames are shown"
    if promise.lost:
        return f"{promise.lost} frames of its index are missing"
    return None


def read(path: Path, promise: Promise, wanted: Iterable[int]) -> dict[int, NDArray[np.uint8]]:
    """rank -> uint8 (H, W, 3) of the wanted ranks of a trusted file.

    Raises ClipError when decord fails or counts other frames than promised, UsageError when it is not installed.
    """
    try:
        import decord
    except ImportError as error:
        raise UsageError("--reader decord needs decord, which is not installed here: pip install decord") from error
    ranks = sorted(wanted)
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if len(reader) != len(promise.timeline):
            raise ClipError("decode", f"decord counts {len(reader)} frames, the file has {len(promise.timeline)}")
        pixels = reader.get_batch(ranks).asnumpy()
    except decord.DECORDError as error:
        raise ClipError("decode", f"decord: {str(error).splitlines()[0]}") from error
    return dict(zip(ranks, pixels, strict=True))
