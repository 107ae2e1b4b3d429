"""What is cached, counted over all clips or a data set's. Shards' tables are read, one feature's at a time; no data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from avfuse.features.cache.catalog import CachedFeature, ReadableStore, clip_group_ids, error_reason
from avfuse.features.cache.clip_query import ClipQuery
from avfuse.features.cache.shard_reader import read_shard
from avfuse.features.cache.shard_writer import Failure
from avfuse.features.cache.store import ABSENT, DONE, FAILED, NO_SOUND, Outcomes
from avfuse.features.errors import UsageError


@dataclass(frozen=True)
class FeatureStatus:
    """How one feature stands. done, no_audio, failed: clips, by the row that counts for each; missing: by data set, how
    many of its clips have no row at all; missing_clips and failures: those of the data set that was asked about, in its
    order; unreadable: shards that are damaged or of another version, whose rows are counted nowhere."""

    feature: CachedFeature
    shards: int
    bytes: int
    done: int = 0
    no_audio: int = 0
    failed: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    missing_clips: list[str] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)


def feature_status(
    feature: CachedFeature, data_sets: Mapping[str, ClipQuery], over: str | None = None
) -> FeatureStatus:
    """How a cached feature stands.

    Args:
        data_sets: the clips of every data set of the collection whose missing clips are to be counted.
        over: the one whose clips alone are counted and named; None: every clip that has a row is counted.
    """
    sizes = [path.stat().st_size for path in feature.paths()]
    if feature.spec is None:
        return FeatureStatus(feature, len(sizes), sum(sizes), unreadable=_why_unreadable(feature))
    store = ReadableStore(feature.cache, feature.collection, feature.spec)
    missing, missing_clips, failures = {}, [], {}
    outcomes: Outcomes | None = None
    for name, asked in data_sets.items():
        found = store.lookup(asked)
        missing[name] = int((found.outcome == ABSENT).sum())
        if name == over:
            outcomes = found.outcome
            missing_clips = [asked.clips[index].clip_id for index in np.flatnonzero(outcomes == ABSENT).tolist()]
            failed = np.flatnonzero(outcomes == FAILED).tolist()
            failures = {asked.clips[index].clip_id: found.failure(index) for index in failed}
    if outcomes is None:
        rows = store.rows()
        outcomes = rows.outcome[rows.best_rows(clip_group_ids(rows))]
    done, no_audio, failed_clips = (int((outcomes == each).sum()) for each in (DONE, NO_SOUND, FAILED))
    return FeatureStatus(
        feature,
        len(sizes),
        sum(sizes),
        done,
        no_audio,
        failed_clips,
        missing,
        missing_clips,
        failures,
        store.unreadable,
    )


def _why_unreadable(feature: CachedFeature) -> dict[Path, str]:
    reasons = {}
    for path in feature.paths():
        try:
            shard = read_shard(path)
        except (UsageError, OSError) as error:
            reasons[path] = error_reason(path, error)
        else:
            reasons[path] = f"holds feature {shard.key}, or a spec of another version of avfuse"
    return reasons
