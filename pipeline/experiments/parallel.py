"""Training of several rows of a table at a time, one process each: one row's heads are too small for many cores."""

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
"""Below this many epochs one process is faster: each takes some seconds to start."""

PROCESS_BYTES = 4 * 2**30
"""Memory of a process besides features: libraries, heads with their gradients and moments."""


def processes_for(job: TableJob) -> int:
    """Number of rows that train at a time: one on a GPU or for few epochs, else one per available core, as far as their
    features fit in memory."""
    options = job.options
    if options.device != "cpu" or (options.jobs is None and job.epochs < EPOCHS_WORTH_PROCESSES):
        return 1
    count = options.jobs or available_cores()
    if options.jobs is None and options.memory_bytes is not None:
        largest = max(bytes_in_memory(job.manifest, job.cache, inputs) for inputs in job.features.values())
        count = min(count, options.memory_bytes // (largest + PROCESS_BYTES))
    return max(1, min(count, len(job.rows)))


def train_in_processes(job: TableJob, count: int, bar: Bar) -> dict[str, TrainedRow]:
    """Trained rows by id, `count` at a time. Raises UsageError as `RowTrainer.train` does, and for a killed process."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(queue, bar))
    listener.start()
    pool = ProcessPool(
        max_workers=count,
        context=context,
        initializer=_start_worker,
        initargs=(job, queue, share_of_cores(count)),
    )
    try:
        futures = {row.id: pool.schedule(_train_in_worker, args=[row.id]) for row in job.rows}
        trained = {}
        for row_id, future in futures.items():
            try:
                trained[row_id] = future.result()
            except ProcessExpired as error:
                raise UsageError(
                    f"the process that trained {row_id} was killed, perhaps for lack of memory: train fewer "
                    "rows at a time (--jobs)"
                ) from error
        return trained
    finally:
        pool.stop()
        pool.join()
        queue.put(None)
        listener.join()


class RemoteBar:
    """A progress bar of another process, updated through a queue."""

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
        """Ignored, as several rows train at a time."""


def _listen(queue: "SimpleQueue[tuple[float, float] | None]", bar: Bar) -> None:
    while (update := queue.get()) is not None:
        epochs, total = update
        bar.total = (bar.total or 0) + total
        bar.update(epochs)


_worker: tuple[RowTrainer, RemoteBar] | None = None
"""The trainer of this process, and the bar that it updates."""


def _start_worker(job: TableJob, queue: "SimpleQueue[tuple[float, float] | None]", threads: int) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    torch.set_num_threads(threads)
    _worker = RowTrainer(job), RemoteBar(queue)


def _train_in_worker(row_id: str) -> TrainedRow:
    assert _worker is not None
    trainer, bar = _worker
    (row,) = (row for row in trainer.job.rows if row.id == row_id)
    return trainer.train(row, bar)
