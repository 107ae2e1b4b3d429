"""What is left to do: clips that lack a feature, cut into chunks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from avfuse.features.cache import AskedClips, FeatureStore
from avfuse.features.cache.store import ABSENT, FAILED
from avfuse.features.clips import Clip

CHUNK_CLIPS = 1024
CHUNK_BYTES = 128 * 2**20
MIN_CHUNK_CLIPS = 64
CHUNKS_PER_DEVICE = 8
"""At least so many: the last device to finish then keeps the others waiting less, and a second run finds work."""

ATTEMPTS = 2
"""A clip that failed is tried again in the next run, once; after that only when it is asked for."""


@dataclass(frozen=True)
class Job:
    """One clip and the features it lacks, as positions in the list of stores. `attempts` holds how often each of these
    has failed before."""

    clip: Clip
    lacks: tuple[int, ...]
    attempts: tuple[int, ...]


Chunk = tuple[Job, ...]


@dataclass(frozen=True)
class Plan:
    """jobs: in the manifest's order. retried: how many of them failed before. shards: the names of those that each
    feature had."""

    jobs: tuple[Job, ...]
    retried: int
    shards: tuple[frozenset[str], ...]


def make_plan(stores: Sequence[FeatureStore], clips: Sequence[Clip] | AskedClips, retry_failed: bool = False) -> Plan:
    """Clips of the manifest minus valid rows.

    A failure is tried again in the next run, once, and then counts as done, unless `retry_failed`. Raises UsageError
    when a shard is damaged.
    """
    asked = clips if isinstance(clips, AskedClips) else AskedClips(clips)
    lacks = np.zeros((len(asked), len(stores)), dtype=bool)
    attempts = np.zeros((len(asked), len(stores)), dtype=np.int64)
    shards = []
    for position, store in enumerate(stores):
        found = store.find(asked)
        shards.append(frozenset(shard.path.name for shard in found.shards))
        again = (found.outcome == FAILED) & (retry_failed | (found.attempts < ATTEMPTS))
        lacks[:, position] = (found.outcome == ABSENT) | again
        attempts[:, position] = found.attempts
    jobs = []
    for index in np.flatnonzero(lacks.any(axis=1)).tolist():
        positions = np.flatnonzero(lacks[index])
        jobs.append(Job(asked.clips[index], tuple(positions.tolist()), tuple(attempts[index, positions].tolist())))
    return Plan(tuple(jobs), int((lacks & (attempts > 0)).any(axis=1).sum()), tuple(shards))


def still_lacking(
    stores: Sequence[FeatureStore], jobs: Iterable[Job], planned_with: Sequence[frozenset[str]]
) -> tuple[Job, ...]:
    """What of some jobs is still to do, now that other runs may have committed more. planned_with: names of the shards
    that each store had when the jobs were planned."""
    jobs = tuple(jobs)
    asked = AskedClips([job.clip for job in jobs])
    lacks = [dict(zip(job.lacks, job.attempts, strict=True)) for job in jobs]
    for position, (store, known) in enumerate(zip(stores, planned_with, strict=True)):
        known = known | store.committed
        if all(path.name in known for path in store.paths()):
            continue
        found = store.find(asked, beyond=known)
        for index, before in enumerate(lacks):
            outcome = found.outcome[index]
            if outcome == ABSENT or (outcome == FAILED and found.attempts[index] <= before.get(position, 0)):
                continue
            before.pop(position, None)
    return tuple(
        Job(job.clip, tuple(left), tuple(left.values())) for job, left in zip(jobs, lacks, strict=True) if left
    )


def cut(jobs: Sequence[Job], size: int) -> list[Chunk]:
    """Jobs in chunks of `size` clips."""
    return [tuple(jobs[first : first + size]) for first in range(0, len(jobs), size)]


def chunk_size(stores: Sequence[FeatureStore], jobs: int, devices: int, read_per_clip: int = 0) -> int:
    """Clips per chunk: as many as make a shard worth a file, and as few as keep it handy and all devices busy.

    read_per_clip: bytes of cached pictures that a clip's features are made from.
    """
    largest = max(read_per_clip, *(store.spec.bytes_per_clip for store in stores))
    handy = max(MIN_CHUNK_CLIPS, jobs // (CHUNKS_PER_DEVICE * devices))
    return max(1, min(CHUNK_CLIPS, CHUNK_BYTES // largest, handy))


def part_of(clips: Sequence[Clip], number: int, parts: int) -> Sequence[Clip]:
    """The `number`-th of `parts` equal stretches of a manifest, counted from 1, whatever is cached."""
    return clips[len(clips) * (number - 1) // parts : len(clips) * number // parts]
