"""Removal of features, and of rows that no data set lists, from a collection: first a plan to confirm, then the act."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avfuse.features.cache.catalog import CachedFeature, ReadableStore, clip_group_ids
from avfuse.features.cache.claims import Claims
from avfuse.features.cache.clip_query import ClipQuery
from avfuse.features.cache.maintenance.rewrite import SET_ASIDE, commit_part, rows_in
from avfuse.features.cache.shard_reader import Shard, read_shard
from avfuse.features.cache.store import Rows, equal_or_nan
from avfuse.features.errors import UsageError
from avfuse.features.spec import FeatureSpec


@dataclass(frozen=True)
class Removal:
    """The planned removal of one feature, or of some of its rows."""

    feature: CachedFeature
    shards: tuple[Path, ...]  #: shards to remove or rewrite
    clips: int  #: clips that lose a row
    bytes: int  #: freed space, estimated where shards are rewritten
    whole: bool  #: the whole feature is removed
    reason: str = ""


def plan_whole(feature: CachedFeature, reason: str = "") -> Removal:
    """Plan the removal of a whole feature. Unreadable shards are included; their clips are not counted."""
    paths = tuple(feature.paths())
    clips = 0
    if feature.spec is not None:
        rows = ReadableStore(feature.cache, feature.collection, feature.spec).rows()
        clips = int(clip_group_ids(rows).max(initial=-1)) + 1
    return Removal(feature, paths, clips, sum(path.stat().st_size for path in paths), True, reason)


def plan_unlisted(feature: CachedFeature, listed: Sequence[ClipQuery]) -> Removal | None:
    """Plan the removal of rows whose clip, by id and interval, is in none of the data sets `listed`.

    Returns None if there are none. Raises DamagedShard.
    """
    affected, size = [], 0
    clips: set[tuple[bytes, float, float]] = set()
    for path in feature.paths():
        shard = read_shard(path)
        kept = _listed(shard, listed)
        if not kept.all():
            rows = Rows.of([shard])
            intervals = np.nan_to_num(np.stack([rows.start, rows.end])[:, ~kept], nan=-1).tolist()
            clips.update(zip(rows.clip_id[~kept].tolist(), *intervals, strict=True))
            affected.append(path)
            size += path.stat().st_size * int((~kept).sum()) // len(kept)
    if not affected:
        return None
    return Removal(feature, tuple(affected), len(clips), size, False, "listed by no data set")


def remove(cache: Path, collection: str, removals: Iterable[Removal], listed: Sequence[ClipQuery] = ()) -> None:
    """Carry out planned removals.

    Args:
        cache: the cache folder.
        collection: the collection of the features.
        removals: from `plan_whole` and `plan_unlisted`.
        listed: as given to `plan_unlisted`.

    Raises UsageError while a run holds claims on the collection, and DamagedShard.
    """
    claims = Claims(cache, collection)
    with claims.exclusive_maintenance():
        if claims.scan()[0]:
            raise UsageError(f"a run is extracting clips of '{collection}': wait for its end, then remove")
        for removal in removals:
            if removal.whole:
                _remove_whole(removal.feature)
            else:
                assert removal.feature.spec is not None
                for path in removal.shards:
                    _remove_unlisted(path, removal.feature.spec, listed)


def _remove_whole(feature: CachedFeature) -> None:
    """Remove shards first: an interruption leaves a feature with fewer clips. Files of other programs stay."""
    aside = feature.folder / SET_ASIDE
    for path in (*feature.paths(), *feature.folder.glob(".*.tmp"), *aside.glob("*"), feature.folder / "spec.json"):
        path.unlink(missing_ok=True)
    for folder in (aside, feature.folder):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _remove_unlisted(path: Path, spec: FeatureSpec, listed: Sequence[ClipQuery]) -> None:
    shard = read_shard(path)
    kept = _listed(shard, listed)
    if not kept.all():
        commit_part(shard, spec, kept)
        path.unlink(missing_ok=True)


def _listed(shard: Shard, listed: Sequence[ClipQuery]) -> NDArray[np.bool_]:
    """Mask (n + m + k,) of a shard's rows whose clip one of the data sets lists."""
    rows = Rows.of([shard])
    mask = np.zeros(rows_in(shard), dtype=bool)
    for query in listed:
        if len(query):
            at = query.positions(rows.clip_id)
            mask |= (at >= 0) & equal_or_nan(rows.start, query.start[at]) & equal_or_nan(rows.end, query.end[at])
    return mask
