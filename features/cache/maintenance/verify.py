"""Proving a collection's shards, and putting right what is wrong with them.

Every shard is read whole, once, and only its tables are kept: memory holds one shard's data and one feature's tables.
Repairing never deletes what cannot be computed from what stays: damaged files are moved aside, rows go only where
another shard that was just proved has them too.
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
    Part,
    Shard,
    attribute,
    dataset,
    open_hdf5,
    parts_in_hdf5,
    read_rows,
    read_shard,
)
from avfuse.features.cache.shard_writer import TABLES, write_spec
from avfuse.features.cache.store import FAILED, Rows
from avfuse.features.errors import UsageError
from avfuse.features.spec import KEY_DIGITS, FeatureSpec

YOUNG_SECONDS = 3600.0
"""While a run is alive, a temporary file or an empty folder may be its own, unless it is older than this."""

_MEDIA_COLUMNS = ("size", "mtime_ns", "digest", "start", "end")
_COLUMNS = {
    "media": _MEDIA_COLUMNS,
    "no_audio": ("clip_id", *_MEDIA_COLUMNS),
    "failed": ("clip_id", *_MEDIA_COLUMNS, "stage", "message", "attempts"),
}
_FOREIGN = "does not belong into a cache"


@dataclass(frozen=True)
class Finding:
    """Something wrong with one file or folder. repaired: what was done about it; empty: nothing."""

    path: Path
    problem: str
    repaired: str = ""


@dataclass(frozen=True)
class VerifiedShard:
    """A shard whose bytes are those that were written and agree with each other. infinite (n,): rows in which numbers
    are not finite."""

    shard: Shard
    spec: FeatureSpec
    infinite: NDArray[np.bool_]


def verify(
    cache: Path,
    collection: str,
    features: Sequence[CachedFeature] | None = None,
    repair: bool = False,
    passed: Callable[[int], object] = lambda size: None,
) -> Iterator[Finding]:
    """Everything wrong in a collection, or with some of its features alone.

    Args:
        features: these alone; None: all, and what lies beside them.
        repair: put right what can be. Safe beside running extractions and readers.
        passed: gets the size of every shard, in bytes, when it has been looked at.

    Raises UsageError when somebody else repairs the collection at the same time.
    """
    if not (cache / collection).is_dir():
        return
    claims = Claims(cache, collection)
    if not repair:
        yield from _verify(cache, collection, features, claims, repair, passed)
        return
    with claims.exclusive_maintenance():
        yield from _verify(cache, collection, features, claims, repair, passed)


def verify_shard(path: Path) -> VerifiedShard:
    """Read a shard whole and hold its parts against each other.

    Raises DamagedShard for one whose bytes or parts do not fit, or that lies in another feature's folder; UsageError
    for one of another version; FileNotFoundError, PermissionError.
    """
    shard = read_shard(path)
    spec = _spec_of(shard)
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
    passed: Callable[[int], object],
) -> Iterator[Finding]:
    for feature in cached_features(cache, collection) if features is None else features:
        yield from _verify_shards(feature, repair, passed)
        yield from _verify_folder(feature, claims, repair)
    if features is None:
        yield from _verify_collection(cache / collection, claims, repair)


def _verify_shards(feature: CachedFeature, repair: bool, passed: Callable[[int], object]) -> Iterator[Finding]:
    proofs = []
    for path in feature.paths():
        try:
            size = path.stat().st_size
            proofs.append(verify_shard(path))
        except FileNotFoundError:  # removed since it was listed
            continue
        except DamagedShard as error:
            moved = _moved(set_aside(path, error.reason)) if repair else ""
            yield Finding(path, error.reason, moved)
        except (UsageError, OSError) as error:
            yield Finding(path, error_reason(path, error))
        passed(size)
    yield from _verify_rows(proofs, repair)
    if proofs:
        yield from _verify_described(feature.folder / "spec.json", proofs[0].spec, repair)


def _verify_rows(proofs: Sequence[VerifiedShard], repair: bool) -> Iterator[Finding]:
    """Rows that cannot be used, and rows that another row makes needless."""
    rows = Rows.of([proof.shard for proof in proofs])
    infinite = np.zeros(len(rows), dtype=bool)
    first = 0
    for proof in proofs:
        infinite[first : first + len(proof.infinite)] = proof.infinite
        first += rows_in(proof.shard)
    superseded, needless = _superseded(rows, infinite)
    kept = ~(infinite | superseded)
    first = 0
    for proof in proofs:
        part = slice(first, first + rows_in(proof.shard))
        first = part.stop
        if not (infinite[part] | needless[part]).any():
            continue
        path, problems = proof.shard.path, []
        if infinite[part].any():
            problems.append(f"{_count(rows, part, infinite)} with numbers that are not finite")
        if needless[part].any():
            problems.append(f"{_count(rows, part, needless)} that another row for the same clip and file outweighs")
        try:
            repaired = _rewrite(proof, kept[part], "; ".join(problems)) if repair else ""
        except DamagedShard as error:
            problems.append(error.reason)
            repaired = ""
        yield Finding(path, "; ".join(problems), repaired)


def _superseded(rows: Rows, unusable: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows (n,) that are outweighed by another one of the same clip and file, and those of them that are there for
    nothing: a failure that was tried again, with whatever outcome, is history."""
    code = media_group_ids(rows)
    code[unusable] = -1
    best = rows.best_rows(code)
    winner = np.full(len(rows), -1)
    winner[code[best]] = best
    winner = winner[code]
    superseded = (code >= 0) & (winner != np.arange(len(rows)))
    tried_as_often = (rows.outcome[winner] == FAILED) & (rows.attempts[winner] == rows.attempts)
    return superseded, superseded & ((rows.outcome != FAILED) | tried_as_often)


