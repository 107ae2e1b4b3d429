"""All shards of one feature of one collection, read as one table."""

import os
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.lib.recfunctions import repack_fields
from numpy.typing import NDArray

from avfuse.features.cache.clip_query import ClipQuery
from avfuse.features.cache.shard_reader import Shard, read_rows, read_shard, read_spec
from avfuse.features.cache.shard_writer import MEDIA_FIELDS, ChunkResult, Failure, write_shard, write_spec
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.spec import IMPORTED, FeatureSpec, folder_stem
from avfuse.moved_modules import warn_moved

ABSENT, DONE, NO_SOUND, FAILED = range(4)
"""The outcome of a clip: no row, a feature, no audio stream, a failure."""

READ_ATTEMPTS = 10
"""Number of times that a read is tried while other processes rewrite shards."""

NO_AUDIO, NOT_EXTRACTED = "no audio stream", "not extracted"
Outcomes = NDArray[np.uint8]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Rows:
    """Rows of any number of shards as columns, one entry per row."""

    clip_id: NDArray[np.bytes_]
    shard: NDArray[np.int32]
    row: NDArray[np.int32]
    outcome: Outcomes
    size: NDArray[np.int64]
    mtime_ns: NDArray[np.int64]
    digest: NDArray[np.void]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    attempts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> "Rows":
        """The rows of some shards: of each shard features, then absences, then failures."""
        groups = [group for number, shard in enumerate(shards) for group in _outcome_rows(shard, number)]
        counts = [len(group.media) for group in groups]
        if not groups:
            return cls(**{name: np.empty(0, dtype) for name, dtype in _COLUMNS.items()})
        media = np.concatenate([group.media.view(_MEDIA_BYTES) for group in groups]).view(_MEDIA)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        return cls(
            clip_id=np.concatenate([group.clip_id for group in groups]),
            shard=np.repeat(np.array([group.shard for group in groups], np.int32), counts),
            row=(np.arange(len(media)) - first).astype(np.int32),
            outcome=np.repeat(np.array([group.outcome for group in groups], np.uint8), counts),
            attempts=np.concatenate([group.attempts for group in groups]),
            **{name: media[name] for name in MEDIA_COLUMNS},
        )

    def best_rows(self, group: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row that counts of each group, in ascending order of groups. group (n,): below 0 for rows to skip.

        A feature takes precedence over an absence, and that over a failure; then the later media file, the failure
        with more attempts, and the first shard by name.
        """
        candidates = np.flatnonzero(group >= 0)
        if (np.diff(group[candidates]) > 0).all():
            return candidates
        keys = (self.row, self.shard, -self.attempts, -self.mtime_ns, self.outcome, group)
        order = candidates[np.lexsort([key[candidates] for key in keys])]
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = group[order][1:] != group[order][:-1]
        return order[is_first]  # type: ignore[no-any-return]


_MEDIA = np.dtype(MEDIA_FIELDS)
_MEDIA_BYTES = f"V{_MEDIA.itemsize}"
MEDIA_COLUMNS = tuple(name for name, _ in MEDIA_FIELDS)
_COLUMNS: dict[str, Any] = {
    "clip_id": "S1",
    "shard": np.int32,
    "row": np.int32,
    "outcome": np.uint8,
    "size": np.int64,
    "mtime_ns": np.int64,
    "digest": "V16",
    "start": np.float64,
    "end": np.float64,
    "attempts": np.int64,
}


@dataclass(frozen=True)
class LookupResult:
    """The state of n clips in the cache, in their order."""

    shards: tuple[Shard, ...]  #: the shards that were searched
    outcome: Outcomes  #: (n,), ABSENT, DONE, NO_SOUND or FAILED
    shard: NDArray[np.int32]  #: (n,), index in `shards` of the row that counts, -1 if there is none
    row: NDArray[np.int32]  #: (n,), its row in that shard
    attempts: NDArray[np.int64]  #: (n,), how often a failed clip was tried
    extra: int  #: the number of redundant rows, left by runs side by side

    def failure(self, index: int) -> Failure:
        """The failure of the clip at `index`, whose outcome is FAILED."""
        return failure_of(self.shards[self.shard[index]], int(self.row[index]))

    def why_missing(self, index: int) -> str:
        """The reason, in words, why the clip at `index` has no feature."""
        outcome = self.outcome[index]
        if outcome == FAILED:
            failure = self.failure(index)
            return f"failed ({failure.stage}: {failure.message})"
        return NO_AUDIO if outcome == NO_SOUND else NOT_EXTRACTED


@dataclass(frozen=True)
class Loaded:
    """One feature of a list of clips."""

    spec: FeatureSpec  #: the feature
    data: NDArray[np.generic]  #: `(n, *shape)`, NaN where the feature is missing (0 in images, which are integers)
    present: NDArray[np.bool_]  #: (n,), the clips that have it
    missing: dict[str, str]  #: the reason by clip id: `no audio stream`, `failed (...)` or `not extracted`


class FeatureStore:
    """The cache folder of one feature. Safe for any number of concurrent readers and writers, on any number of
    machines: shards appear complete and never change."""

    def __init__(self, cache: Path, collection: str, spec: FeatureSpec) -> None:
        self.spec = spec
        self.key = spec.key
        self.folder = cache / collection / spec.folder
        self.committed: set[str] = set()
        """Names of the shards written by this object."""
        self._shards: dict[str, Shard] = {}
        self._known_rows: tuple[tuple[str, ...], Rows] | None = None

    def commit(self, result: ChunkResult) -> Path:
        """Add one chunk's rows as a shard. Raises OSError if the folder cannot be written."""
        path = write_shard(self.folder, result)
        spec_path = self.folder / "spec.json"
        if not spec_path.exists():
            write_spec(spec_path, self.spec)
        self.committed.add(path.name)
        return path

    def paths(self) -> list[Path]:
        """The current shard files, sorted by name."""
        return [self.folder / name for name in shard_names(self.folder)]

    def shards(self) -> tuple[Shard, ...]:
        """The tables of all current shards, by name. Each shard is read once.

        The folder is listed again until it has not changed meanwhile: the rows of a removed shard are in one that was
        added before. Raises UsageError for a damaged shard, and for one of another feature.
        """
        paths: list[Path] | None = None
        while paths != (now := self.paths()):
            paths = now
            for path in paths:
                if path.name not in self._shards and (shard := self._read(path)):
                    self._shards[path.name] = shard
        names = {path.name for path in paths}
        self._shards = {name: shard for name, shard in sorted(self._shards.items()) if name in names}
        return tuple(self._shards.values())

    def _read(self, path: Path) -> Shard | None:
        """None for a shard that was removed since it was listed."""
        try:
            shard = read_shard(path)
        except FileNotFoundError:
            return None
        if shard.key != self.key:
            raise UsageError(f"{path} holds feature {shard.key}, which does not belong in this folder: move it away")
        return shard

    def rows(self) -> Rows:
        """All current rows."""
        return self._rows(self.shards())

    def _rows(self, shards: tuple[Shard, ...]) -> Rows:
        key = tuple(shard.path.name for shard in shards)
        if self._known_rows is None or self._known_rows[0] != key:
            self._known_rows = key, Rows.of(shards)
        return self._known_rows[1]

    def lookup(self, clips: Sequence[Clip] | ClipQuery, exclude: Container[str] = ()) -> LookupResult:
        """The state of each clip in the cache now. A row counts for a clip when its interval and its media file are the
        same as when the row was computed. Where the media file is gone, the row still counts.

        exclude: names of shards to skip.
        """
        query = clips if isinstance(clips, ClipQuery) else ClipQuery(clips)
        shards = tuple(shard for shard in self.shards() if shard.path.name not in exclude)
        rows = self._rows(shards)
        position = _clip_positions(rows, query)
        best = rows.best_rows(position)
        at = position[best]
        outcome = np.full(len(query), ABSENT, np.uint8)
        shard, row = np.full(len(query), -1, np.int32), np.full(len(query), -1, np.int32)
        attempts = np.zeros(len(query), np.int64)
        outcome[at], shard[at], row[at] = rows.outcome[best], rows.shard[best], rows.row[best]
        attempts[at] = rows.attempts[best]
        extra = int(((rows.outcome != FAILED) & (position >= 0)).sum() - np.isin(outcome, (DONE, NO_SOUND)).sum())
        return LookupResult(shards, outcome, shard, row, attempts, extra)

    def find(self, clips: Sequence[Clip] | ClipQuery, beyond: Container[str] = ()) -> LookupResult:
        """The old name of `lookup`."""
        warn_moved(f"{__name__}.FeatureStore.find", f"{__name__}.FeatureStore.lookup")
        return self.lookup(clips, beyond)

    def load(self, clips: Sequence[Clip] | ClipQuery) -> Loaded:
        """The feature of each clip, in order. Verifies every shard it reads; raises UsageError for a damaged one."""
        query = clips if isinstance(clips, ClipQuery) else ClipQuery(clips)
        result, data = retry_if_removed(lambda: self._load(query))
        present = result.outcome == DONE
        missing = {query.clips[index].clip_id: result.why_missing(index) for index in np.flatnonzero(~present).tolist()}
        return Loaded(self.spec, data, present, missing)

    def _load(self, query: ClipQuery) -> tuple[LookupResult, NDArray[np.generic]]:
        result = self.lookup(query)
        return result, gather(result.shards, np.where(result.outcome == DONE, result.shard, -1), result.row, self.spec)


def retry_if_removed(read: Callable[[], Result]) -> Result:
    """The result of `read`, tried again if a shard it found was removed: its rows are in another one by then."""
    for _ in range(READ_ATTEMPTS - 1):
        with suppress(FileNotFoundError):
            return read()
    return read()


def gather(
    shards: Sequence[Shard], shard: NDArray[np.int32], row: NDArray[np.int32], spec: FeatureSpec
) -> NDArray[np.generic]:
    """Rows of several shards, (n, *spec.shape); NaN (0 in integers) where there is none. Reads each shard once and
    verifies it.

    Args:
        shards: to read from.
        shard: (n,), the index in `shards` of each row; -1 for none.
        row: (n,), the row in that shard.
        spec: the feature.
    """
    data = np.empty((len(shard), *spec.shape), np.dtype(spec.dtype).newbyteorder("<"))
    data[shard < 0] = 0 if spec.dtype == "uint8" else np.nan
    targets = np.argsort(shard, kind="stable")[np.count_nonzero(shard < 0) :]
    for at in np.split(targets, np.flatnonzero(np.diff(shard[targets])) + 1) if len(targets) else []:
        source = shards[shard[at[0]]]
        # A whole shard in its own order is read straight into its place.
        if len(at) == len(source.clip_id) == at[-1] - at[0] + 1 and (np.diff(row[at]) == 1).all():
            read_rows(source, spec, data[at[0] : at[-1] + 1])
        else:
            data[at] = read_rows(source, spec)[row[at]]
    return data


def failure_of(shard: Shard, row: int) -> Failure:
    """The failure in a row of a shard's table."""
    entry = shard.failed[row]
    return Failure(entry["stage"].decode(), entry["message"].decode(), int(entry["attempts"]))


def find_specs(cache: Path, collection: str, name: str | None = None) -> list[FeatureSpec]:
    """The specs cached for a collection, by folder name; with `name`, those of that feature only.

    Raises UsageError if the first shard of one of them is damaged.
    """
    pattern = "*-*" if name is None else f"{folder_stem(name)}-*"

    def read() -> list[FeatureSpec]:
        folders = sorted((cache / collection).glob(pattern))
        return [read_spec(folder / names[0]) for folder in folders if (names := shard_names(folder))]

    return [spec for spec in retry_if_removed(read) if name is None or spec.name == name]


def shard_names(folder: Path) -> list[str]:
    """The names of the shards in a folder, sorted; empty if there is no folder."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if name.startswith("shard-") and name.endswith(".h5"))


def find_spec(cache: Path, collection: str, name: str) -> FeatureSpec:
    """The one cached spec of a feature; `name@key` picks one of several.

    Raises UsageError if there is none, or several and no key.
    """
    plain, _, key = name.partition("@")
    specs = [spec for spec in find_specs(cache, collection, plain) if spec.key.startswith(key)]
    if not specs:
        there = _cached_names(cache, collection)
        raise UsageError(
            f"feature '{name}' is not cached for '{collection}' in {cache.resolve()}, {there}: "
            f"{extract_hint(collection, plain)}, or name another cache"
        )
    if len(specs) > 1:
        choices = ", ".join(f"{plain}@{spec.key}" for spec in specs)
        raise UsageError(f"feature '{name}' is cached in {len(specs)} variants: pick one of {choices}")
    return specs[0]


def _cached_names(cache: Path, collection: str) -> str:
    """The features that a collection has, or else the collections that the cache has, in words."""
    if features := sorted({spec.name for spec in find_specs(cache, collection)}):
        return f"which has {', '.join(features)}"
    collections = sorted({folder.parent.name for folder in cache.glob("*/*-*") if shard_names(folder)})
    return f"which has features of {', '.join(collections)}" if collections else "which has no features"


def extract_hint(dataset: str, name: str) -> str:
    """The advice for a feature that is not cached: the command that would add it."""
    if name.startswith(f"{IMPORTED}:"):
        return f"import its files with avfuse features import --dataset {dataset}"
    return f"run make extract DATASET={dataset} FEATURES={name}"


def _clip_positions(rows: Rows, query: ClipQuery) -> NDArray[np.int64]:
    """Position (n,) of the clip that each row counts for, -1 for none."""
    if not len(query):
        return np.full(len(rows), -1)
    position = query.positions(rows.clip_id)
    position[~(equal_or_nan(rows.start, query.start[position]) & equal_or_nan(rows.end, query.end[position]))] = -1
    sizes, mtimes = query.media
    has_media = (position >= 0) & (sizes[position] >= 0)
    position[has_media & (rows.size != sizes[position])] = -1
    for index in np.flatnonzero(has_media & (position >= 0) & (rows.mtime_ns != mtimes[position])):
        if rows.digest[index].tobytes() != query.digest(int(position[index])):
            position[index] = -1
    return position


def equal_or_nan(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of the elements that are equal, or both NaN."""
    return (left == right) | (np.isnan(left) & np.isnan(right))


class _OutcomeRows(NamedTuple):
    """The rows of one outcome in one shard."""

    shard: int
    outcome: int
    clip_id: NDArray[np.bytes_]
    media: NDArray[np.void]
    attempts: NDArray[np.int64]


def _outcome_rows(shard: Shard, number: int) -> Iterator[_OutcomeRows]:
    if len(shard.media):
        yield _OutcomeRows(number, DONE, shard.clip_id, shard.media, np.zeros(len(shard.media), np.int64))
    if len(shard.no_audio):
        table = shard.no_audio
        yield _OutcomeRows(number, NO_SOUND, table["clip_id"], _media(table), np.zeros(len(table), np.int64))
    if len(shard.failed):
        failed = shard.failed
        yield _OutcomeRows(number, FAILED, failed["clip_id"], _media(failed), failed["attempts"])


def _media(table: NDArray[np.void]) -> NDArray[np.void]:
    return repack_fields(table[list(MEDIA_COLUMNS)]).astype(_MEDIA)  # type: ignore[no-any-return]
