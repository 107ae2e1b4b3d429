"""`avfuse cluster`: a Dask scheduler and workers on this machine."""

import os
import signal
import threading

import click

from avfuse.features.errors import UsageError


@click.command(short_help="A Dask scheduler and workers on this machine.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Number of worker processes.")
@click.option("--gpus", is_flag=True, help="One worker per GPU of this machine, which declares the resource GPU.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(min=0, max=65535),
    default=8786,
    show_default=True,
    help="The port; 0 takes a free one.",
)
def cluster(workers: int, gpus: bool, host: str, port: int) -> None:
    """Start a scheduler and workers here, until Ctrl-C. Workers on other machines join with

    \b
      DASK_DISTRIBUTED__WORKER__DAEMON=False dask worker tcp://HOST:8786 --nthreads 1 [--resources GPU=1]

    \b
    and take extractions started from any shell with
      avfuse extract --dataset demo --engine dask --scheduler tcp://HOST:8786
    """
    require_distributed()
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")  # of the workers too, which inherit it
    import torch

    from avfuse.pipeline.cluster.local import local_cluster

    count = torch.cuda.device_count() if gpus else 0
    if gpus and not count:
        raise UsageError("--gpus: PyTorch finds no GPU on this machine")
    stop = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: stop.set())
    with local_cluster(workers, host, port, count) as address:
        click.echo(f"{count or workers} workers at {address}; extract with --engine dask --scheduler {address}")
        stop.wait()


def require_distributed() -> None:
    """Raises UsageError if the extra `cluster` is not installed."""
    from importlib.util import find_spec

    if find_spec("distributed") is None:
        raise UsageError("Dask is not installed: pip install 'avfuse[cluster]' (in a checkout: -e '.[cluster]')")
