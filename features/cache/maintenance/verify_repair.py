"""Verification and repair of a collection's shards.

Every shard is read whole, once, and only its tables are kept: memory holds one shard's data and one feature's tables.
Repair never loses data: damaged files are set aside, and rows are removed only if a verified shard has a better one.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from avfuse.features.cache.catalog import (
    CachedFeature,
    cached_features,
    error_reason,
    is_feature_folder,
    media_group_ids,
)
from avfuse.features.cache.claims import FOLDER as CLAIMS
from avfuse.features.cache.claims import Claims
from avfuse.features.cache.maintenance.rewrite import SET_ASIDE, commit_part, rows_in, set_aside
from avfuse.features.cache.shard_reader import (
    DamagedShard,
    DatasetLayout,
    Shard,
    attribute,
    dataset,
    hdf5_layouts,
    open_hdf5,
    read_rows,
    read_shard,
)
from avfuse.features.cache.shard_writer import TABLES, write_spec
from avfuse.features.cache.store import FAILED, Rows
from avfuse.features.errors import UsageError
from avfuse.features.spec import KEY_DIGITS, FeatureSpec

YOUNG_SECONDS = 3600.0
"""While a run is alive, temporary files and empty folders younger than this may be its own."""

_MEDIA_COLUMNS = ("size", "mtime_ns", "digest", "start", "end")
_COLUMNS = {
    "media": _MEDIA_COLUMNS,
    "no_audio": ("clip_id", *_MEDIA_COLUMNS),
    "failed": ("clip_id", *_MEDIA_COLUMNS, "stage", "message", "attempts"),
}
_FOREIGN = "does not belong in a cache"


@dataclass(frozen=True)
class Finding:
    """A problem with one file or folder."""

    path: Path
    problem: str
    repaired: str = ""  #: what was done about it; empty: nothing


@dataclass(frozen=True)
class VerifiedShard:
    """A shard whose bytes are those that were written, and consistent."""

    shard: Shard
    spec: FeatureSpec
    nonfinite: NDArray[np.bool_]  #: (n,), rows with NaN or infinite values


def verify(
    cache: Path,
    collection: str,
    features: Sequence[CachedFeature] | None = None,
    repair: bool = False,
    on_progress: Callable[[int], object] = lambda size: None,
) -> Iterator[Finding]:
    """Find all problems in a collection, or with some of its features.

    Args:
        cache: the cache folder.
        collection: its name; without such a folder there are no problems.
        features: verify only these; None: all of them, and everything beside them.
        repair: repair what can be repaired. Safe beside running extractions and readers.
        on_progress: called with the size in bytes of each verified shard.

    Raises UsageError if another process repairs the collection.
    """
    if not (cache / collection).is_dir():
        return
    claims = Claims(cache, collection)
    if not repair:
        yield from _verify(cache, collection, features, claims, repair, on_progress)
        return
    with claims.exclusive_maintenance():
        yield from _verify(cache, collection, features, claims, repair, on_progress)


def verify_shard(path: Path) -> VerifiedShard:
    """Read a whole shard and check that its parts agree.

    Raises DamagedShard if they do not, or if it lies in another feature's folder; UsageError for a shard of another
    version; FileNotFoundError, PermissionError.
    """
    shard = read_shard(path)
    spec = _check_spec(shard)
    _check_tables(shard)
    rows = read_rows(shard, spec)
    _check_hdf5(shard)
    if spec.dtype == "uint8":
        return VerifiedShard(shard, spec, np.zeros(len(rows), dtype=bool))
    return VerifiedShard(shard, spec, ~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))))


def _verify(
    cache: Path,
    collection: str,
    features: Sequence[CachedFeature] | None,
    claims: Claims,
    repair: bool,
    on_progress: Callable[[int], object],
) -> Iterator[Finding]:
    for feature in cached_features(cache, collection) if features is None else features:
        yield from _verify_shards(feature, repair, on_progress)
        yield from _verify_folder(feature, claims, repair)
    if features is None:
        yield from _verify_collection(cache / collection, claims, repair)


def _verify_shards(feature: CachedFeature, repair: bool, on_progress: Callable[[int], object]) -> Iterator[Finding]:
    verified_shards = []
    for path in feature.paths():
        try:
            size = path.stat().st_size
            verified_shards.append(verify_shard(path))
        except FileNotFoundError:  # removed since it was listed
            continue
        except DamagedShard as error:
            repaired = _set_aside_message(set_aside(path, error.reason)) if repair else ""
            yield Finding(path, error.reason, repaired)
        except (UsageError, OSError) as error:
            yield Finding(path, error_reason(path, error))
        on_progress(size)
    yield from _verify_rows(verified_shards, repair)
    if verified_shards:
        yield from _verify_spec_file(feature.folder / "spec.json", verified_shards[0].spec, repair)


def _verify_rows(verified_shards: Sequence[VerifiedShard], repair: bool) -> Iterator[Finding]:
    """Unusable and redundant rows."""
    rows = Rows.of([verified.shard for verified in verified_shards])
    nonfinite = np.zeros(len(rows), dtype=bool)
    first = 0
    for verified in verified_shards:
        nonfinite[first : first + len(verified.nonfinite)] = verified.nonfinite
        first += rows_in(verified.shard)
    superseded, redundant = _superseded(rows, nonfinite)
    kept = ~(nonfinite | superseded)
    first = 0
    for verified in verified_shards:
        part = slice(first, first + rows_in(verified.shard))
        first = part.stop
        if not (nonfinite[part] | redundant[part]).any():
            continue
        path, problems = verified.shard.path, []
        if nonfinite[part].any():
            problems.append(f"{_count(rows, part, nonfinite)} with values that are not finite")
        if redundant[part].any():
            problems.append(f"{_count(rows, part, redundant)} superseded by another row for the same clip and file")
        try:
            repaired = _rewrite(verified, kept[part], "; ".join(problems)) if repair else ""
        except DamagedShard as error:
            problems.append(error.reason)
            repaired = ""
        yield Finding(path, "; ".join(problems), repaired)


def _superseded(rows: Rows, unusable: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Superseded rows (n,), those with a better one for the same clip and file, and which of them are redundant:
    failures that were tried again are history, and no problem."""
    group = media_group_ids(rows)
    group[unusable] = -1
    best = rows.best_rows(group)
    best_of_group = np.full(len(rows), -1)
    best_of_group[group[best]] = best
    winner = best_of_group[group]
    superseded = (group >= 0) & (winner != np.arange(len(rows)))
    same_attempts = (rows.outcome[winner] == FAILED) & (rows.attempts[winner] == rows.attempts)
    return superseded, superseded & ((rows.outcome != FAILED) | same_attempts)


