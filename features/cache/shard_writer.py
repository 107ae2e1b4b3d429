"""Writing one shard: an HDF5 file with one feature of one chunk's clips, complete in itself (docs/cache-format.md).

A header, one page of text, then an HDF5 file. Its data sets, all readable with plain h5py:

    clip_id   (n,)         fixed-length UTF-8 bytes
    media     (n,)         size, mtime_ns, digest, start, end (NaN: the whole file)
    no_audio  (m,)         clip_id and the same media columns
    failed    (k,)         clip_id, the same media columns, stage, message, attempts
    data      (n, *shape)  the feature

Attributes: format_version, spec (canonical JSON), key, software (JSON).
"""

import json
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

from avfuse.features.atomic import atomic_write
from avfuse.features.cache.fingerprint import Fingerprint
from avfuse.features.clips import Clip
from avfuse.features.spec import FeatureSpec

FORMAT_VERSION = 2
"""Raised only if a reader of the old format would misread the new one: readers ignore unknown entries."""

MIN_HEADER_BYTES = 4096
"""The smallest header. HDF5 skips it as a user block, whose size must be a power of two."""

MAGIC = b"avfuse shard"
TABLES = ("clip_id", "media", "no_audio", "failed")
GZIP_LEVEL = 4
_SOFTWARE = ("avfuse", "torch", "torchvision", "av", "librosa", "numpy", "pillow")
MEDIA_FIELDS: list[tuple[str, str]] = [
    ("size", "<i8"),
    ("mtime_ns", "<i8"),
    ("digest", "V16"),
    ("start", "<f8"),
    ("end", "<f8"),
]


@dataclass(frozen=True)
class Failure:
    """A clip that could not be processed."""

    stage: str  #: such as `decode` or `render`
    message: str
    attempts: int = 1  #: runs that tried


@dataclass
class ChunkResult:
    """One chunk's results for one feature, with the fingerprint of each clip's media file."""

    spec: FeatureSpec
    done: list[tuple[Clip, Fingerprint]] = field(default_factory=list)  #: clips that have the feature
    data: list[NDArray[np.generic]] = field(default_factory=list)  #: their rows, each of spec.shape
    no_audio: list[tuple[Clip, Fingerprint]] = field(default_factory=list)  #: clips without an audio stream
    failed: list[tuple[Clip, Fingerprint, Failure]] = field(default_factory=list)  #: clips that failed
    software: dict[str, str] | None = None  #: versions it was computed with; None: those installed

    @property
    def clip_ids(self) -> list[str]:
        """The ids of all clips, sorted."""
        clips = [clip for clip, _ in (*self.done, *self.no_audio)] + [clip for clip, _, _ in self.failed]
        return sorted(clip.clip_id for clip in clips)


def write_shard(folder: Path, result: ChunkResult) -> Path:
    """Write a chunk as one new shard, atomically and durably, under its hash. Raises OSError if the folder cannot be
    written, and then leaves nothing behind."""
    folder.mkdir(parents=True, exist_ok=True)
    content = shard_content(result)
    clip_set = xxhash.xxh3_64("\n".join(result.clip_ids).encode()).hexdigest()[:8]
    state = xxhash.xxh3_128()
    for part in content:
        state.update(part)
    final = folder / f"shard-{clip_set}-{state.hexdigest()}.h5"
    try:
        with atomic_write(final, durable=True) as temporary, temporary.open("xb") as file:
            file.writelines(content)
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise
    return final


