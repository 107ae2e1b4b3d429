"""The engine that hands chunks to a Dask cluster. What a lost worker had in work goes to another one."""

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
from avfuse.pipeline.cluster.identity import cores_per_worker, difference, identity
from avfuse.stages.extract import dask_worker
from avfuse.stages.extract.engine import ATTEMPTS_BEFORE_BISECTION, ChunkAttempt, CrashBisector
from avfuse.stages.extract.extractor import ExtractionJob, Progress
from avfuse.stages.extract.plan import Chunk

AHEAD = 2
"""Chunks given out per worker: one in work, one waiting there."""

CONNECT_SECONDS = 20
_LOOK_SECONDS = 30.0
GPU = "GPU"


class DaskEngine:
    """The workers of a cluster. Use as a context manager.

    Workers that declare the resource GPU are preferred: where there are any, they alone are given chunks.
    """

    def __init__(
        self,
        address: str,
        device: str = "auto",
        workers: int | None = None,
        resources: Mapping[str, float] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """device: of each of the cluster's workers, as for one machine. workers: decode processes of each, by default
        one per core that it has to itself. resources: what a worker must declare.

        Raises UsageError when no scheduler answers, or no worker fits.
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
        self._tell = tell
        if resources is None and device != "cpu" and any(GPU in has for has in self._declared()):
            resources = {GPU: 1}
        self._resources = dict(resources or {})
        if not self.devices:
            wanted = ", ".join(f"{name}={count:g}" for name, count in self._resources.items())
            self._client.close()
            raise UsageError(f"the cluster at {address} has no worker{f' with {wanted}' if wanted else ''}: start some")

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
        """Workers that fit."""
        return sum(
            all(has.get(name, 0) >= count for name, count in self._resources.items()) for has in self._declared()
        )

    def run(self, extraction: ExtractionJob, chunks: Sequence[Chunk]) -> Iterator[Progress]:
        """Every chunk, once. A chunk over which worker after worker dies is halved until the guilty clip is found."""
        self._check_workers(extraction.cache)
        queue = deque(ChunkAttempt(chunk) for chunk in chunks)
        bisector = CrashBisector(extraction)
        given: dict[Future[Any], ChunkAttempt] = {}
        try:
            while queue or given:
                while queue and len(given) < AHEAD * max(1, self.devices):
                    tried = queue.popleft()
                    given[self._give(extraction, tried)] = tried
                for future in self._finished(list(given)):
                    tried = given.pop(future)
                    killed = self._killed(future)
                    if killed is None:
                        bisector.finished()
                        yield future.result()
                        continue
                    again, given_up = bisector.next_attempts(
                        ChunkAttempt(tried.chunk, max(tried.deaths, ATTEMPTS_BEFORE_BISECTION - 1)), killed
                    )
                    queue.extendleft(reversed(again))
                    if given_up is not None:
                        yield given_up
        finally:
            for future in given:
                future.cancel()

    def _give(self, extraction: ExtractionJob, tried: ChunkAttempt) -> Future[Any]:
        return self._client.submit(
            dask_worker.extract_chunk,
            extraction,
            tried.chunk,
            self._device,
            self._workers,
            key=f"avfuse-chunk-{uuid.uuid4().hex}",
            pure=False,
            resources=self._resources,
        )

    def _finished(self, futures: list[Future[Any]]) -> list[Future[Any]]:
        while True:
            try:
                return list(wait(futures, timeout=_LOOK_SECONDS, return_when="FIRST_COMPLETED").done)
            except TimeoutError:
                if not self.devices:
                    self._tell(f"no worker is left at {self._address}: waiting for one")

    def _killed(self, future: Future[Any]) -> str | None:
        """Why a chunk's workers died, if they did. Raises what else went wrong."""
        if future.status == "finished":
            return None
        if future.status in ("cancelled", "lost"):
            raise UsageError(f"the scheduler at {self._address} is gone: what was committed is kept, start again")
        error = future.exception()
        if isinstance(error, KilledWorker):
            return "the cluster's workers died"
        if isinstance(error, FutureCancelledError):
            raise UsageError(f"the scheduler at {self._address} let go of a chunk: start again") from error
        raise error

    def _declared(self) -> list[dict[str, float]]:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return [worker["resources"] for worker in workers.values()]

    def _check_workers(self, cache: Path) -> None:
        """Raises UsageError that names a worker with other code or another file system."""
        token = cache / f".{uuid.uuid4().hex}.tmp"
        token.touch()
        try:
            ours = identity(token)
            every = self._client.run(identity, token, on_error="return")
            for address, theirs in every.items():
                if isinstance(theirs, BaseException):
                    raise UsageError(f"worker {address} cannot run avfuse ({theirs}): install it there as it is here")
                reason = difference(ours, theirs)
                if reason is not None:
                    raise UsageError(f"worker {address} {reason}")
            self._workers = self._workers or cores_per_worker(every.values())
        finally:
            token.unlink(missing_ok=True)
