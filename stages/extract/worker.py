"""What a decode process does. It imports no torch and holds no state but its view of the shared slots."""

import gc
import math
import resource
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl
from librosa.feature import mfcc  # noqa: F401  (librosa loads its parts on first use: once, before workers fork)
from numpy.typing import NDArray

from avfuse.features.clips import Clip
from avfuse.features.errors import ClipError
from avfuse.features.inputs.prepare import NoAudio, Outcome, SharedFile, dtype_of, prepare
from avfuse.features.spec import AnyInput

Status = NoAudio | ClipError | None
"""What is told of one input through the pipe; None: its array lies in the slot."""

_ALIGNMENT = 64
"""Arrays in a slot begin at multiples of so many bytes."""


class ClipReport(NamedTuple):
    """What is told of one clip through the pipe: a status per input, and notes."""

    statuses: list[Status]
    notes: tuple[str, ...]


_attached: dict[str, SharedMemory] = {}
_shared_file = SharedFile()


def start_worker(memory_bytes: int) -> None:
    """One thread per worker: clips are the parallel dimension. `memory_bytes`: how much it may take beyond its own."""
    threadpoolctl.threadpool_limits(1)
    limit_memory(memory_bytes)


def limit_memory(more_bytes: int) -> None:
    """From here on allocating more than this fails, in this process alone (Linux; elsewhere there is no such limit)."""
    data = _data_bytes()
    if data is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = data + more_bytes
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def prepare_clip(slot: str, clip: Clip, inputs: Sequence[AnyInput]) -> ClipReport:
    """Prepare one clip's inputs into a shared slot, one after the other in the order asked."""
    try:
        outcomes, notes = prepare(clip.path, clip.start, clip.end, inputs, _shared_file)
    except MemoryError:
        reason = "took more memory than a clip may (--clip-memory)"
    except Exception as error:  # noqa: BLE001  (what one file provokes in a library costs that file, not the run)
        reason = f"{type(error).__name__}: {error}"
    else:
        return ClipReport(_write_to_slot(slot, inputs, outcomes), notes)
    _shared_file.close()  # a file that provoked an error may be in any state
    gc.collect()  # the error is gone by here, and with it what its traceback held
    return ClipReport([ClipError("worker", reason) for _ in inputs], ())


def _write_to_slot(slot: str, inputs: Sequence[AnyInput], outcomes: Sequence[Outcome]) -> list[Status]:
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


def _data_bytes() -> int | None:
    """How much writable memory this process has of its own; None where the system does not say (only Linux does)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData"))


def slot_views(slot: SharedMemory, inputs: Sequence[AnyInput]) -> list[NDArray[Any]]:
    """The arrays of a slot, one per input, laid out in order. They must not outlive the slot."""
    assert slot.buf is not None, "the slot is closed"
    views, offset = [], 0
    for each in inputs:
        views.append(np.ndarray(each.shape, dtype=dtype_of(each), buffer=slot.buf, offset=offset))
        offset += _bytes(each)
    return views


def slot_bytes(inputs: Sequence[AnyInput]) -> int:
    return sum(_bytes(each) for each in inputs)


def _bytes(taken: AnyInput) -> int:
    size = math.prod(taken.shape) * np.dtype(dtype_of(taken)).itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT
