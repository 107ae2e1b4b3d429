"""Counts of cached features, over all clips or a data set's. Reads the tables of shards, not their rows."""

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
    """The state of one cached feature. Clips are counted by the row that counts for each."""

    feature: CachedFeature
    shards: int
    bytes: int
    done: int = 0  #: clips that have the feature
    no_audio: int = 0  #: clips without an audio stream
    failed: int = 0  #: clips that failed
    missing: dict[str, int] = field(default_factory=dict)  #: by data set, its clips without any row
    missing_clips: list[str] = field(default_factory=list)  #: ids of those of the data set `over`, in its order
    failures: dict[str, Failure] = field(default_factory=dict)  #: of the data set `over`, by clip id
    unreadable: dict[Path, str] = field(default_factory=dict)  #: reasons by shard, whose rows are not counted


def feature_status(
    feature: CachedFeature, data_sets: Mapping[str, ClipQuery], over: str | None = None
) -> FeatureStatus:
    """Summarise a cached feature.

    Args:
        feature: its folder.
        data_sets: clips by data set of the collection; missing clips are counted for each.
        over: the data set to which counts are limited, and whose missing and failed clips are named; None: count all
            clips that have a row.
    """
    sizes = [path.stat().st_size for path in feature.paths()]
    if feature.spec is None:
        return FeatureStatus(feature, len(sizes), sum(sizes), unreadable=_why_unreadable(feature))
    store = ReadableStore(feature.cache, feature.collection, feature.spec)
    missing, missing_clips, failures = {}, [], {}
    outcomes: Outcomes | None = None
    for name, query in data_sets.items():
        result = store.lookup(query)
        missing[name] = int((result.outcome == ABSENT).sum())
        if name == over:
            outcomes = result.outcome
            missing_clips = [query.clips[index].clip_id for index in np.flatnonzero(outcomes == ABSENT).tolist()]
            failed = np.flatnonzero(outcomes == FAILED).tolist()
            failures = {query.clips[index].clip_id: result.failure(index) for index in failed}
    if outcomes is None:
        rows = store.rows()
        outcomes = rows.outcome[rows.best_rows(clip_group_ids(rows))]
    done, no_audio, failed_clips = (int((outcomes == outcome).sum()) for outcome in (DONE, NO_SOUND, FAILED))
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
