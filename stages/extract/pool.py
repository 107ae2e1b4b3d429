"""Decode processes, and the shared memory through which they return arrays.

A hang or a crash in native code costs the clip it happened on: pebble kills that process and starts another. The parent
owns the shared memory, a slot per clip; only names of slots and errors pass through the pipe.
"""

import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from types import TracebackType
from typing import Any, NamedTuple

from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessFuture, ProcessPool

from avfuse.features.audio_images.registry import PLUGIN_FILES
from avfuse.features.clips import Clip
from avfuse.features.errors import ClipError, UsageError
from avfuse.features.inputs.prepare import Outcome
from avfuse.features.spec import AnyInput
from avfuse.stages.extract import shared_memory, worker

TASKS_PER_PROCESS = 500
"""After so many clips a process is replaced: native libraries leak a little."""


@dataclass(frozen=True)
class Limits:
    """The time and memory that one clip may take; a clip beyond them fails."""

    seconds: float = 300.0
    """Time limit of decoding and rendering."""
    memory_bytes: int = 4 * 2**30
    """Limit of the memory that its decode process allocates."""


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class PreparedClip:
    """One clip's inputs and warnings."""

    clip: Clip
    outcomes: dict[AnyInput, Outcome]
    notes: tuple[str, ...] = ()


class _PendingClip(NamedTuple):
    clip: Clip
    inputs: Sequence[AnyInput]
    slot: SharedMemory
    future: "ProcessFuture[worker.ClipReport]"


class DecodePool:
    """Processes that decode and render clips. Use as a context manager."""

    def __init__(
        self,
        workers: int,
        inputs: Sequence[AnyInput],
        *,
        limits: Limits = DEFAULT_LIMITS,
        tasks_per_process: int = TASKS_PER_PROCESS,
    ) -> None:
        """Start the processes.

        Args:
            workers: how many.
            inputs: all inputs that one clip may have; they determine the size of a slot.
            limits: the time and memory that one clip may take.
            tasks_per_process: clips after which a process is replaced; 0: never.

        Raises:
            UsageError: not enough shared memory.
        """
        self._limits = limits
        size = worker.slot_bytes(inputs)
        count = 2 * workers + 1  # per worker a clip in work and a finished one; one is being read
        shared_memory.remove_stale()
        _check_shared_memory(size * count, workers)
        self._slots = [shared_memory.create(size) for _ in range(count)]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([worker.__name__])
        self._pool = ProcessPool(
            max_workers=workers,
            max_tasks=tasks_per_process,
            initializer=worker.start_worker,
            initargs=(limits.memory_bytes, os.environ.get(PLUGIN_FILES, "")),
            context=context,
        )

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.stop()
        self._pool.join()
        for slot in self._slots:
            slot.close()
            slot.unlink()

    def prepare(self, jobs: Iterable[tuple[Clip, Sequence[AnyInput]]]) -> Iterator[PreparedClip]:
        """Prepare clips in parallel and yield them in the order given."""
        free = list(self._slots)
        running: deque[_PendingClip] = deque()
        for clip, inputs in jobs:
            if not free:
                yield from self._finish_oldest(running, free)
            slot = free.pop()
            future = self._pool.schedule(
                worker.prepare_clip, args=(slot.name, clip, inputs), timeout=self._limits.seconds
            )
            running.append(_PendingClip(clip, inputs, slot, future))
        while running:
            yield from self._finish_oldest(running, free)

    def _finish_oldest(self, running: "deque[_PendingClip]", free: list[SharedMemory]) -> Iterator[PreparedClip]:
        clip, inputs, slot, future = running.popleft()
        statuses, notes = self._result(future, len(inputs))
        views = worker.slot_views(slot, inputs)
        outcomes = (_outcome(status, view) for status, view in zip(statuses, views, strict=True))
        yield PreparedClip(clip, dict(zip(inputs, outcomes, strict=True)), notes)
        free.append(slot)

    def _result(self, future: "ProcessFuture[worker.ClipReport]", inputs: int) -> worker.ClipReport:
        try:
            return future.result()
        except TimeoutError:
            error = ClipError("worker", f"took longer than {self._limits.seconds:g} s")
        except ProcessExpired as death:
            error = ClipError("worker", f"the decode process died (exit code {death.exitcode})")
        return worker.ClipReport([error] * inputs, ())


def _outcome(status: worker.Status, view: NDArray[Any]) -> Outcome:
    return view.copy() if status is None else status  # a millisecond per clip, and no array outlives its slot


def _check_shared_memory(size: int, workers: int) -> None:
    """Raise UsageError where /dev/shm is too small: writing past its end would kill the process without a message."""
    if shared_memory.FOLDER.is_dir() and shutil.disk_usage(shared_memory.FOLDER).free < size:
        raise UsageError(
            f"{workers} decode workers need {size / 2**20:.0f} MiB of shared memory and {shared_memory.FOLDER} has "
            "less: use fewer (--workers N), or give the container more (docker run --shm-size)"
        )
