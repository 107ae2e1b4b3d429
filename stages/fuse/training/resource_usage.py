"""Time and peak memory of training."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from avfuse.features.malloc import release_buffers


@dataclass
class ResourceUsage:
    """Resources that training a group of heads took."""

    heads: int
    """The number of heads that train beside each other."""
    seconds: float = 0.0
    """Total time."""
    peak_bytes: int | None = None
    """Peak memory: of tensors on a GPU, of the whole process on a CPU (PyTorch and data included); None: not known."""
    _ends: list[float] = field(default_factory=list)

    def epoch(self) -> None:
        """Note that a head has ended an epoch."""
        self._ends.append(time.perf_counter())

    @property
    def seconds_per_epoch(self) -> float | None:
        """The time of one head's epoch with its validation; None without epochs. Time runs from the end of all first
        epochs, so that neither loading nor parents nor the last predictions are in it."""
        later = len(self._ends) - self.heads
        if later > 0:
            return (self._ends[-1] - self._ends[self.heads - 1]) / later
        return self.seconds / len(self._ends) if self._ends else None


@contextmanager
def measure_resources(device: torch.device, heads: int = 1) -> Iterator[ResourceUsage]:
    """Measure time and memory of a with block; both are set when it ends."""
    usage = ResourceUsage(heads)
    peak = _peak_of(device)
    started = time.perf_counter()
    try:
        yield usage
    finally:
        usage.seconds = time.perf_counter() - started
        usage.peak_bytes = peak()


def _peak_of(device: torch.device) -> Callable[[], int | None]:
    """Reset the peak of memory in use. Returns a function that gives the peak since, in bytes; None: not known."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device)
    if device.type != "cpu":
        return lambda: None
    release_buffers()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the process' high-water mark starts afresh
        return _high_water
    except OSError:
        before = _largest_ever()
        return lambda: None if (now := _largest_ever()) == before else now


def _high_water() -> int | None:
    """The peak of memory in use, in bytes: VmHWM of proc(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return None


def _largest_ever() -> int | None:
    """The peak since the process began, in bytes (getrusage(2)): that of a later stretch only where it rises then."""
    try:
        import resource
    except ImportError:  # there is none on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
