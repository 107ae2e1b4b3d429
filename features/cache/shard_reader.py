"""Reading shards, which may be damaged or come from elsewhere: nothing is believed before its hash is checked, nothing
is executed, and what is no plain data is refused.

Planning reads a shard's header and tables, a few per cent of it, under hashes of their own. Loading reads the whole
file, once, under the hash in its name, and the rows land where they are wanted.
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
"""Any other would make HDF5 look for a plug-in, which is code."""


class DamagedShard(UsageError):
    """A shard's bytes are not those that were written. `reason` says how that shows."""

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
class Part:
    """Where one data set lies in a shard's file. offset: None where it is compressed and HDF5 must be asked."""

    offset: int | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Shard:
    """A shard's tables, checked. clip_id (n,), media (n,), no_audio (m,), failed (k,) as docs/cache-format.md has them;
    data: where the (n, ...) rows lie; spec: the feature's, as JSON."""

    path: Path
    version: int
    key: str
    spec: str
    clip_id: NDArray[np.bytes_]
    media: NDArray[np.void]
    no_audio: NDArray[np.void]
    failed: NDArray[np.void]
    data: Part


def read_shard(path: Path) -> Shard:
    """The tables of a shard. Its rows are not read.

    Raises DamagedShard, NewerFormat, and FileNotFoundError.
    """
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            start = _read(file, 0, _PREFIX_BYTES)
            if start.startswith(MAGIC):
                return _from_header(path, file, start)
        finally:
            os.close(file)
        if not start.startswith(_HDF5_MAGIC):
            raise DamagedShard(path, "it does not begin as a shard does")
        return _format_1(path)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedShard(path, f"it is not what shards are, {type(error).__name__}: {error}") from error


def read_rows(shard: Shard, spec: FeatureSpec, out: NDArray[np.generic] | None = None) -> NDArray[np.generic]:
    """All rows of a shard, (n, *spec.shape) of spec.dtype, into `out` where it is given (contiguous). The whole file is
    read, once, and hashed. Raises DamagedShard; `out` then holds what must not be used."""
    wanted = (len(shard.clip_id), *spec.shape)
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    if shard.data.shape != wanted or shard.data.dtype != dtype:
        raise DamagedShard(shard.path, f"its rows are {shard.data.dtype} {shard.data.shape}, not {dtype} {wanted}")
    rows = np.empty(wanted, dtype) if out is None else out
    if shard.data.offset is None or shard.data.size == 0:
        check_hash(shard.path)
        with open_hdf5(shard.path) as file:
            dataset(file, "data", shard.path).read_direct(rows)
    else:
        _check_name(shard.path, _read_through(shard.path, shard.data.offset, rows))
    return rows


def check_hash(path: Path) -> None:
    """Raises DamagedShard where a file's bytes do not hash to what its name says."""
    state = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            state.update(block)
    _check_name(path, state.hexdigest())


def read_spec(path: Path) -> FeatureSpec:
    """The full spec that a shard carries. Raises DamagedShard, and UsageError for one of another version."""
    try:
        return FeatureSpec.model_validate_json(read_shard(path).spec)
    except ValidationError as error:
        raise UsageError(
            f"{path} holds a spec that this avfuse does not know: it was written by another version"
        ) from error


