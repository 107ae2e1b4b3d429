"""A scheduler and its workers on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Nanny, Scheduler, SpecCluster

from avfuse.features.errors import UsageError
from avfuse.pipeline.cluster.dask_engine import GPU

_SETTINGS = {
    "distributed.worker.daemon": False,
    # A nanny restarts a worker that died. The cluster closes the nanny for good where that takes longer than this, by
    # default 15 s, which a busy machine exceeds.
    "distributed.deploy.lost-worker-timeout": "365 days",
}


@contextmanager
def local_cluster(workers: int, host: str, port: int, gpus: int = 0) -> Iterator[str]:
    """Start a cluster. Yields the address of its scheduler.

    Workers have one thread each, because one chunk keeps a worker busy, and are no daemons, because decode processes
    are their children. One that dies is restarted, however long that takes.

    Args:
        workers: how many, without GPUs.
        host, port: where the scheduler listens; port 0 is any free one.
        gpus: start so many workers instead, each of which sees one GPU and declares the resource GPU.

    Raises:
        UsageError: the port is taken.
    """
    options = [_gpu_worker(number) for number in range(gpus)] if gpus else [_worker() for _ in range(workers)]
    with dask.config.set(_SETTINGS):
        try:
            cluster = SpecCluster(
                scheduler={"cls": Scheduler, "options": {"host": host, "port": port, "dashboard": False}},
                workers={number: {"cls": Nanny, "options": worker} for number, worker in enumerate(options)},
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
