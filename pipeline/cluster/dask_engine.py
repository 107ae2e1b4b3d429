"""The engine that hands chunks to a Dask cluster; the chunks of a lost worker go to another one."""

import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from distributed import Client, Future, wait
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from avfuse.features.errors import UsageError
from avfuse.pipeline.cluster.identity import cores_per_worker, identity, incompatibility
from avfuse.stages.extract import dask_worker
from avfuse.stages.extract.extractor import ExtractionJob, Progress
from avfuse.stages.extract.plan import Chunk
from avfuse.stages.extract.retry import ATTEMPTS_BEFORE_BISECTION, ChunkAttempt, CrashBisector

CHUNKS_PER_WORKER = 2
"""One being processed, one queued on the worker."""

CONNECT_SECONDS = 20
_POLL_SECONDS = 30.0
GPU = "GPU"
"""The resource that workers with a GPU declare."""


class DaskEngine:
    """The workers of a cluster. Use as a context manager.

    Where any workers declare the resource GPU, only they are given chunks.
    """

    def __init__(
        self,
        address: str,
        device: str = "auto",
        workers: int | None = None,
        resources: Mapping[str, float] | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Connect to a scheduler.

        Args:
            address: of the scheduler.
            device: of each worker, as `choose_device` takes it.
            workers: decode processes of each worker; None: one per core that it has to itself.
            resources: what a worker must have declared; None: a GPU where any has.
            log: is given lines for the user.

        Raises:
            UsageError: no scheduler answers, or no worker fits.
        """
        try:
            self._client = Client(address, timeout=CONNECT_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            raise UsageError(
                f"no Dask scheduler answers at {address}: start one (avfuse cluster, or dask scheduler), or give its "
                "address, such as tcp://HOST:8786"
            ) from error
        self._address = address
        self._device = device
        self._workers = workers
        self._log = log
        if resources is None and device != "cpu" and any(GPU in declared for declared in self._declared_resources()):
            resources = {GPU: 1}
        self._resources = dict(resources or {})
        if not self.devices:
            required = ", ".join(f"{name}={count:g}" for name, count in self._resources.items())
            self._client.close()
            raise UsageError(
                f"the cluster at {address} has no worker{f' with {required}' if required else ''}: start some"
            )

    def __enter__(self) -> "DaskEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._client.run(dask_worker.release_extractor, on_error="ignore")
        self._client.close()

    @property
    def devices(self) -> int:
        """Number of workers that have the required resources."""
        return sum(
            all(declared.get(name, 0) >= count for name, count in self._resources.items())
            for declared in self._declared_resources()
        )

    def run(self, extraction: ExtractionJob, chunks: Sequence[Chunk]) -> Iterator[Progress]:
        """Process every chunk once. One over which workers die is halved until the clip that kills them is alone."""
        self._check_workers(extraction.cache)
        queue = deque(ChunkAttempt(chunk) for chunk in chunks)
        bisector = CrashBisector(extraction)
        running: dict[Future[Any], ChunkAttempt] = {}
        try:
            while queue or running:
                while queue and len(running) < CHUNKS_PER_WORKER * max(1, self.devices):
                    attempt = queue.popleft()
                    running[self._submit(extraction, attempt)] = attempt
                for future in self._wait_for_any(list(running)):
                    attempt = running.pop(future)
                    death = self._death_reason(future)
                    if death is None:
                        bisector.finished()
                        yield future.result()
                        continue
                    # The scheduler has retried the chunk on other workers, so it is halved at once.
                    attempt.deaths = max(attempt.deaths, ATTEMPTS_BEFORE_BISECTION - 1)
                    attempts, failure = bisector.next_attempts(attempt, death)
                    queue.extendleft(reversed(attempts))
                    if failure is not None:
                        yield failure
        finally:
            for future in running:
                future.cancel()

    def _submit(self, extraction: ExtractionJob, attempt: ChunkAttempt) -> Future[Any]:
        return self._client.submit(
            dask_worker.extract_chunk,
            extraction,
            attempt.chunk,
            self._device,
            self._workers,
            key=f"avfuse-chunk-{uuid.uuid4().hex}",
            pure=False,
            resources=self._resources,
        )

    def _wait_for_any(self, futures: list[Future[Any]]) -> list[Future[Any]]:
        while True:
            try:
                return list(wait(futures, timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED").done)
            except TimeoutError:
                if not self.devices:
                    self._log(f"no worker is left at {self._address}: waiting for one")

    def _death_reason(self, future: Future[Any]) -> str | None:
        """Reason why the workers of a chunk died; None if it is finished. Raises any other error."""
        if future.status == "finished":
            return None
        if future.status in ("cancelled", "lost"):
            raise UsageError(
                f"the scheduler at {self._address} is gone: committed features are kept, start the run again"
            )
        error = future.exception()
        if isinstance(error, KilledWorker):
            return "the cluster's workers died"
        if isinstance(error, FutureCancelledError):
            raise UsageError(f"the scheduler at {self._address} cancelled a chunk: start the run again") from error
        raise error

    def _declared_resources(self) -> list[dict[str, float]]:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return [worker["resources"] for worker in workers.values()]

    def _check_workers(self, cache: Path) -> None:
        """Raise UsageError that names a worker with other code or another file system."""
        token = cache / f".{uuid.uuid4().hex}.tmp"
        token.touch()
        try:
            client = identity(token)
            workers = self._client.run(identity, token, on_error="return")
            for address, worker in workers.items():
                if isinstance(worker, BaseException):
                    raise UsageError(f"worker {address} cannot run avfuse ({worker}): install it there as it is here")
                reason = incompatibility(client, worker)
                if reason is not None:
                    raise UsageError(f"worker {address} {reason}")
            self._workers = self._workers or cores_per_worker(workers.values())
        finally:
            token.unlink(missing_ok=True)
