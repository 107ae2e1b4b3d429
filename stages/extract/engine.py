"""Who works on the chunks: this process, a process per device, or an engine of another kind with the same door."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

import torch

from avfuse.features.cache import ChunkResult, Failure, fingerprint
from avfuse.features.errors import UsageError
from avfuse.stages.extract.extractor import ExtractionJob, Extractor, ProcessedClip, Progress
from avfuse.stages.extract.plan import Chunk, ClipJob
from avfuse.threads import share_of_cores

ATTEMPTS_BEFORE_BISECTION = 2
"""A chunk whose process died is tried so often, then its halves are, until the clip that kills is alone."""

MAX_CONSECUTIVE_FAILURES = 3
"""Clips given up without a chunk finished in between: then it is not the clips."""


class Engine(Protocol):
    """Works on chunks, in any order, and says what came of them."""

    @property
    def devices(self) -> int:
        """How many chunks are in work at once."""

    def run(self, extraction: ExtractionJob, chunks: Sequence[Chunk]) -> Iterator[Progress]:
        """Every chunk, once, however many processes die meanwhile. Raises UsageError, OSError."""


class LocalEngine:
    """The devices of this machine: one in this process, several in a process each."""

    def __init__(self, devices: Sequence[str], workers: int) -> None:
        """workers: decode processes for all devices together."""
        self._names = devices
        self._workers = max(1, workers // len(devices))

    @property
    def devices(self) -> int:
        return len(self._names)

    def run(self, extraction: ExtractionJob, chunks: Sequence[Chunk]) -> Iterator[Progress]:
        if len(self._names) == 1:
            with Extractor(extraction, self._names[0], self._workers) as extractor:
                yield from extractor.run(chunks)
            return
        with _DeviceProcesses(extraction, self._names, self._workers) as devices:
            yield from devices.run(chunks)


@dataclass
class ChunkAttempt:
    """A chunk, and how many processes have died over it."""

    chunk: Chunk
    deaths: int = 0


class CrashBisector:
    """Chunks whose process died: tried again, then in halves, until the guilty clip is alone and is given up."""

    def __init__(self, extraction: ExtractionJob) -> None:
        self._extraction = extraction
        self._lost_in_a_row = 0

    def finished(self) -> None:
        """A chunk came to its end: processes can work."""
        self._lost_in_a_row = 0

    def next_attempts(self, tried: ChunkAttempt, reason: str) -> tuple[list[ChunkAttempt], Progress | None]:
        """What is to be tried next, and the progress where a clip is given up: it is recorded as a failure.

        Raises UsageError when one clip after the other is lost.
        """
        chunk, deaths = tried.chunk, tried.deaths + 1
        if deaths < ATTEMPTS_BEFORE_BISECTION:
            return [ChunkAttempt(chunk, deaths)], None
        if len(chunk) > 1:
            half = len(chunk) // 2
            return [ChunkAttempt(part, ATTEMPTS_BEFORE_BISECTION - 1) for part in (chunk[:half], chunk[half:])], None
        self._lost_in_a_row += 1
        if self._lost_in_a_row > MAX_CONSECUTIVE_FAILURES:
            raise UsageError(
                f"{reason}, whatever the clip: what was committed is kept; look for what ends it (memory, driver), "
                "then start again"
            )
        record_failure(self._extraction, chunk[0], reason)
        return [], Progress((ProcessedClip(chunk[0].clip.clip_id, (), True),), finished=True)


def record_failure(extraction: ExtractionJob, job: ClipJob, reason: str) -> None:
    """Record that a clip could not be used."""
    stores = extraction.stores()
    for position, before in zip(job.missing, job.attempts, strict=True):
        failure = Failure("worker", reason, before + 1)
        failed = [(job.clip, fingerprint(job.clip.path), failure)]
        stores[position].commit(ChunkResult(stores[position].spec, failed=failed))


@dataclass
class _DeviceProcess:
    name: str
    process: BaseProcess
    connection: Connection
    in_work: "deque[ChunkAttempt]" = field(default_factory=deque)
    begun: bool = False


class _DeviceProcesses:
    """A process for each device, which asks for one chunk after the other. Use as a context manager."""

    def __init__(self, extraction: ExtractionJob, names: Sequence[str], workers: int) -> None:
        self._extraction = extraction
        self._workers = workers
        self._threads = max(1, min(torch.get_num_threads() // len(names), share_of_cores(len(names))))
        self._context = multiprocessing.get_context("spawn")
        self._devices = [self._start(name) for name in names]

    def __enter__(self) -> "_DeviceProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        for device in self._devices:
            device.connection.close()
            if device.process.is_alive():
                device.process.terminate()
            device.process.join()

    def run(self, chunks: Sequence[Chunk]) -> Iterator[Progress]:
        queue = deque(ChunkAttempt(chunk) for chunk in chunks)
        bisector = CrashBisector(self._extraction)
        while self._devices:
            ready = wait([device.connection for device in self._devices])
            for device in [each for each in self._devices if each.connection in ready]:
                try:
                    message = device.connection.recv()
                except (EOFError, ConnectionResetError):
                    yield from self._died(device, queue, bisector)
                    continue
                if isinstance(message, Exception):
                    raise message
                if message is None:
                    device.begun = True
                    self._give(device, queue)
                    continue
                if message.finished:
                    device.in_work.popleft()
                    bisector.finished()
                yield message

    def _give(self, device: _DeviceProcess, queue: "deque[ChunkAttempt]") -> None:
        """The next chunk; None, when there is no more, lets the process end."""
        tried = queue.popleft() if queue else None
        if tried is not None:
            device.in_work.append(tried)
        with suppress(OSError):  # it died meanwhile, which its end of the line will tell
            device.connection.send(tried and tried.chunk)

    def _died(
        self, device: _DeviceProcess, queue: "deque[ChunkAttempt]", bisector: CrashBisector
    ) -> Iterator[Progress]:
        device.process.join()
        self._devices.remove(device)
        if device.process.exitcode == 0:
            return
        reason = f"the process of {device.name} {_exit_description(device.process.exitcode)}"
        if not device.begun:
            raise UsageError(f"{reason} before it could begin: what was committed is kept")
        for tried in reversed(device.in_work):
            again, given_up = bisector.next_attempts(tried, reason)
            queue.extendleft(reversed(again))
            if given_up is not None:
                yield given_up
        if queue:
            self._devices.append(self._start(device.name))

    def _start(self, name: str) -> _DeviceProcess:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_run_device_process, args=(theirs, self._extraction, name, self._workers, self._threads)
        )
        process.start()
        theirs.close()
        return _DeviceProcess(name, process, ours)


def _exit_description(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was killed ({signal.Signals(-exit_code).name})"
    return f"died (exit code {exit_code})"


def _run_device_process(line: Connection, extraction: ExtractionJob, device: str, workers: int, threads: int) -> None:
    """A device's process: asks for chunks and tells what comes of them. It ends with the line, or with the work."""
    torch.set_num_threads(threads)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)  # what names no device would else take memory on the first one
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the parent's to deal with

    def chunks() -> Iterator[Chunk]:
        line.send(None)
        while (chunk := line.recv()) is not None:
            yield chunk
            line.send(None)

    try:
        with Extractor(extraction, device, workers) as extractor:
            for progress in extractor.run(chunks()):
                line.send(progress)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise SystemExit(1) from None  # the parent is gone
    except (UsageError, OSError) as error:
        line.send(error)
    # Anything else is a death: its traceback is shown and its chunk tried again.