def _rewrite(verified: VerifiedShard, kept: NDArray[np.bool_], problem: str) -> str:
    """Write the rows to keep as a new shard, then remove the old one. Returns what was done."""
    path = verified.shard.path
    new = commit_part(verified.shard, verified.spec, kept)
    rest = "" if new is None else f", {np.count_nonzero(kept)} rows kept in {new.name}"
    if verified.nonfinite.any():
        return f"{_set_aside_message(set_aside(path, problem))}{rest}"
    path.unlink(missing_ok=True)
    return f"dropped{rest}"


def _count(rows: Rows, part: slice, marked: NDArray[np.bool_]) -> str:
    numbers = np.flatnonzero(marked[part])
    example = rows.clip_id[part][numbers[0]].decode()
    return f"{len(numbers)} rows, for example of '{example}'," if len(numbers) > 1 else f"the row of '{example}'"


def _verify_spec_file(path: Path, spec: FeatureSpec, repair: bool) -> Iterator[Finding]:
    """Problems with `spec.json`."""
    try:
        if FeatureSpec.model_validate_json(path.read_bytes()) == spec:
            return
        problem = "describes another feature than its shards"
    except FileNotFoundError:
        problem = "is missing"
    except ValidationError:
        problem = "is not the description of a feature"
    if repair:
        write_spec(path, spec)
    yield Finding(path, problem, "written again" if repair else "")


