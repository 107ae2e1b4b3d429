"""What is left to do: clips that lack a feature, cut into chunks."""

from collections.abc import Sequence
from dataclasses import dataclass

from features.cache import FeatureStore
from features.clips import Clip

CHUNK_CLIPS = 128
CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Job:
    """One clip and the features it lacks, as positions in the list of stores. `attempts` holds how often each of these
    has failed before."""

    clip: Clip
    lacks: tuple[int, ...]
    attempts: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    chunks: tuple[tuple[Job, ...], ...]
    cached: int  # (clip, feature) pairs that need no work

    @property
    def jobs(self) -> int:
        return sum(len(chunk) for chunk in self.chunks)


def make_plan(stores: Sequence[FeatureStore], clips: Sequence[Clip], retry_failed: bool = False) -> Plan:
    """Clips of the manifest minus valid rows, in the manifest's order.

    A recorded failure counts as done, unless `retry_failed`: then it is tried again.
    """
    jobs = []
    cached = 0
    for clip in clips:
        lacks, attempts = [], []
        for position, store in enumerate(stores):
            row = store.find(clip)
            failed_before = row is not None and row.failure is not None
            if row is not None and not (failed_before and retry_failed):
                cached += 1
                continue
            lacks.append(position)
            attempts.append(row.failure.attempts if row is not None and row.failure is not None else 0)
        if lacks:
            jobs.append(Job(clip, tuple(lacks), tuple(attempts)))
    size = chunk_size(stores)
    return Plan(tuple(tuple(jobs[at : at + size]) for at in range(0, len(jobs), size)), cached)


def chunk_size(stores: Sequence[FeatureStore]) -> int:
    """Clips per chunk: few enough that a shard stays handy and a crash loses minutes, not hours."""
    largest = max(store.spec.bytes_per_clip for store in stores)
    return max(1, min(CHUNK_CLIPS, CHUNK_BYTES // largest))
