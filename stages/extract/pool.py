"""Decode processes, and the shared memory slots their pixels come back through.

A hang or a crash in native code costs the clip it happened on: pebble ends that process, starts another, and the run
goes on. The parent owns the slots; only slot names and errors pass through the pipe.
"""

import multiprocessing
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

from avfuse.features.clips import Clip
from avfuse.features.errors import ClipError, UsageError
from avfuse.features.inputs.prepare import Outcome
from avfuse.features.spec import AnyInput
from avfuse.stages.extract import shared_memory, worker

TASKS_PER_PROCESS = 500
"""Native libraries leak a little; a fresh process every so often keeps memory flat."""


@dataclass(frozen=True)
class Limits:
    """What one clip may cost. A clip that takes longer to decode and render, or makes its decode process allocate more,
    is given up."""

    seconds: float = 300.0
    memory_bytes: int = 4 * 2**30


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class PreparedClip:
    """One clip's inputs, and what a user should know of it."""

    clip: Clip
    outcomes: dict[AnyInput, Outcome]
    notes: tuple[str, ...] = ()


class _PendingClip(NamedTuple):
    clip: Clip
    inputs: Sequence[AnyInput]
    slot: SharedMemory
    future: "ProcessFuture[worker.ClipReport]"


class DecodePool:
    """`workers` processes that prepare clips. Use as a context manager."""

    def __init__(
        self,
        workers: int,
        inputs: Sequence[AnyInput],
        *,
        limits: Limits = DEFAULT_LIMITS,
        tasks_per_process: int = TASKS_PER_PROCESS,
    ) -> None:
        """`inputs`: all that may be asked of one clip; they decide a slot's size. `tasks_per_process`: 0 is no end."""
        self._limits = limits
        size = worker.slot_bytes(inputs)
        count = 2 * workers + 1  # each worker has one clip at work and one finished; one is being read
        shared_memory.remove_stale()
        _check_shared_memory(size * count, workers)
        self._slots = [shared_memory.create(size) for _ in range(count)]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([worker.__name__])
        self._pool = ProcessPool(
            max_workers=workers,
            max_tasks=tasks_per_process,
            initializer=worker.start_worker,
            initargs=(limits.memory_bytes,),
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
        """Prepare clips side by side and yield them in the order given."""
        free = list(self._slots)
        running: deque[_PendingClip] = deque()
        for clip, inputs in jobs:
            if not free:
                yield from self._oldest(running, free)
            slot = free.pop()
            future = self._pool.schedule(
                worker.prepare_clip, args=(slot.name, clip, inputs), timeout=self._limits.seconds
            )
            running.append(_PendingClip(clip, inputs, slot, future))
        while running:
            yield from self._oldest(running, free)

    def _oldest(self, running: "deque[_PendingClip]", free: list[SharedMemory]) -> Iterator[PreparedClip]:
        clip, inputs, slot, future = running.popleft()
        statuses, notes = self._result(future, len(inputs))
        views = worker.slot_views(slot, inputs)
        outcomes = (_outcome(status, view) for status, view in zip(statuses, views, strict=True))
        yield PreparedClip(clip, dict(zip(inputs, outcomes, strict=True)), notes)
        free.append(slot)

    def _result(self, future: "ProcessFuture[worker.ClipReport]", count: int) -> worker.ClipReport:
        try:
            return future.result()
        except TimeoutError:
            lost = ClipError("worker", f"took longer than {self._limits.seconds:g} s")
        except ProcessExpired as error:
            lost = ClipError("worker", f"the decode process died (exit code {error.exitcode})")
        return worker.ClipReport([lost] * count, ())


def _outcome(status: worker.Status, view: NDArray[Any]) -> Outcome:
    return view.copy() if status is None else status  # a millisecond a clip, and nothing can outlive its slot


def _check_shared_memory(wanted: int, workers: int) -> None:
    """Writing past what /dev/shm has kills the process without a word, so look first."""
    if shared_memory.FOLDER.is_dir() and shutil.disk_usage(shared_memory.FOLDER).free < wanted:
        raise UsageError(
            f"{workers} decode workers need {wanted / 2**20:.0f} MiB of shared memory and {shared_memory.FOLDER} has "
            "less: use fewer (--workers N), or give the container more (docker run --shm-size)"
        )