def _verify_folder(feature: CachedFeature, claims: Claims, repair: bool) -> Iterator[Finding]:
    """Problems with files beside the shards of a feature."""
    entries = sorted(feature.folder.iterdir())
    for path in entries:
        if path.name.startswith(".") and path.suffix == ".tmp":
            if _is_leftover(path, claims):
                if repair:
                    path.unlink(missing_ok=True)
                yield Finding(path, "is left over from an interrupted write", "removed" if repair else "")
        elif not (path.match("shard-*.h5") or path.name in ("spec.json", SET_ASIDE)):
            yield Finding(path, _FOREIGN)
    if {path.name for path in entries} <= {"spec.json"} and _is_leftover(feature.folder, claims):
        repaired = "removed" if repair and _remove_empty(feature.folder) else ""
        yield Finding(feature.folder, "has no shard", repaired)


def _remove_empty(folder: Path) -> bool:
    """Remove a folder without shards. False if a run that has just started wrote into it first."""
    (folder / "spec.json").unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _verify_collection(folder: Path, claims: Claims, repair: bool) -> Iterator[Finding]:
    """Problems with files beside the features of a collection."""
    for path in sorted(folder.iterdir()):
        if path.name != CLAIMS and not is_feature_folder(path):
            yield Finding(path, _FOREIGN)
    for path in sorted(claims.folder.glob("*")):
        if path.suffix not in (".claim", ".lock"):
            yield Finding(path, _FOREIGN)
    for path in claims.scan(clear=repair)[1]:
        yield Finding(path, "is left over from a run that has ended", "removed" if repair else "")


def _is_leftover(path: Path, claims: Claims) -> bool:
    """Whether no running process can be writing a temporary file, or into an empty folder."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:  # finished meanwhile
        return False
    live_claims, _ = claims.scan()
    return not live_claims or (path.is_file() and age > YOUNG_SECONDS)


def _check_spec(shard: Shard) -> FeatureSpec:
    """The spec of a shard, whose key and folder are that spec's."""
    path, digest = shard.path, hashlib.sha256(shard.spec.encode()).hexdigest()[:KEY_DIGITS]
    if digest != shard.key:
        raise DamagedShard(path, f"its spec has the key {digest}, its header says {shard.key}")
    other_version = UsageError(f"{path} was written by another version of avfuse, whose spec this one does not know")
    try:
        spec = FeatureSpec.model_validate_json(shard.spec)
    except ValidationError as error:
        raise other_version from error
    if spec.key != shard.key:
        raise other_version
    if spec.folder != path.parent.name:
        raise DamagedShard(path, f"it holds the feature {spec.name}@{spec.key}, whose folder is {spec.folder}")
    return spec


def _check_tables(shard: Shard) -> None:
    """Raises DamagedShard if the tables do not have the columns that readers use."""
    columns = {name: getattr(shard, name).dtype.names for name in _COLUMNS}
    if columns != _COLUMNS or shard.clip_id.dtype.kind != "S" or len(shard.clip_id) != len(shard.media):
        raise DamagedShard(shard.path, "its tables do not have the columns of a shard")
    try:
        for ids in (shard.clip_id, shard.no_audio["clip_id"], shard.failed["clip_id"]):
            np.char.decode(ids, "utf-8")
        Rows.of([shard])
    except (TypeError, ValueError) as error:
        raise DamagedShard(shard.path, f"its tables are malformed: {error}") from error


def _check_hdf5(shard: Shard) -> None:
    """Raises DamagedShard if HDF5 contradicts the header, in a file whose hash is right."""
    path = shard.path
    with open_hdf5(path) as file:
        for name, value in (("key", shard.key), ("spec", shard.spec)):
            if attribute(file, name, path) != value:
                raise DamagedShard(path, f"its attribute '{name}' contradicts its header")
        if not _same_layout(hdf5_layouts(file, path)["data"], shard.data):
            raise DamagedShard(path, "its rows are not where its header says")
        for name in TABLES:
            hdf5_table, header_table = dataset(file, name, path)[()], getattr(shard, name)
            if hdf5_table.dtype != header_table.dtype or hdf5_table.tobytes() != header_table.tobytes():
                raise DamagedShard(path, f"its table '{name}' contradicts its header")


def _same_layout(left: DatasetLayout, right: DatasetLayout) -> bool:
    same_type = (left.dtype, left.shape) == (right.dtype, right.shape)
    return same_type and (left.size == 0 or left.offset == right.offset)


def _set_aside_message(target: Path) -> str:
    return f"set aside as {target.parent.name}/{target.name}"
