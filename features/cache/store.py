"""All shards of one feature of one collection, read as one table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from features.cache.fingerprint import Fingerprint
from features.cache.shard import ChunkResult, Failure, open_shard, open_verified, spec_of, write_shard
from features.clips import Clip
from features.errors import UsageError
from features.spec import FeatureSpec

Outcome = Literal["done", "no_audio", "failed"]
NO_AUDIO, NOT_EXTRACTED = "no audio stream", "not extracted"
_PREFERENCE: dict[Outcome, int] = {"done": 0, "no_audio": 1, "failed": 2}


@dataclass(frozen=True)
class Row:
    """Where one clip's outcome stands, and for which media file and interval it holds."""

    shard: Path
    row: int
    outcome: Outcome
    fingerprint: Fingerprint
    start: float | None
    end: float | None
    failure: Failure | None = None

    def is_valid_for(self, clip: Clip) -> bool:
        """A row counts for a clip when the interval and the media file are the ones it was computed from. Features
        outlive their media: where the file is gone, a row computed from it still counts."""
        if (self.start, self.end) != (clip.start, clip.end):
            return False
        return self.fingerprint.matches(clip.path) or not clip.path.exists()


@dataclass(frozen=True)
class Loaded:
    """One feature for a list of clips: data (n, *shape), NaN where `present` (n,) is False, so that using it there
    shows (pictures, of whole numbers, have 0 there); `missing` says why, by clip id: `no audio stream`, `failed (...)`,
    or `not extracted`."""

    spec: FeatureSpec
    data: NDArray[np.generic]
    present: NDArray[np.bool_]
    missing: dict[str, str]


class FeatureStore:
    """The cache folder of one feature. Readers and writers of any number may use it at once."""

    def __init__(self, cache: Path, collection: str, spec: FeatureSpec) -> None:
        self.spec = spec
        self.folder = cache / collection / spec.folder

    def commit(self, result: ChunkResult) -> Path:
        """Add one chunk's rows. Raises OSError when the folder cannot be written."""
        path = write_shard(self.folder, result)
        described = self.folder / "spec.json"
        if not described.exists():
            described.write_text(self.spec.model_dump_json(indent=2) + "\n")
        self.__dict__.pop("rows", None)
        return path

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """Every row by clip id, the preferred first: done before no_audio before failed, of two media files under one
        id the later one, then by shard name."""
        table: dict[str, list[Row]] = {}
        for path in self.shards():
            with open_shard(path) as file:
                for clip_id, row in _rows_of(path, file):
                    table.setdefault(clip_id, []).append(row)
        for rows in table.values():
            rows.sort(key=lambda row: (_PREFERENCE[row.outcome], -row.fingerprint.mtime_ns, row.shard.name))
        return table

    def shards(self) -> list[Path]:
        return sorted(self.folder.glob("shard-*.h5"))

    def find(self, clip: Clip) -> Row | None:
        return next((row for row in self.rows.get(clip.clip_id, ()) if row.is_valid_for(clip)), None)

    def load(self, clips: Sequence[Clip]) -> Loaded:
        """The feature of each clip, in order. Verifies every shard it reads; raises UsageError on a damaged one."""
        found = [self.find(clip) for clip in clips]
        nothing = 0 if self.spec.dtype == "uint8" else np.nan
        data = np.full((len(clips), *self.spec.shape), nothing, dtype=self.spec.dtype)
        present = np.zeros(len(clips), dtype=bool)
        missing: dict[str, str] = {}
        by_shard: dict[Path, list[tuple[int, int]]] = {}
        for index, (clip, row) in enumerate(zip(clips, found, strict=True)):
            if row is not None and row.outcome == "done":
                by_shard.setdefault(row.shard, []).append((index, row.row))
            else:
                missing[clip.clip_id] = _why(row)
        for shard, pairs in by_shard.items():
            targets, sources = (np.array(column) for column in zip(*pairs, strict=True))
            with open_verified(shard) as file:
                data[targets] = file["data"][()][sources]
            present[targets] = True
        return Loaded(spec=self.spec, data=data, present=present, missing=missing)


def find_specs(cache: Path, collection: str, name: str | None = None) -> list[FeatureSpec]:
    """The specs cached for a collection, by folder name; only those of feature `name` where it is given."""
    specs = []
    for folder in sorted((cache / collection).glob("*-*")):
        shard = next(iter(sorted(folder.glob("shard-*.h5"))), None)
        if shard is None:
            continue
        with open_shard(shard) as file:
            spec = spec_of(file)
        if name is None or spec.name == name:
            specs.append(spec)
    return specs


def find_spec(cache: Path, collection: str, name: str) -> FeatureSpec:
    """The one cached spec of a feature; `name@key` picks one of several.

    Raises UsageError when there is none, or more than one and no key.
    """
    plain, _, key = name.partition("@")
    specs = [spec for spec in find_specs(cache, collection, plain) if spec.key.startswith(key)]
    if not specs:
        raise UsageError(
            f"feature '{name}' is not cached for '{collection}': run make extract DATASET={collection} FEATURES={plain}"
        )
    if len(specs) > 1:
        choices = ", ".join(f"{plain}@{spec.key}" for spec in specs)
        raise UsageError(f"feature '{name}' is cached in {len(specs)} variants: pick one of {choices}")
    return specs[0]


def _why(row: Row | None) -> str:
    if row is None:
        return NOT_EXTRACTED
    if row.failure is not None:
        return f"failed ({row.failure.stage}: {row.failure.message})"
    return NO_AUDIO


def _rows_of(path: Path, file: h5py.File) -> Iterator[tuple[str, Row]]:
    media = file["media"][()]
    for index, clip_id in enumerate(file["clip_id"][()]):
        yield clip_id.decode(), _row(path, index, "done", media[index])
    for index, entry in enumerate(file["no_audio"][()]):
        yield entry["clip_id"].decode(), _row(path, index, "no_audio", entry)
    for index, entry in enumerate(file["failed"][()]):
        failure = Failure(entry["stage"].decode(), entry["message"].decode(), int(entry["attempts"]))
        yield entry["clip_id"].decode(), _row(path, index, "failed", entry, failure)


def _row(path: Path, index: int, outcome: Outcome, entry: np.void, failure: Failure | None = None) -> Row:
    return Row(
        shard=path,
        row=index,
        outcome=outcome,
        fingerprint=Fingerprint(int(entry["size"]), int(entry["mtime_ns"]), entry["digest"].tobytes()),
        start=None if np.isnan(entry["start"]) else float(entry["start"]),
        end=None if np.isnan(entry["end"]) else float(entry["end"]),
        failure=failure,
    )
