"""Reading shards, which may be damaged or untrusted: nothing is used before its hash is checked, nothing is executed,
and anything but plain data is rejected.

Planning reads a shard's header and tables, a few per cent of it, under their own hashes. Loading reads the whole file
once, under the hash in its name, and writes its rows straight into the caller's array.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import ValidationError

from avfuse.features.cache.shard_writer import FORMAT_VERSION, MAGIC, TABLES
from avfuse.features.errors import UsageError
from avfuse.features.spec import FeatureSpec

_PREFIX_BYTES = 64 * 1024
_BLOCK_BYTES = 256 * 1024
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_OWN_FILTERS = frozenset({h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32})
"""Filters that come with HDF5; for any other it would load a plug-in, which is code."""


class DamagedShard(UsageError):
    """A shard whose bytes are not those that were written. reason: how that was detected."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is damaged ({reason}): set it aside with avfuse features verify --repair and extract again"
        )
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["DamagedShard"], tuple[Path, str]]:
        return type(self), (self.path, self.reason)


class NewerFormat(UsageError):
    """A shard that only a newer avfuse can read."""


@dataclass(frozen=True)
class DatasetLayout:
    """The position and type of one data set in a shard's file."""

    offset: int | None  #: in bytes; None for a compressed data set, which HDF5 must read
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Size in bytes, uncompressed."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Shard:
    """The tables of a shard, verified (docs/cache-format.md)."""

    path: Path
    version: int  #: of the format
    key: str  #: of the feature
    spec: str  #: of the feature, as JSON
    clip_id: NDArray[np.bytes_]  #: (n,), of the clips that have the feature
    media: NDArray[np.void]  #: (n,), their media files and intervals
    no_audio: NDArray[np.void]  #: (m,), clips without an audio stream
    failed: NDArray[np.void]  #: (k,), clips that failed
    data: DatasetLayout  #: of the (n, ...) rows


def read_shard(path: Path) -> Shard:
    """Read the tables of a shard, not its rows.

    Raises DamagedShard, NewerFormat, and FileNotFoundError.
    """
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            start = _read(file, 0, _PREFIX_BYTES)
            if start.startswith(MAGIC):
                return _read_tables(path, file, start)
        finally:
            os.close(file)
        if not start.startswith(_HDF5_MAGIC):
            raise DamagedShard(path, "it does not begin like a shard")
        return _read_format_1(path)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedShard(path, f"it is malformed, {type(error).__name__}: {error}") from error


def read_rows(shard: Shard, spec: FeatureSpec, out: NDArray[np.generic] | None = None) -> NDArray[np.generic]:
    """All rows of a shard, (n, *spec.shape) of spec.dtype. The whole file is read, once, and hashed.

    out: a contiguous array to read into. Raises DamagedShard; the content of `out` is then invalid.
    """
    shape = (len(shard.clip_id), *spec.shape)
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    if shard.data.shape != shape or shard.data.dtype != dtype:
        raise DamagedShard(shard.path, f"its rows are {shard.data.dtype} {shard.data.shape}, not {dtype} {shape}")
    rows = np.empty(shape, dtype) if out is None else out
    if shard.data.offset is None or shard.data.size == 0:
        check_hash(shard.path)
        with open_hdf5(shard.path) as file:
            dataset(file, "data", shard.path).read_direct(rows)
    else:
        _check_name(shard.path, _read_and_hash(shard.path, shard.data.offset, rows))
    return rows


def check_hash(path: Path) -> None:
    """Raises DamagedShard if a file's hash is not the one in its name."""
    state = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            state.update(block)
    _check_name(path, state.hexdigest())


def read_spec(path: Path) -> FeatureSpec:
    """The spec in a shard. Raises DamagedShard, and UsageError for a spec of another version."""
    try:
        return FeatureSpec.model_validate_json(read_shard(path).spec)
    except ValidationError as error:
        raise UsageError(
            f"{path} holds a spec that this avfuse does not know: it was written by another version"
        ) from error


def read_software(path: Path) -> dict[str, str]:
    """The versions of the packages that a shard was computed with."""
    with open_hdf5(path) as file:
        versions = json.loads(attribute(file, "software", path))
    return {str(name): str(version) for name, version in versions.items()}


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a shard's HDF5 file for one block: a handle that outlives a fork would give wrong rows.

    Raises DamagedShard if it cannot be opened, or read inside the block.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError) as error:
        raise DamagedShard(path, "it is not a complete HDF5 file") from error


def dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """A data set in this file that holds plain numbers or bytes.

    Raises DamagedShard for links to other files, objects, rows that were never written, and filters that do not come
    with HDF5.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DamagedShard(path, f"'{name}' is missing or a link to another file")
    table = file[name]
    if not isinstance(table, h5py.Dataset):
        raise DamagedShard(path, f"'{name}' is not a data set")
    creation = table.id.get_create_plist()
    filters = {creation.get_filter(index)[0] for index in range(creation.get_nfilters())}
    if table.dtype.hasobject or h5py.check_dtype(ref=table.dtype) is not None:
        raise DamagedShard(path, f"'{name}' holds objects, which shards never do")
    if table.is_virtual or table.external is not None:
        raise DamagedShard(path, f"'{name}' lies in another file, which shards never do")
    if not filters <= _OWN_FILTERS:
        raise DamagedShard(path, f"'{name}' is compressed by a filter that shards do not use")
    if table.size and table.id.get_storage_size() == 0:
        raise DamagedShard(path, f"'{name}' has rows that were never written")
    if table.chunks is not None:
        expected = int(np.prod([-(-side // step) for side, step in zip(table.shape, table.chunks, strict=True)]))
        if table.id.get_num_chunks() != expected:
            raise DamagedShard(path, f"'{name}' has rows that were never written")
    return table


def hdf5_layouts(file: h5py.File, path: Path) -> dict[str, DatasetLayout]:
    """The layout of every data set according to HDF5, with which the header must agree."""
    layouts = {}
    for name in (*TABLES, "data"):
        table = dataset(file, name, path)
        offset = (table.id.get_offset() or 0) if table.chunks is None else None
        layouts[name] = DatasetLayout(offset, table.dtype, table.shape)
    return layouts


def _read_tables(path: Path, file: int, start: bytes) -> Shard:
    """The tables as the header describes them. start: the file's first bytes, which hold the header."""
    title_end = start.index(b"\n")
    header_json = start[title_end + 1 : start.index(b"\n", title_end + 1)]
    version, header_hash, tables_hash = start[len(MAGIC) : title_end].split()
    if xxhash.xxh3_128_hexdigest(header_json).encode() != header_hash:
        raise DamagedShard(path, "its header does not match its hash")
    if int(version) > FORMAT_VERSION:
        raise NewerFormat(
            f"{path} is of format {int(version)}, written by a newer avfuse than this one, which reads up to "
            f"{FORMAT_VERSION}: update it"
        )
    header = _parse_header(header_json)
    if header.end > os.fstat(file).st_size:
        raise DamagedShard(path, "it is cut short")
    state = xxhash.xxh3_128()
    tables = {}
    for name in TABLES:
        layout = header.layouts[name]
        if not layout.size:
            tables[name] = np.empty(0, layout.dtype)
            continue
        if layout.offset is None:
            raise ValueError(f"table '{name}' is compressed")
        end = layout.offset + layout.size
        content = start[layout.offset : end] if end <= len(start) else _read(file, layout.offset, layout.size)
        state.update(content)
        tables[name] = np.frombuffer(content, layout.dtype)
    if state.hexdigest().encode() != tables_hash:
        raise DamagedShard(path, "its tables do not match their hash")
    return Shard(path, int(version), header.key, header.spec, data=header.layouts["data"], **tables)


class _Header(NamedTuple):
    key: str
    spec: str
    layouts: dict[str, DatasetLayout]
    end: int  #: of the last data set in the file


@lru_cache(maxsize=64)
def _parse_header(header_json: bytes) -> _Header:
    """Cached, because shards of equal shapes have equal headers."""
    header = json.loads(header_json)
    layouts = {}
    for name in (*TABLES, "data"):
        entry = header["parts"][name]
        columns = entry["dtype"]
        dtype = np.dtype(columns if isinstance(columns, str) else [tuple(column) for column in columns])
        if dtype.hasobject:
            raise ValueError("it holds objects, which shards never do")
        layout = layouts[name] = DatasetLayout(entry.get("offset"), dtype, tuple(map(int, entry["shape"])))
        if min(layout.offset or 0, *layout.shape) < 0 or (name in TABLES and len(layout.shape) != 1):
            raise ValueError(f"'{name}' has an impossible offset or shape")
    end = max(layout.offset + layout.size for layout in layouts.values() if layout.offset is not None)
    return _Header(str(header["key"]), str(header["spec"]), layouts, end)


def _read_format_1(path: Path) -> Shard:
    """The tables of a shard of format 1, which had no header: the whole file is verified first."""
    check_hash(path)
    with open_hdf5(path) as file:
        tables = {name: dataset(file, name, path)[()] for name in TABLES}
        key, spec = (attribute(file, name, path) for name in ("key", "spec"))
        return Shard(path, 1, key, spec, data=hdf5_layouts(file, path)["data"], **tables)


def attribute(file: h5py.File, name: str, path: Path) -> str:
    """A text attribute of a shard. Raises DamagedShard if it is missing or of another type."""
    if name not in file.attrs or file.attrs.get_id(name).dtype.kind != "S":
        raise DamagedShard(path, f"its attribute '{name}' is missing or not text")
    return bytes(file.attrs[name]).decode()


def _read(descriptor: int, offset: int, size: int) -> bytes:
    """`size` bytes of a file, fewer only at its end."""
    content = os.pread(descriptor, size, offset)
    while 0 < len(content) < size and (more := os.pread(descriptor, size - len(content), offset + len(content))):
        content += more
    return content


def _read_and_hash(path: Path, offset: int, rows: NDArray[np.generic]) -> str:
    """Read a whole file, its rows at `offset` into `rows`, and return its hash. Each block is hashed while it is in the
    processor's cache."""
    state = xxhash.xxh3_128()
    target = memoryview(rows.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    with path.open("rb", buffering=0) as file:
        state.update(_read(file.fileno(), 0, offset))
        file.seek(offset)
        while target:
            count = file.readinto(target[:_BLOCK_BYTES])
            if not count:
                raise DamagedShard(path, "it is cut short")
            state.update(target[:count])
            target = target[count:]
        while rest := file.read(_BLOCK_BYTES):
            state.update(rest)
    return state.hexdigest()


def _check_name(path: Path, digest: str) -> None:
    if digest != path.stem.rpartition("-")[2]:
        raise DamagedShard(path, "its bytes do not match its name")