def write_spec(path: Path, spec: FeatureSpec) -> None:
    """Write `spec.json`, the description for people beside a feature's shards, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(spec.model_dump_json(indent=2) + "\n")


def shard_content(result: ChunkResult) -> tuple[bytes, bytes]:
    """A shard's header and its HDF5 file, made in memory and so written sequentially."""
    spec = result.spec
    # Strings are fixed-length bytes: HDF5's variable-length ones would be objects.
    with h5py.File(uuid.uuid4().hex, "w", driver="core", backing_store=False) as file:
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["spec"] = np.bytes_(spec.canonical_json.encode())
        file.attrs["key"] = np.bytes_(spec.key.encode())
        software = software_versions() if result.software is None else result.software
        file.attrs["software"] = np.bytes_(json.dumps(software).encode())
        file["clip_id"] = _texts([clip.clip_id for clip, _ in result.done])
        file["media"] = _table([_media_row(*pair) for pair in result.done], MEDIA_FIELDS)
        file["no_audio"] = _table(
            [(clip.clip_id.encode(), *_media_row(clip, media)) for clip, media in result.no_audio],
            [("clip_id", _text_type([c.clip_id for c, _ in result.no_audio])), *MEDIA_FIELDS],
        )
        file["failed"] = _failed_table(result.failed)
        rows = np.asarray(result.data, dtype=np.dtype(spec.dtype).newbyteorder("<"))
        rows = rows.reshape(len(result.data), *spec.shape)
        if spec.dtype == "uint8" and len(rows):  # images compress well, network outputs hardly
            file.create_dataset(
                "data", data=rows, chunks=(1, *spec.shape), compression="gzip", compression_opts=GZIP_LEVEL
            )
        else:
            file["data"] = rows
        file.flush()
        image = file.id.get_file_image()
        header = _header(spec, file, image)
    return header, image


def _header(spec: FeatureSpec, file: h5py.File, image: bytes) -> bytes:
    """The header, padded to a power of two, so that planning and loading can do without HDF5."""
    size = MIN_HEADER_BYTES
    while size < len(_header_text(spec, file, image, size)):
        size *= 2
    return _header_text(spec, file, image, size).ljust(size, b"\n")


def _header_text(spec: FeatureSpec, file: h5py.File, image: bytes, header_bytes: int) -> bytes:
    """Two lines: format and hashes; the spec and the layout of every data set as JSON. Offsets count from the start of
    a file whose header has `header_bytes`."""
    parts = {}
    tables = xxhash.xxh3_128()
    for name in (*TABLES, "data"):
        table = file[name]
        columns = table.dtype.names
        kind = [(column, table.dtype[column].str) for column in columns] if columns else table.dtype.str
        parts[name] = {"dtype": kind, "shape": table.shape}
        if table.chunks is None:
            offset = table.id.get_offset() if table.size else 0
            parts[name]["offset"] = header_bytes + offset
            if name in TABLES:
                tables.update(image[offset : offset + table.nbytes])
    contents = {"key": spec.key, "parts": parts, "spec": spec.canonical_json}
    header_json = json.dumps(contents, separators=(",", ":")).encode()
    hashes = (xxhash.xxh3_128_hexdigest(header_json).encode(), tables.hexdigest().encode())
    return b"%s %d %s %s\n%s\n" % (MAGIC, FORMAT_VERSION, *hashes, header_json)


def _failed_table(failed: Sequence[tuple[Clip, Fingerprint, Failure]]) -> NDArray[np.void]:
    columns = [
        ("clip_id", _text_type([clip.clip_id for clip, _, _ in failed])),
        *MEDIA_FIELDS,
        ("stage", _text_type([failure.stage for _, _, failure in failed])),
        ("message", _text_type([failure.message for _, _, failure in failed])),
        ("attempts", "<i8"),
    ]
    rows = [
        (
            clip.clip_id.encode(),
            *_media_row(clip, media),
            failure.stage.encode(),
            failure.message.encode(),
            failure.attempts,
        )
        for clip, media, failure in failed
    ]
    return _table(rows, columns)


def _media_row(clip: Clip, media: Fingerprint) -> tuple[Any, ...]:
    start = np.nan if clip.start is None else clip.start
    end = np.nan if clip.end is None else clip.end
    return (media.size, media.mtime_ns, media.digest, start, end)


def _table(rows: Sequence[tuple[Any, ...]], columns: list[tuple[str, str]]) -> NDArray[np.void]:
    return np.array(list(rows), dtype=np.dtype(columns))


def _texts(values: Sequence[str]) -> NDArray[np.bytes_]:
    return np.array([value.encode() for value in values], dtype=_text_type(values))


def _text_type(values: Sequence[str]) -> str:
    return f"S{max([len(value.encode()) for value in values], default=1) or 1}"


def software_versions() -> dict[str, str]:
    """Versions of the packages that a feature can depend on."""
    versions = {}
    for name in _SOFTWARE:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
