"""Rows of a table that train at the same time, in processes of their own: one row's heads are too small to keep many
cores busy."""

import multiprocessing
import signal
import threading
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
from pebble import ProcessExpired, ProcessPool

from avfuse.features.errors import UsageError
from avfuse.pipeline.experiments.rows import RowTrainer, TableJob, TrainedRow
from avfuse.stages.fuse.data.dataset import bytes_in_memory
from avfuse.stages.fuse.runs.experiment import Bar
from avfuse.threads import available_cores, share_of_cores

EPOCHS_WORTH_PROCESSES = 5_000
"""A process takes some seconds to start."""

PROCESS_BYTES = 4 * 2**30
"""What a process takes besides features: heads side by side with their gradients and moments, libraries."""


def processes_for(job: TableJob) -> int:
    """How many rows train at a time: one on a GPU and where little is to be done, otherwise as many as there are
    cores for this process, but no more than features fit in memory for."""
    options = job.options
    if options.device != "cpu" or (options.jobs is None and job.epochs < EPOCHS_WORTH_PROCESSES):
        return 1
    wanted = options.jobs or available_cores()
    if options.jobs is None and options.memory_bytes is not None:
        largest = max(bytes_in_memory(job.manifest, job.cache, inputs) for inputs in job.features.values())
        wanted = min(wanted, options.memory_bytes // (largest + PROCESS_BYTES))
    return max(1, min(wanted, len(job.rows)))


def train_in_processes(job: TableJob, count: int, bar: Bar) -> dict[str, TrainedRow]:
    """The same, `count` rows at a time, by row. Raises UsageError likewise, and where a process is killed."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(queue, bar))
    listener.start()
    pool = ProcessPool(
        max_workers=count,
        context=context,
        initializer=_begin,
        initargs=(job, queue, share_of_cores(count)),
    )
    try:
        futures = {row.id: pool.schedule(_train_here, args=[row.id]) for row in job.rows}
        trained = {}
        for row_id, future in futures.items():
            try:
                trained[row_id] = future.result()
            except ProcessExpired as error:
                raise UsageError(
                    f"the process that trained {row_id} was ended from outside, perhaps for want of memory: train "
                    "fewer rows at a time (--jobs)"
                ) from error
        return trained
    finally:
        pool.stop()
        pool.join()
        queue.put(None)
        listener.join()


class RemoteBar:
    """A bar in another process."""

    def __init__(self, queue: "SimpleQueue[tuple[float, float] | None]") -> None:
        self._queue = queue
        self._total: float = 0
        self.n: float = 0

    @property
    def total(self) -> float | None:
        return self._total

    @total.setter
    def total(self, total: float | None) -> None:
        assert total is not None
        self._queue.put((0, total - self._total))
        self._total = total

    def update(self, n: float | None = 1) -> None:
        assert n is not None
        self.n += n
        self._queue.put((n, 0))

    def set_postfix(self, **values: Any) -> None:
        """Nothing: several are at work."""


def _listen(queue: "SimpleQueue[tuple[float, float] | None]", bar: Bar) -> None:
    while (more := queue.get()) is not None:
        epochs, total = more
        bar.total = (bar.total or 0) + total
        bar.update(epochs)


_here: tuple[RowTrainer, RemoteBar] | None = None
"""Of a process that trains rows."""


def _begin(job: TableJob, queue: "SimpleQueue[tuple[float, float] | None]", threads: int) -> None:
    global _here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for this one ends it
    torch.set_num_threads(threads)
    _here = RowTrainer(job), RemoteBar(queue)


def _train_here(row_id: str) -> TrainedRow:
    assert _here is not None
    trainer, bar = _here
    (row,) = (row for row in trainer.job.rows if row.id == row_id)
    return trainer.train(row, bar)
