"""Indices of archives on disk, in the user's cache: made once for all processes and runs.

A file is a line of text, the hash and the length of a table in NumPy's npz format, the table, and the windows of the
archive's seek points, each with its hash in the table.
"""

import io
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import xxhash

from avfuse.features.archives.seek_points import WINDOW, DamagedIndex, SeekPoints
from avfuse.features.archives.tar_headers import Members, TarEntry
from avfuse.features.atomic import atomic_write

_MAGIC = b"avfuse archive 1\n"
_START = struct.Struct(f"<{len(_MAGIC)}s16sQ")
_POINT_COLUMNS = ("packed", "content", "bits", "windows", "hashes")
_DIGEST = 16
SUFFIX = ".index"


@dataclass(frozen=True)
class ArchiveContents:
    """Index of an archive: its members, and the seek points of a gzip file (None for a plain one)."""

    members: Members
    points: SeekPoints | None


def archives_folder() -> Path:
    """`AVFUSE_ARCHIVES`, or a folder of the user's cache."""
    named = os.environ.get("AVFUSE_ARCHIVES")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avfuse" / "archives"


def index_path(archive: str, size: int, mtime_ns: int) -> Path:
    """Path of the index file of one version of an archive."""
    return archives_folder() / f"{_hash_path(archive)}-{size}-{mtime_ns}{SUFFIX}"


def write(path: Path, contents: ArchiveContents) -> None:
    """Write an index atomically and remove those of the archive's earlier versions. Raises OSError."""
    earlier = [other for other in path.parent.glob(f"{path.name.partition('-')[0]}-*") if other.suffix != ".lock"]
    content, points = _table(contents), contents.points
    # The name begins as the index's does, so that a killed process' leftovers are removed with earlier versions.
    with atomic_write(path, prefix=f"{path.stem}.", suffix=".partial") as temporary, temporary.open("xb") as file:
        file.write(_START.pack(_MAGIC, xxhash.xxh3_128_digest(content), len(content)))
        file.write(content)
        if points is not None:
            for number in range(len(points.hashes)):
                file.write(points.window(number))
    for other in earlier:
        if other != path:
            other.unlink(missing_ok=True)


def read(path: Path) -> ArchiveContents | None:
    """Read an index back; None where it is missing or damaged."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_START.size)
            if len(start) < _START.size:
                return None
            magic, digest, length = _START.unpack(start)
            table = file.read(min(length, size))
    except OSError:
        return None
    if magic != _MAGIC or xxhash.xxh3_128_digest(table) != digest:
        return None
    contents = _contents(table, partial(_read_window, path, _START.size + length))
    windows = 0 if contents.points is None else len(contents.points.hashes)
    return contents if size == _START.size + length + windows * WINDOW else None


def _table(contents: ArchiveContents) -> bytes:
    entries, points = contents.members.entries, contents.points
    text = {
        "names": list(entries),
        "others": contents.members.others,
        "problem": contents.members.problem,
        "end": points.end if points is not None else None,
    }
    table = io.BytesIO()
    np.savez(
        table,
        text=np.frombuffer(json.dumps(text).encode(), np.uint8),
        places=np.array([entry[:2] for entry in entries.values()], np.int64).reshape(-1, 2),
        digests=np.frombuffer(b"".join(entry.digest or b"" for entry in entries.values()), np.uint8),
        **{name: getattr(points, name) for name in _POINT_COLUMNS if points is not None},
    )
    return table.getvalue()


def _contents(table: bytes, read_window: Callable[[int], bytes]) -> ArchiveContents:
    with np.load(io.BytesIO(table), allow_pickle=False) as columns:
        text = json.loads(columns["text"].tobytes())
        digests = columns["digests"].tobytes()
        entries = {
            name: TarEntry(offset, size, digests[_DIGEST * index : _DIGEST * (index + 1)] or None)
            for index, (name, (offset, size)) in enumerate(zip(text["names"], columns["places"].tolist(), strict=True))
        }
        points = None
        if text["end"] is not None:
            named = {name: columns[name] for name in _POINT_COLUMNS}
            points = SeekPoints(**named, read_window=read_window, end=text["end"])
    return ArchiveContents(Members(entries, text["others"], text["problem"]), points)


def _read_window(path: Path, first: int, number: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(first + number * WINDOW)
            return file.read(WINDOW)
    except OSError as error:
        raise DamagedIndex(str(error)) from error


def _hash_path(archive: str) -> str:
    return xxhash.xxh3_128_hexdigest(os.fsencode(archive))
