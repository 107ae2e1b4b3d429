"""Taking features, and rows that nobody can ask for, out of a collection. First a plan that people can look at."""

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
from avfuse.features.cache.store import Rows, equal
from avfuse.features.errors import UsageError
from avfuse.features.spec import FeatureSpec


@dataclass(frozen=True)
class Removal:
    """What goes of one feature. shards: those that are touched; clips: how many clips lose a row that counts for them;
    bytes: how much smaller the cache gets, about where shards are written again; whole: the feature goes with all it
    has. reason: why."""

    feature: CachedFeature
    shards: tuple[Path, ...]
    clips: int
    bytes: int
    whole: bool
    reason: str = ""


def plan_whole(feature: CachedFeature, reason: str = "") -> Removal:
    """A feature with all it has. Shards that cannot be read go too; their clips are not counted."""
    paths = tuple(feature.paths())
    clips = 0
    if feature.spec is not None:
        rows = ReadableStore(feature.cache, feature.collection, feature.spec).rows()
        clips = int(clip_group_ids(rows).max(initial=-1)) + 1
    return Removal(feature, paths, clips, sum(path.stat().st_size for path in paths), True, reason)


def plan_unlisted(feature: CachedFeature, listed: Sequence[ClipQuery]) -> Removal | None:
    """The rows of clips, by id and interval, that none of some data sets lists. None where there are none.

    Raises DamagedShard.
    """
    touched, size = [], 0
    clips: set[tuple[bytes, float, float]] = set()
    for path in feature.paths():
        shard = read_shard(path)
        kept = _listed(shard, listed)
        if not kept.all():
            rows = Rows.of([shard])
            intervals = np.nan_to_num(np.stack([rows.start, rows.end])[:, ~kept], nan=-1).tolist()
            clips.update(zip(rows.clip_id[~kept].tolist(), *intervals, strict=True))
            touched.append(path)
            size += path.stat().st_size * int((~kept).sum()) // len(kept)
    if not touched:
        return None
    return Removal(feature, tuple(touched), len(clips), size, False, "listed by no data set")


def remove(cache: Path, collection: str, removals: Iterable[Removal], listed: Sequence[ClipQuery] = ()) -> None:
    """Do what was planned. listed: as it was given to `plan_unlisted`.

    What goes in part is written again without it first. Raises UsageError while a run has clips of the collection in
    work, and DamagedShard.
    """
    claims = Claims(cache, collection)
    with claims.exclusive_maintenance():
        if claims.scan()[0]:
            raise UsageError(f"a run has clips of '{collection}' in work: wait for its end, then remove")
        for removal in removals:
            if removal.whole:
                _remove_whole(removal.feature)
            else:
                assert removal.feature.spec is not None
                for path in removal.shards:
                    _remove_unlisted(path, removal.feature.spec, listed)


def _remove_whole(feature: CachedFeature) -> None:
    """Shards first: what is left when this is interrupted is a feature with fewer clips. What avfuse did not write
    stays."""
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
    """Which rows (n + m + k,) are of clips that one of some data sets lists."""
    rows = Rows.of([shard])
    known = np.zeros(rows_in(shard), dtype=bool)
    for asked in listed:
        if len(asked):
            code = asked.positions(rows.clip_id)
            known |= (code >= 0) & equal(rows.start, asked.start[code]) & equal(rows.end, asked.end[code])
    return known
