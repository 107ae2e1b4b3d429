"""What is left to do: clips that lack a feature, cut into chunks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from avfuse.features.cache import ClipQuery, FeatureStore
from avfuse.features.cache.store import ABSENT, FAILED
from avfuse.features.clips import Clip

CHUNK_CLIPS = 1024
CHUNK_BYTES = 128 * 2**20
MIN_CHUNK_CLIPS = 64
CHUNKS_PER_DEVICE = 8
"""At least so many: the last device to finish then keeps the others waiting less, and a second run finds work."""

MAX_ATTEMPTS = 2
"""A clip that failed is tried again in the next run, once; after that only when it is asked for."""


@dataclass(frozen=True)
class ClipJob:
    """One clip and the features it missing, as positions in the list of stores. `attempts` holds how often each of these
    has failed before."""

    clip: Clip
    missing: tuple[int, ...]
    attempts: tuple[int, ...]


Chunk = tuple[ClipJob, ...]


@dataclass(frozen=True)
class ExtractionPlan:
    """jobs: in the manifest's order. retried: how many of them failed before. shards: the names of those that each
    feature had."""

    jobs: tuple[ClipJob, ...]
    retried: int
    shards: tuple[frozenset[str], ...]


def plan_extraction(
    stores: Sequence[FeatureStore], clips: Sequence[Clip] | ClipQuery, retry_failed: bool = False
) -> ExtractionPlan:
    """Clips of the manifest minus valid rows.

    A failure is tried again in the next run, once, and then counts as done, unless `retry_failed`. Raises UsageError
    when a shard is damaged.
    """
    asked = clips if isinstance(clips, ClipQuery) else ClipQuery(clips)
    missing = np.zeros((len(asked), len(stores)), dtype=bool)
    attempts = np.zeros((len(asked), len(stores)), dtype=np.int64)
    shards = []
    for position, store in enumerate(stores):
        found = store.lookup(asked)
        shards.append(frozenset(shard.path.name for shard in found.shards))
        again = (found.outcome == FAILED) & (retry_failed | (found.attempts < MAX_ATTEMPTS))
        missing[:, position] = (found.outcome == ABSENT) | again
        attempts[:, position] = found.attempts
    jobs = []
    for index in np.flatnonzero(missing.any(axis=1)).tolist():
        positions = np.flatnonzero(missing[index])
        jobs.append(ClipJob(asked.clips[index], tuple(positions.tolist()), tuple(attempts[index, positions].tolist())))
    return ExtractionPlan(tuple(jobs), int((missing & (attempts > 0)).any(axis=1).sum()), tuple(shards))


def remaining_jobs(
    stores: Sequence[FeatureStore], jobs: Iterable[ClipJob], known_shards: Sequence[frozenset[str]]
) -> tuple[ClipJob, ...]:
    """What of some jobs is still to do, now that other runs may have committed more. known_shards: names of the shards
    that each store had when the jobs were planned."""
    jobs = tuple(jobs)
    asked = ClipQuery([job.clip for job in jobs])
    missing = [dict(zip(job.missing, job.attempts, strict=True)) for job in jobs]
    for position, (store, known) in enumerate(zip(stores, known_shards, strict=True)):
        known = known | store.committed
        if all(path.name in known for path in store.paths()):
            continue
        found = store.lookup(asked, exclude=known)
        for index, before in enumerate(missing):
            outcome = found.outcome[index]
            if outcome == ABSENT or (outcome == FAILED and found.attempts[index] <= before.get(position, 0)):
                continue
            before.pop(position, None)
    return tuple(
        ClipJob(job.clip, tuple(left), tuple(left.values())) for job, left in zip(jobs, missing, strict=True) if left
    )


def split_into_chunks(jobs: Sequence[ClipJob], size: int) -> list[Chunk]:
    """Jobs in chunks of `size` clips."""
    return [tuple(jobs[first : first + size]) for first in range(0, len(jobs), size)]


def chunk_size(stores: Sequence[FeatureStore], jobs: int, devices: int, read_per_clip: int = 0) -> int:
    """Clips per chunk: as many as make a shard worth a file, and as few as keep it handy and all devices busy.

    read_per_clip: bytes of cached pictures that a clip's features are made from.
    """
    largest = max(read_per_clip, *(store.spec.bytes_per_clip for store in stores))
    handy = max(MIN_CHUNK_CLIPS, jobs // (CHUNKS_PER_DEVICE * devices))
    return max(1, min(CHUNK_CLIPS, CHUNK_BYTES // largest, handy))


def clip_range(clips: Sequence[Clip], number: int, parts: int) -> Sequence[Clip]:
    """The `number`-th of `parts` equal stretches of a manifest, counted from 1, whatever is cached."""
    return clips[len(clips) * (number - 1) // parts : len(clips) * number // parts]