def _rewrite(proof: VerifiedShard, kept: NDArray[np.bool_], problem: str) -> str:
    """The rows to keep as a new shard, then the old one out of the way. Returns what was done."""
    path = proof.shard.path
    new = commit_part(proof.shard, proof.spec, kept)
    left = "" if new is None else f", {np.count_nonzero(kept)} rows kept in {new.name}"
    if proof.infinite.any():
        return f"{_moved(set_aside(path, problem))}{left}"
    path.unlink(missing_ok=True)
    return f"dropped{left}"


def _count(rows: Rows, part: slice, marked: NDArray[np.bool_]) -> str:
    numbers = np.flatnonzero(marked[part])
    example = rows.clip_id[part][numbers[0]].decode()
    return f"{len(numbers)} rows, for example of '{example}'," if len(numbers) > 1 else f"the row of '{example}'"


def _verify_described(path: Path, spec: FeatureSpec, repair: bool) -> Iterator[Finding]:
    """The description for people."""
    try:
        if FeatureSpec.model_validate_json(path.read_bytes()) == spec:
            return
        problem = "describes another feature than its shards"
    except FileNotFoundError:
        problem = "is missing"
    except ValidationError:
        problem = "is no description of a feature"
    if repair:
        write_spec(path, spec)
    yield Finding(path, problem, "written again" if repair else "")


def _verify_folder(feature: CachedFeature, claims: Claims, repair: bool) -> Iterator[Finding]:
    """What lies between the shards."""
    entries = sorted(feature.folder.iterdir())
    for path in entries:
        if path.name.startswith(".") and path.suffix == ".tmp":
            if _is_left(path, claims):
                if repair:
                    path.unlink(missing_ok=True)
                yield Finding(path, "is left of a write that did not end", "removed" if repair else "")
        elif not (path.match("shard-*.h5") or path.name in ("spec.json", SET_ASIDE)):
            yield Finding(path, _FOREIGN)
    if {path.name for path in entries} <= {"spec.json"} and _is_left(feature.folder, claims):
        repaired = "removed" if repair and _remove_empty(feature.folder) else ""
        yield Finding(feature.folder, "holds no shard", repaired)


def _remove_empty(folder: Path) -> bool:
    """Whether it is gone: a run that has just begun may write into it first."""
    (folder / "spec.json").unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _verify_collection(folder: Path, claims: Claims, repair: bool) -> Iterator[Finding]:
    """What lies beside the features."""
    for path in sorted(folder.iterdir()):
        if path.name != CLAIMS and not is_feature_folder(path):
            yield Finding(path, _FOREIGN)
    for path in sorted(claims.folder.glob("*")):
        if path.suffix not in (".claim", ".lock"):
            yield Finding(path, _FOREIGN)
    for path in claims.scan(clear=repair)[1]:
        yield Finding(path, "is left of a run that has ended", "removed" if repair else "")


def _is_left(path: Path, claims: Claims) -> bool:
    """Whether nobody alive can be at work on a temporary file or an empty folder."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:  # finished meanwhile
        return False
    living, _ = claims.scan()
    return not living or (path.is_file() and age > YOUNG_SECONDS)


def _spec_of(shard: Shard) -> FeatureSpec:
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
    """Whether columns are those that readers take from them."""
    columns = {name: getattr(shard, name).dtype.names for name in _COLUMNS}
    if columns != _COLUMNS or shard.clip_id.dtype.kind != "S" or len(shard.clip_id) != len(shard.media):
        raise DamagedShard(shard.path, "its tables have other columns than shards have")
    try:
        for ids in (shard.clip_id, shard.no_audio["clip_id"], shard.failed["clip_id"]):
            np.char.decode(ids, "utf-8")
        Rows.of([shard])
    except (TypeError, ValueError) as error:
        raise DamagedShard(shard.path, f"its tables are not what shards hold: {error}") from error


def _check_hdf5(shard: Shard) -> None:
    """Whether HDF5 says what the header says. The file's hash is right by now: what differs was written so."""
    path = shard.path
    with open_hdf5(path) as file:
        for name, said in (("key", shard.key), ("spec", shard.spec)):
            if attribute(file, name, path) != said:
                raise DamagedShard(path, f"its attribute '{name}' is not what its header says")
        if not _same_place(parts_in_hdf5(file, path)["data"], shard.data):
            raise DamagedShard(path, "its rows are not where its header says")
        for name in TABLES:
            theirs, ours = dataset(file, name, path)[()], getattr(shard, name)
            if theirs.dtype != ours.dtype or theirs.tobytes() != ours.tobytes():
                raise DamagedShard(path, f"its table '{name}' is not what its header says")


def _same_place(one: Part, other: Part) -> bool:
    same = (one.dtype, one.shape) == (other.dtype, other.shape)
    return same and (one.size == 0 or one.offset == other.offset)


def _moved(target: Path) -> str:
    return f"set aside as {target.parent.name}/{target.name}"
