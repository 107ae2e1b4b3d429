"""decord as the reader, for files whose frames it numbers correctly.

decord numbers a file's packets, including those that an edit list hides, and then shows frames of other times. So the
packets are examined first, and a file whose numbering is doubtful is rejected.
"""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avfuse.features.archives import Member
from avfuse.features.errors import ClipError, UsageError
from avfuse.features.media.container import MediaSource
from avfuse.features.media.probe import MediaRef
from avfuse.features.media.timeline import ExpectedFrames

REVISION = 1

_INDEXED = ("mp4", "matroska", "avi")


def untrusted_reason(source: MediaSource, expected: ExpectedFrames) -> str | None:
    """Reason not to trust decord's frame numbers in a file; None for a trusted file."""
    assert source.video is not None
    if expected.hidden:
        return f"an edit list hides {expected.hidden} of its frames"
    if expected.lost:
        return f"{expected.lost} frames of its index are missing"
    codec = source.video.codec_context
    if source.is_avi and codec.has_b_frames:
        return "AVI does not say in which order its frames are shown"
    if codec.name == "mpeg4" and codec.has_b_frames:
        return "it loses count in MPEG-4 with B-frames"
    if not expected.is_certain:
        return "some frames have no time of their own"
    if not any(name in source.container.format.name for name in _INDEXED):
        return f"{source.container.format.name} has no index to seek by"
    if source.video.format is not None and any(component.bits > 8 for component in source.video.format.components):
        return "it converts pictures of more than 8 bits differently"
    if source.is_rotated:
        return "its pictures are to be turned upright"
    return None


def import_decord() -> Any:
    """Import decord. Raises UsageError when it is not installed."""
    try:
        import decord
    except ImportError as error:
        raise UsageError("--reader decord needs decord, which is not installed here: pip install decord") from error
    return decord


def read(ref: MediaRef, expected: ExpectedFrames, requested: Iterable[int]) -> dict[int, NDArray[np.uint8]]:
    """Decode frames of a trusted file: rank -> uint8 (H, W, 3).

    Raises ClipError when decord fails or counts another number of frames than expected.
    """
    decord = import_decord()
    ranks = sorted(requested)
    try:
        # Without a path decord takes a file object, which it reads into memory.
        file = io.BytesIO(ref.read()) if isinstance(ref, Member) else str(ref)
        reader = decord.VideoReader(file, num_threads=1)
        if len(reader) != len(expected.timeline):
            raise ClipError("decode", f"decord counts {len(reader)} frames, the file has {len(expected.timeline)}")
        pixels = reader.get_batch(ranks).asnumpy()
    except decord.DECORDError as error:
        raise ClipError("decode", f"decord: {str(error).splitlines()[0]}") from error
    return dict(zip(ranks, pixels, strict=True))