def read_software(path: Path) -> dict[str, str]:
    """The versions of what a shard was computed with."""
    with open_hdf5(path) as file:
        found = json.loads(attribute(file, "software", path))
    return {str(name): str(version) for name, version in found.items()}


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """A shard's HDF5 file, for this block alone: a handle that outlived a fork would give wrong rows.

    Raises DamagedShard when it is none, or what is read of it inside the block cannot be read.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError) as error:
        raise DamagedShard(path, "it is no whole HDF5 file") from error


def dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """A data set that lies in this very file and holds plain numbers or bytes. Raises DamagedShard for a link to
    elsewhere, objects, rows that were never written, and filters that HDF5 does not bring along."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DamagedShard(path, f"'{name}' is missing or a link to elsewhere")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise DamagedShard(path, f"'{name}' is no data set")
    creation = found.id.get_create_plist()
    filters = {creation.get_filter(index)[0] for index in range(creation.get_nfilters())}
    if found.dtype.hasobject or h5py.check_dtype(ref=found.dtype) is not None:
        raise DamagedShard(path, f"'{name}' holds objects, which shards never do")
    if found.is_virtual or found.external is not None:
        raise DamagedShard(path, f"'{name}' lies in another file, which shards never do")
    if not filters <= _OWN_FILTERS:
        raise DamagedShard(path, f"'{name}' is packed by a filter that shards do not use")
    if found.size and found.id.get_storage_size() == 0:
        raise DamagedShard(path, f"'{name}' has rows that were never written")
    if found.chunks is not None:
        expected = int(np.prod([-(-side // step) for side, step in zip(found.shape, found.chunks, strict=True)]))
        if found.id.get_num_chunks() != expected:
            raise DamagedShard(path, f"'{name}' has rows that were never written")
    return found


def parts_in_hdf5(file: h5py.File, path: Path) -> dict[str, Part]:
    """Where every data set lies, as HDF5 has it: what a header must agree with."""
    parts = {}
    for name in (*TABLES, "data"):
        found = dataset(file, name, path)
        offset = (found.id.get_offset() or 0) if found.chunks is None else None
        parts[name] = Part(offset, found.dtype, found.shape)
    return parts


def _from_header(path: Path, file: int, start: bytes) -> Shard:
    title_end = start.index(b"\n")
    described = start[title_end + 1 : start.index(b"\n", title_end + 1)]
    version, proof, tables_proof = start[len(MAGIC) : title_end].split()
    if xxhash.xxh3_128_hexdigest(described).encode() != proof:
        raise DamagedShard(path, "its header does not match its hash")
    if int(version) > FORMAT_VERSION:
        raise NewerFormat(
            f"{path} is of format {int(version)}, written by a newer avfuse than this one, which reads up to "
            f"{FORMAT_VERSION}: update it"
        )
    header = _parsed(described)
    if header.end > os.fstat(file).st_size:
        raise DamagedShard(path, "it is cut short")
    state = xxhash.xxh3_128()
    tables = {}
    for name in TABLES:
        part = header.parts[name]
        if not part.size:
            tables[name] = np.empty(0, part.dtype)
            continue
        if part.offset is None:
            raise ValueError(f"table '{name}' is packed")
        end = part.offset + part.size
        content = start[part.offset : end] if end <= len(start) else _read(file, part.offset, part.size)
        state.update(content)
        tables[name] = np.frombuffer(content, part.dtype)
    if state.hexdigest().encode() != tables_proof:
        raise DamagedShard(path, "its tables do not match their hash")
    return Shard(path, int(version), header.key, header.spec, data=header.parts["data"], **tables)


class _Header(NamedTuple):
    """end: where the last part ends in the file."""

    key: str
    spec: str
    parts: dict[str, Part]
    end: int


@lru_cache(maxsize=64)
def _parsed(described: bytes) -> _Header:
    """Shards of equal shapes have equal descriptions."""
    header = json.loads(described)
    parts = {}
    for name in (*TABLES, "data"):
        part = header["parts"][name]
        columns = part["dtype"]
        dtype = np.dtype(columns if isinstance(columns, str) else [tuple(column) for column in columns])
        if dtype.hasobject:
            raise ValueError("it holds objects, which shards never do")
        parts[name] = Part(part.get("offset"), dtype, tuple(map(int, part["shape"])))
        if min(parts[name].offset or 0, *parts[name].shape) < 0 or (name in TABLES and len(parts[name].shape) != 1):
            raise ValueError(f"'{name}' lies nowhere")
    end = max(part.offset + part.size for part in parts.values() if part.offset is not None)
    return _Header(str(header["key"]), str(header["spec"]), parts, end)


def _format_1(path: Path) -> Shard:
    """Shards of format 1 had no header: their tables are read after the whole file has been checked."""
    check_hash(path)
    with open_hdf5(path) as file:
        tables = {name: dataset(file, name, path)[()] for name in TABLES}
        key, spec = (attribute(file, name, path) for name in ("key", "spec"))
        return Shard(path, 1, key, spec, data=parts_in_hdf5(file, path)["data"], **tables)


def attribute(file: h5py.File, name: str, path: Path) -> str:
    """A text that a shard carries. Raises DamagedShard for anything else."""
    if name not in file.attrs or file.attrs.get_id(name).dtype.kind != "S":
        raise DamagedShard(path, f"its attribute '{name}' is missing or no text")
    return bytes(file.attrs[name]).decode()


def _read(descriptor: int, offset: int, size: int) -> bytes:
    """Up to `size` bytes: fewer only at the file's end."""
    content = os.pread(descriptor, size, offset)
    while 0 < len(content) < size and (more := os.pread(descriptor, size - len(content), offset + len(content))):
        content += more
    return content


def _read_through(path: Path, offset: int, rows: NDArray[np.generic]) -> str:
    """Read a file from end to end, the bytes of its rows to where they are wanted; returns the hash of all of it. Each
    block is hashed while it is still in the processor's cache."""
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
