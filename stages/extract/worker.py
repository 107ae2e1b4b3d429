"""What a decode process does. It imports no torch and holds no state but its view of the shared slots."""

from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import threadpoolctl
from librosa.feature import mfcc  # noqa: F401  (librosa loads its parts on first use: once, before workers fork)
from numpy.typing import NDArray

from features.clips import Clip
from features.errors import ClipError
from features.inputs import NoAudio, prepare
from features.spec import FramesInput, ImageInput

Status = NoAudio | ClipError | None
"""What is told of one input through the pipe; None: its pixels lie in the slot."""

_attached: dict[str, SharedMemory] = {}


def start_worker() -> None:
    """One thread per worker: clips are the parallel dimension."""
    threadpoolctl.threadpool_limits(1)


def work(slot: str, clip: Clip, inputs: Sequence[FramesInput | ImageInput]) -> list[Status]:
    """Prepare one clip's inputs into a shared slot, one after the other in the order asked."""
    try:
        outcomes = prepare(clip.path, clip.start, clip.end, inputs)
    except Exception as error:  # noqa: BLE001  (what one file provokes in a library costs that file, not the run)
        reason = ClipError("worker", f"{type(error).__name__}: {error}")
        return [reason for _ in inputs]
    if slot not in _attached:
        _attached[slot] = SharedMemory(name=slot)
    statuses: list[Status] = []
    for view, outcome in zip(slot_views(_attached[slot], inputs), outcomes, strict=True):
        if isinstance(outcome, np.ndarray):
            view[...] = outcome
            statuses.append(None)
        else:
            statuses.append(outcome)
    return statuses


def slot_views(slot: SharedMemory, inputs: Sequence[FramesInput | ImageInput]) -> list[NDArray[np.uint8]]:
    """The arrays of a slot, one per input, laid out in order. They must not outlive the slot."""
    assert slot.buf is not None, "the slot is closed"
    views, offset = [], 0
    for each in inputs:
        size = int(np.prod(each.shape))
        views.append(np.ndarray(each.shape, dtype=np.uint8, buffer=slot.buf, offset=offset))
        offset += size
    return views


def slot_bytes(inputs: Sequence[FramesInput | ImageInput]) -> int:
    return sum(int(np.prod(each.shape)) for each in inputs)
