"""Engines process chunks: in this process, in a process per device, or on a cluster (pipeline/cluster)."""

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

from avfuse.features.errors import UsageError
from avfuse.stages.extract.extractor import ExtractionJob, Extractor, Progress
from avfuse.stages.extract.plan import Chunk
from avfuse.stages.extract.retry import ChunkAttempt, CrashBisector
from avfuse.threads import share_of_cores


class Engine(Protocol):
    """Processes chunks, in any order."""

    @property
    def devices(self) -> int:
        """Number of chunks processed at once."""

    def run(self, extraction: ExtractionJob, chunks: Sequence[Chunk]) -> Iterator[Progress]:
        """Process every chunk once, however many processes die meanwhile. Raises UsageError, OSError."""


class LocalEngine:
    """The devices of this machine: a single one in this process, several in a process each."""

    def __init__(self, devices: Sequence[str], workers: int) -> None:
        """workers: decode processes of all devices together."""
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
class _DeviceProcess:
    name: str
    process: BaseProcess
    connection: Connection
    attempts: "deque[ChunkAttempt]" = field(default_factory=deque)
    """The chunks it was sent and has not finished."""
    ready: bool = False
    """Whether it has asked for a chunk."""


class _DeviceProcesses:
    """A process per device, which asks for one chunk after the other. Use as a context manager."""

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
            connections = wait([device.connection for device in self._devices])
            for device in [device for device in self._devices if device.connection in connections]:
                try:
                    message = device.connection.recv()
                except (EOFError, ConnectionResetError):
                    yield from self._handle_death(device, queue, bisector)
                    continue
                if isinstance(message, Exception):
                    raise message
                if message is None:
                    device.ready = True
                    self._send_next(device, queue)
                    continue
                if message.finished:
                    device.attempts.popleft()
                    bisector.finished()
                yield message

    def _send_next(self, device: _DeviceProcess, queue: "deque[ChunkAttempt]") -> None:
        """Send the next chunk, or None, which ends the process."""
        attempt = queue.popleft() if queue else None
        if attempt is not None:
            device.attempts.append(attempt)
        with suppress(OSError):  # it died meanwhile, which the next recv finds
            device.connection.send(attempt and attempt.chunk)

    def _handle_death(
        self, device: _DeviceProcess, queue: "deque[ChunkAttempt]", bisector: CrashBisector
    ) -> Iterator[Progress]:
        """Queue the chunks of a process that ended, and start another one."""
        device.process.join()
        self._devices.remove(device)
        if device.process.exitcode == 0:
            return
        reason = f"the process of {device.name} {_exit_description(device.process.exitcode)}"
        if not device.ready:
            raise UsageError(f"{reason} before it could begin: committed features are kept")
        for attempt in reversed(device.attempts):
            attempts, failure = bisector.next_attempts(attempt, reason)
            queue.extendleft(reversed(attempts))
            if failure is not None:
                yield failure
        if queue:
            self._devices.append(self._start(device.name))

    def _start(self, name: str) -> _DeviceProcess:
        parent, child = self._context.Pipe()
        arguments = (child, self._extraction, name, self._workers, self._threads)
        process = self._context.Process(target=_run_device, args=arguments)
        process.start()
        child.close()
        return _DeviceProcess(name, process, parent)


def _exit_description(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was killed ({signal.Signals(-exit_code).name})"
    return f"died (exit code {exit_code})"


def _run_device(connection: Connection, extraction: ExtractionJob, device: str, workers: int, threads: int) -> None:
    """The process of a device: asks for chunks with None, and sends progress, until it is sent None or the connection
    closes."""
    torch.set_num_threads(threads)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)  # tensors that name no device would take memory on the first one
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interruptions

    def chunks() -> Iterator[Chunk]:
        connection.send(None)
        while (chunk := connection.recv()) is not None:
            yield chunk
            connection.send(None)

    try:
        with Extractor(extraction, device, workers) as extractor:
            for progress in extractor.run(chunks()):
                connection.send(progress)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise SystemExit(1) from None  # the parent is gone
    except (UsageError, OSError) as error:
        connection.send(error)
    # Anything else is a death: its traceback is shown and its chunk retried.
