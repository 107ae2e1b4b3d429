"""A scheduler and its workers on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Nanny, Scheduler, SpecCluster

from avfuse.features.errors import UsageError
from avfuse.pipeline.cluster.engine import GPU

_SETTINGS = {
    "distributed.worker.daemon": False,
    # A worker that died is started again by its nanny. The cluster closes the nanny for good where that takes longer
    # than this, by default 15 s, which a busy machine exceeds.
    "distributed.deploy.lost-worker-timeout": "365 days",
}


@contextmanager
def local_cluster(workers: int, host: str, port: int, gpus: int = 0) -> Iterator[str]:
    """A running cluster; gives the scheduler's address.

    Workers have one thread each, because one chunk at a time keeps a worker busy, and are no daemons, because decode
    processes are their children. One that dies is started again, however long that takes. With `gpus`, so many workers
    see one GPU each and declare the resource GPU.

    Raises UsageError when the port is taken.
    """
    options = [_gpu_worker(number) for number in range(gpus)] if gpus else [_worker() for _ in range(workers)]
    with dask.config.set(_SETTINGS):
        try:
            cluster = SpecCluster(
                scheduler={"cls": Scheduler, "options": {"host": host, "port": port, "dashboard": False}},
                workers={number: {"cls": Nanny, "options": each} for number, each in enumerate(options)},
                silence_logs="warning",
            )
        except (OSError, RuntimeError) as error:
            raise UsageError(f"no cluster at {host}:{port} ({error}): take another port (--port)") from error
        with cluster:
            yield cluster.scheduler_address


def _worker() -> dict[str, Any]:
    return {"nthreads": 1}


def _gpu_worker(number: int) -> dict[str, Any]:
    return {"nthreads": 1, "resources": {GPU: 1}, "env": {"CUDA_VISIBLE_DEVICES": str(number)}}
