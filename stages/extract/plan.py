"""Clips that lack a feature, cut into chunks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avfuse.features.cache import ClipQuery, FeatureStore
from avfuse.features.cache.store import ABSENT, FAILED, LookupResult
from avfuse.features.clips import Clip

CHUNK_CLIPS = 1024
CHUNK_BYTES = 128 * 2**20
MIN_CHUNK_CLIPS = 64
CHUNKS_PER_DEVICE = 8
"""Minimum number: the last device to finish then keeps the others waiting less, and a second run finds work."""

MAX_ATTEMPTS = 2
"""A failed clip is retried once, by the next run; after that only with `retry_failed`."""


@dataclass(frozen=True)
class ClipJob:
    """The missing features of one clip."""

    clip: Clip
    missing: tuple[int, ...]
    """Positions in the list of features."""
    attempts: tuple[int, ...]
    """Failed attempts before, per missing feature."""


Chunk = tuple[ClipJob, ...]


@dataclass(frozen=True)
class ExtractionPlan:
    """The clips to work on, in the manifest's order."""

    jobs: tuple[ClipJob, ...]
    retries: int
    """Number of these clips that failed before."""
    shards: tuple[frozenset[str], ...]
    """Names of the shards that each feature had when the plan was made."""


def plan_extraction(
    stores: Sequence[FeatureStore], clips: Sequence[Clip] | ClipQuery, retry_failed: bool = False
) -> ExtractionPlan:
    """Plan the features that the cache lacks of these clips.

    Args:
        stores: one per feature.
        clips: in the manifest's order.
        retry_failed: whether to retry clips that have failed `MAX_ATTEMPTS` times.

    Raises:
        UsageError: a shard is damaged.
    """
    query = clips if isinstance(clips, ClipQuery) else ClipQuery(clips)
    missing = np.zeros((len(query), len(stores)), dtype=bool)
    attempts = np.zeros((len(query), len(stores)), dtype=np.int64)
    shards = []
    for position, store in enumerate(stores):
        result = store.lookup(query)
        shards.append(frozenset(shard.path.name for shard in result.shards))
        missing[:, position] = (result.outcome == ABSENT) | _retry_mask(result, retry_failed)
        attempts[:, position] = result.attempts
    jobs = []
    for index in np.flatnonzero(missing.any(axis=1)).tolist():
        positions = np.flatnonzero(missing[index])
        jobs.append(ClipJob(query.clips[index], tuple(positions.tolist()), tuple(attempts[index, positions].tolist())))
    return ExtractionPlan(tuple(jobs), int((missing & (attempts > 0)).any(axis=1).sum()), tuple(shards))


def _retry_mask(result: LookupResult, retry_failed: bool) -> NDArray[np.bool_]:
    """Failed clips to retry: bool (n,)."""
    return (result.outcome == FAILED) & (retry_failed | (result.attempts < MAX_ATTEMPTS))


def remaining_jobs(
    stores: Sequence[FeatureStore], jobs: Iterable[ClipJob], known_shards: Sequence[frozenset[str]]
) -> tuple[ClipJob, ...]:
    """Part of the jobs that remains after other runs have committed.

    Args:
        stores: one per feature.
        jobs: as they were planned.
        known_shards: names of the shards that each feature had by then; only newer ones are read.
    """
    jobs = tuple(jobs)
    query = ClipQuery([job.clip for job in jobs])
    attempts_by_feature = [dict(zip(job.missing, job.attempts, strict=True)) for job in jobs]
    for position, (store, known) in enumerate(zip(stores, known_shards, strict=True)):
        known = known | store.committed
        if all(path.name in known for path in store.paths()):
            continue
        result = store.lookup(query, exclude=known)
        for index, attempts in enumerate(attempts_by_feature):
            outcome = result.outcome[index]
            if outcome == ABSENT or (outcome == FAILED and result.attempts[index] <= attempts.get(position, 0)):
                continue
            attempts.pop(position, None)
    return tuple(
        ClipJob(job.clip, tuple(attempts), tuple(attempts.values()))
        for job, attempts in zip(jobs, attempts_by_feature, strict=True)
        if attempts
    )


def split_into_chunks(jobs: Sequence[ClipJob], size: int) -> list[Chunk]:
    """Chunks of `size` clips, the last one of what remains."""
    return [tuple(jobs[first : first + size]) for first in range(0, len(jobs), size)]


def chunk_size(stores: Sequence[FeatureStore], jobs: int, devices: int, read_per_clip: int = 0) -> int:
    """Clips per chunk: enough to be worth a file, few enough to fit in memory and to keep all devices busy.

    Args:
        stores: one per feature.
        jobs: clips to work on.
        devices: how many chunks are processed at once.
        read_per_clip: bytes of cached audio images that a clip's features are made from.
    """
    largest = max(read_per_clip, *(store.spec.bytes_per_clip for store in stores))
    balanced = max(MIN_CHUNK_CLIPS, jobs // (CHUNKS_PER_DEVICE * devices))
    return max(1, min(CHUNK_CLIPS, CHUNK_BYTES // largest, balanced))


def clip_range(clips: Sequence[Clip], number: int, parts: int) -> Sequence[Clip]:
    """The `number`-th, from 1, of `parts` equal consecutive ranges, whatever is cached."""
    return clips[len(clips) * (number - 1) // parts : len(clips) * number // parts]
