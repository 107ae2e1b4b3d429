"""Work of a decode process on one clip. It imports no torch, and its only state is the shared memory it attached
and the media file it keeps open."""

import gc
import math
import os
import resource
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl
from librosa.feature import mfcc  # noqa: F401  (librosa loads its parts on first use: once, before workers fork)
from numpy.typing import NDArray

from avfuse.features.audio_images.registry import PLUGIN_FILES
from avfuse.features.clips import Clip
from avfuse.features.errors import ClipError
from avfuse.features.inputs.prepare import NoAudio, Outcome, SharedFile, input_dtype, prepare
from avfuse.features.spec import AnyInput

Status = NoAudio | ClipError | None
"""The outcome of one input that goes through the pipe; None: its array lies in the slot."""

_ALIGNMENT = 64
"""Bytes to whose multiples the arrays of a slot are aligned."""


class ClipReport(NamedTuple):
    """The result of one clip that goes through the pipe: a status per input, and warnings."""

    statuses: list[Status]
    notes: tuple[str, ...]


_attached: dict[str, SharedMemory] = {}
_shared_file = SharedFile()


def start_worker(memory_bytes: int, audio_image_files: str) -> None:
    """Set a worker up with one thread: clips are the parallel dimension.

    memory_bytes: how much it may allocate beyond its own. audio_image_files: the parent's AVFUSE_AUDIO_IMAGES, which a
    worker does not inherit when its forkserver was started before.
    """
    os.environ[PLUGIN_FILES] = audio_image_files
    threadpoolctl.threadpool_limits(1)
    limit_memory(memory_bytes)


def limit_memory(more_bytes: int) -> None:
    """Make allocations fail that exceed what this process has by `more_bytes` (Linux; no limit elsewhere)."""
    data = _data_bytes()
    if data is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = data + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def prepare_clip(slot: str, clip: Clip, inputs: Sequence[AnyInput]) -> ClipReport:
    """Decode and render one clip's inputs into a slot of shared memory, in the given order."""
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
    """Private writable memory of this process; None where the system does not say (only Linux does)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData"))


def slot_views(slot: SharedMemory, inputs: Sequence[AnyInput]) -> list[NDArray[Any]]:
    """The arrays of a slot, one per input, laid out in order. They must not outlive the slot."""
    assert slot.buf is not None, "the slot is closed"
    views, offset = [], 0
    for needed in inputs:
        views.append(np.ndarray(needed.shape, dtype=input_dtype(needed), buffer=slot.buf, offset=offset))
        offset += _aligned_bytes(needed)
    return views


def slot_bytes(inputs: Sequence[AnyInput]) -> int:
    return sum(map(_aligned_bytes, inputs))


def _aligned_bytes(needed: AnyInput) -> int:
    size = math.prod(needed.shape) * np.dtype(input_dtype(needed)).itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT
