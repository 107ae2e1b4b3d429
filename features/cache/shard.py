"""One shard: an HDF5 file with one feature of one chunk's clips, complete in itself.

Data sets, all readable with plain h5py:

    clip_id   (n,)         fixed-length UTF-8 bytes
    data      (n, *shape)  the feature
    media     (n,)         size, mtime_ns, digest, start, end (NaN: the whole file)
    no_audio  (m,)         clip_id and the same media columns
    failed    (k,)         clip_id, the same media columns, stage, message, attempts

Attributes: format_version, spec (canonical JSON), key, software (JSON).
"""

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from features.cache.fingerprint import Fingerprint
from features.clips import Clip
from features.errors import UsageError
from features.spec import FeatureSpec

FORMAT_VERSION = 1
_SOFTWARE = ("avfuse", "torch", "torchvision", "av", "librosa", "numpy", "pillow")
_MEDIA_FIELDS: list[tuple[str, str]] = [
    ("size", "<i8"),
    ("mtime_ns", "<i8"),
    ("digest", "V16"),
    ("start", "<f8"),
    ("end", "<f8"),
]


@dataclass(frozen=True)
class Failure:
    """Why a clip has no feature. `attempts` counts the runs that tried."""

    stage: str
    message: str
    attempts: int = 1


@dataclass
class ChunkResult:
    """What one chunk gave for one feature: rows for the clips that worked, and the others by outcome."""

    spec: FeatureSpec
    done: list[tuple[Clip, Fingerprint]] = field(default_factory=list)
    data: list[NDArray[np.generic]] = field(default_factory=list)
    no_audio: list[tuple[Clip, Fingerprint]] = field(default_factory=list)
    failed: list[tuple[Clip, Fingerprint, Failure]] = field(default_factory=list)

    @property
    def clip_ids(self) -> list[str]:
        every = [*self.done, *self.no_audio, *((clip, print_) for clip, print_, _ in self.failed)]
        return sorted(clip.clip_id for clip, _ in every)


def write_shard(folder: Path, result: ChunkResult) -> Path:
    """Write a chunk's rows as one new shard: a temporary file, hashed, flushed to disk, then renamed. Half a shard is
    never seen under a shard's name."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        _write(temporary, result)
        clip_set = xxhash.xxh3_64("\n".join(result.clip_ids).encode()).hexdigest()[:8]
        final = folder / f"shard-{clip_set}-{file_hash(temporary)}.h5"
        _flush(temporary)
        temporary.rename(final)
        _flush(folder)
    finally:
        temporary.unlink(missing_ok=True)
    return final


def file_hash(path: Path) -> str:
    """xxh3_128 of a file's bytes, in hexadecimal."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def open_verified(path: Path) -> h5py.File:
    """Open a shard whose bytes hash to what its name says. Raises UsageError when they do not."""
    if file_hash(path) != path.stem.rpartition("-")[2]:
        raise _damaged(path)
    return open_shard(path)


def open_shard(path: Path) -> h5py.File:
    """Open a shard without reading all of it. Raises UsageError when it is no whole HDF5 file."""
    try:
        return h5py.File(path, "r", locking=False)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UsageError:
    return UsageError(f"{path} is damaged (its bytes do not match its name): delete it and extract again")


def spec_of(file: h5py.File) -> FeatureSpec:
    return FeatureSpec.model_validate_json(bytes(file.attrs["spec"]))


def _write(path: Path, result: ChunkResult) -> None:
    spec = result.spec
    with h5py.File(path, "w", locking=False) as file:
        # Fixed-length bytes throughout: no object types, so nothing in a shard can be anything but plain data.
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["spec"] = np.bytes_(spec.canonical_json.encode())
        file.attrs["key"] = np.bytes_(spec.key.encode())
        file.attrs["software"] = np.bytes_(json.dumps(software_versions()).encode())
        rows = np.asarray(result.data, dtype=spec.dtype).reshape(len(result.data), *spec.shape)
        file["clip_id"] = _texts([clip.clip_id for clip, _ in result.done])
        file["data"] = rows
        file["media"] = _table([_media_row(*pair) for pair in result.done], _MEDIA_FIELDS)
        file["no_audio"] = _table(
            [(clip.clip_id.encode(), *_media_row(clip, print_)) for clip, print_ in result.no_audio],
            [("clip_id", _text_type([c.clip_id for c, _ in result.no_audio])), *_MEDIA_FIELDS],
        )
        file["failed"] = _failed_table(result.failed)


def _failed_table(failed: Sequence[tuple[Clip, Fingerprint, Failure]]) -> NDArray[np.void]:
    columns = [
        ("clip_id", _text_type([clip.clip_id for clip, _, _ in failed])),
        *_MEDIA_FIELDS,
        ("stage", _text_type([failure.stage for _, _, failure in failed])),
        ("message", _text_type([failure.message for _, _, failure in failed])),
        ("attempts", "<i8"),
    ]
    rows = [
        (
            clip.clip_id.encode(),
            *_media_row(clip, print_),
            failure.stage.encode(),
            failure.message.encode(),
            failure.attempts,
        )
        for clip, print_, failure in failed
    ]
    return _table(rows, columns)


def _media_row(clip: Clip, print_: Fingerprint) -> tuple[Any, ...]:
    start = np.nan if clip.start is None else clip.start
    end = np.nan if clip.end is None else clip.end
    return (print_.size, print_.mtime_ns, print_.digest, start, end)


def _table(rows: Sequence[tuple[Any, ...]], columns: list[tuple[str, str]]) -> NDArray[np.void]:
    return np.array(list(rows), dtype=np.dtype(columns))


def _texts(values: Sequence[str]) -> NDArray[np.bytes_]:
    return np.array([value.encode() for value in values], dtype=_text_type(values))


def _text_type(values: Sequence[str]) -> str:
    return f"S{max([len(value.encode()) for value in values], default=1) or 1}"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def software_versions() -> dict[str, str]:
    """Versions of the packages that a feature's bytes can depend on."""
    versions = {}
    for name in _SOFTWARE:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
