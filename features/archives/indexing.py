"""Indices of archives: built by reading an archive once, then saved on disk."""

import os
import stat
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn

from filelock import FileLock, Timeout
from tqdm import tqdm

from avfuse.features.archives import index_store
from avfuse.features.archives.file_object import ChunkCache
from avfuse.features.archives.index_store import ArchiveContents
from avfuse.features.archives.paths import ArchivePath, split_archive_path
from avfuse.features.archives.seek_points import DamagedIndex, SeekPoints, find_seek_points
from avfuse.features.archives.tar_headers import TarEntry, find_members
from avfuse.features.errors import UsageError

OnProgress = Callable[[int], object]
"""Called with the number of bytes of an archive read so far."""

_GZIP = b"\x1f\x8b"
_UNSUPPORTED = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
}
"""Magic bytes of the packed formats that offer no random access, and their names."""

_MAGIC_BYTES = max(map(len, _UNSUPPORTED))
_GZIP_STREAM = zlib.MAX_WBITS + 16
_PLAIN_CHUNK = 2**20
_MAX_RECENT = 32
_LOCK_SECONDS = 3600.0


class ArchiveIndex:
    """The regular files in an archive as it was when it had this size and modification time.

    problem: why the archive is incomplete; None where it is whole. unsaved_reason: why the index could not be saved on
    disk, so that every process has to build it again; None where it was saved.
    """

    def __init__(
        self, archive: Path, size: int, mtime_ns: int, contents: ArchiveContents, unsaved_reason: str | None = None
    ) -> None:
        self.archive = archive
        self.size = size
        self.mtime_ns = mtime_ns
        self.unsaved_reason = unsaved_reason
        self._contents = contents

    @property
    def unkept(self) -> str | None:
        warnings.warn("'unkept' is 'unsaved_reason' now; the old name goes with the next release", FutureWarning, 2)
        return self.unsaved_reason

    @property
    def problem(self) -> str | None:
        return self._contents.members.problem

    @property
    def entries(self) -> Mapping[str, TarEntry]:
        """The regular files by name, in the archive's order."""
        return self._contents.members.entries

    @property
    def others(self) -> Mapping[str, str]:
        """Names of members that are not regular files, which are never read, and what they are."""
        return self._contents.members.others

    def bounds(self, position: int) -> tuple[int, int]:
        """Start and end of the chunk to read for a byte of the content."""
        points = self._contents.points
        return (position, position + _PLAIN_CHUNK) if points is None else points.bounds(position)

    def read(self, start: int, count: int) -> bytes:
        """Read exactly `count` bytes of the archive's content.

        Raises OSError or ValueError when they cannot be read or the archive has changed since it was indexed.
        """
        with self.archive.open("rb") as file:
            if _version(file) != (self.size, self.mtime_ns):
                raise OSError("the archive was replaced while it was read")
            points = self._contents.points
            try:
                content = _read(file, self.size, points, start, count)
            except DamagedIndex:
                self._rebuild(file)
                content = _read(file, self.size, self._contents.points, start, count)
        if len(content) != count:
            raise OSError(f"{len(content)} of {count} bytes are there")
        return content

    def _rebuild(self, file: BinaryIO) -> None:
        """Build the index anew after its file on disk was damaged or removed."""
        file.seek(0)
        contents = _build(file, self.size, lambda read: None)
        if isinstance(contents, str):
            raise OSError(contents)
        path = index_store.index_path(str(self.archive), self.size, self.mtime_ns)
        self._contents, self.unsaved_reason = _save_index(path, contents)


_recent_indices: dict[tuple[str, int, int], ArchiveIndex | str] = {}
"""Indices used last in this process; for an archive that cannot be used, the reason. Holds no open files."""


def index(archive: str | Path, on_progress: OnProgress = lambda count: None) -> ArchiveIndex:
    """Return the index of an archive, building it where there is none yet: minutes for a large .tar.gz.

    on_progress: called with the number of bytes read so far, at the end with the archive's size.

    Raises UsageError when there is no such archive, or it cannot be read in place.
    """
    try:
        status = os.stat(archive)
    except OSError as error:
        raise UsageError(f"{archive} cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{archive} is no archive file")
    return get_index(ArchivePath(os.fspath(archive), "", status), on_progress)


def list_members(archive: str | Path, on_progress: OnProgress = lambda count: None) -> dict[str, int]:
    """Sizes in bytes of the regular files in an archive by name, in its order; arguments and errors as in `index`."""
    return {name: entry.size for name, entry in index(archive, on_progress).entries.items()}


def unindexed(paths: Iterable[str | Path]) -> dict[str, int]:
    """Sizes in bytes of the archives that paths lead into and that have no index yet."""
    sizes: dict[str, int] = {}
    for folder in dict.fromkeys(os.path.dirname(path) for path in paths):
        place = split_archive_path(f"{folder}/")
        if (
            place is not None
            and (key := _index_key(place)) not in _recent_indices
            and not index_store.index_path(*key).exists()
        ):
            sizes[place.archive] = place.status.st_size
    return sizes


def index_all(paths: Iterable[str | Path]) -> None:
    """Index the archives that paths lead into, with a progress bar where it takes long.

    An archive that cannot be read is skipped: opening its clips raises the reason.
    """
    sizes = unindexed(paths)
    with tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, desc="archives", disable=not sizes, delay=1) as bar:
        done = 0
        for archive, size in sizes.items():
            with suppress(UsageError):
                index(archive, partial(_show, bar, done))
            done += size
            _show(bar, done, 0)


def _show(bar: "tqdm[NoReturn]", before: int, now: int) -> None:
    bar.update(before + now - bar.n)


def get_index(place: ArchivePath, on_progress: OnProgress = lambda count: None) -> ArchiveIndex:
    """As `index`, for a path whose archive was just found to exist."""
    key = _index_key(place)
    result = _recent_indices.pop(key, None)
    if result is None:
        result = _load_or_build(*key, on_progress)
    _recent_indices[key] = result  # the last used one comes last
    while len(_recent_indices) > _MAX_RECENT:
        _recent_indices.pop(next(iter(_recent_indices)), None)
    if isinstance(result, str):
        raise UsageError(result)
    on_progress(result.size)
    return result


def _index_key(place: ArchivePath) -> tuple[str, int, int]:
    return os.path.abspath(place.archive), place.status.st_size, place.status.st_mtime_ns


def _load_or_build(archive: str, size: int, mtime_ns: int, on_progress: OnProgress) -> ArchiveIndex | str:
    """Load an index from disk, or build and save it; return the reason for an archive that cannot be used.

    Raises UsageError when the archive cannot be read now.
    """
    path, index_file, unsaved_reason = Path(archive), index_store.index_path(archive, size, mtime_ns), None
    contents = index_store.read(index_file)
    if contents is None:
        with _build_lock(index_file):
            contents = index_store.read(index_file)  # another process may have built it meanwhile
            if contents is None:
                try:
                    with path.open("rb") as file:
                        built = _build(file, size, on_progress)
                        changed = _version(file) != (size, mtime_ns)
                except OSError as error:
                    raise UsageError(f"{archive} cannot be read ({error.strerror or error})") from error
                if changed:
                    raise UsageError(f"{archive} changed while it was read: wait until it is complete")
                if isinstance(built, str):
                    return f"{archive} {built}"
                contents, unsaved_reason = _save_index(index_file, built)
    return ArchiveIndex(path, size, mtime_ns, contents, unsaved_reason)


def _save_index(path: Path, contents: ArchiveContents) -> tuple[ArchiveContents, str | None]:
    """Save an index and read it back without its windows in memory; return it unsaved with the reason on failure."""
    try:
        index_store.write(path, contents)
    except OSError as error:
        reason = f"cannot keep {path} ({error.strerror}): name a folder that can be written to (AVFUSE_ARCHIVES)"
    else:
        reason = f"{path} does not keep what is written to it: name another folder (AVFUSE_ARCHIVES)"
    saved = index_store.read(path)
    return (contents, reason) if saved is None else (saved, None)


@contextmanager
def _build_lock(index_file: Path) -> Iterator[None]:
    """Let one process build an index while others wait. Where locks do not work, each builds its own, all equal."""
    lock, held = FileLock(index_file.with_suffix(".lock")), False
    with suppress(NotImplementedError, Timeout, OSError):
        index_file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_LOCK_SECONDS)
        held = True
    try:
        yield
    finally:
        if held:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)


def _build(file: BinaryIO, size: int, on_progress: OnProgress) -> ArchiveContents | str:
    """Index an open archive; return the reason when it cannot be used as one. Raises OSError."""
    start = file.read(_MAGIC_BYTES)
    for magic, name in _UNSUPPORTED.items():
        if start.startswith(magic):
            return f"is packed with {name} and cannot be read in place: unpack it, or pack it as .tar or .tar.gz"
    if not start:
        return "is empty (0 bytes)"
    build = _index_tar_gz if start.startswith(_GZIP) else _index_tar
    return build(file, size, on_progress) or "is no tar archive, or is damaged from its beginning"


def _index_tar(file: BinaryIO, size: int, on_progress: OnProgress) -> ArchiveContents | None:
    members = find_members(partial(_read_plain, file), size, on_progress)
    return ArchiveContents(members, None) if members is not None else None


def _index_tar_gz(file: BinaryIO, size: int, on_progress: OnProgress) -> ArchiveContents | None:
    """Two passes over the file: for the seek points, then for the headers and digests."""
    if not _holds_tar(file):
        return None
    file.seek(0)
    points, problem = find_seek_points(file, size, lambda read: on_progress(read // 2))
    chunks = ChunkCache(lambda start, count: points.read(file, size, start, count), points.bounds)
    members = find_members(
        chunks.read_at,
        points.end,
        lambda offset: on_progress(size // 2 + size * offset // (2 * points.end)),
        digests=True,
    )
    if members is None:
        return None
    members.problem = problem or members.problem
    return ArchiveContents(members, points)


def _holds_tar(file: BinaryIO) -> bool:
    """Whether a gzip file may hold a tar archive: unpacking all of it to find out takes minutes."""
    file.seek(0)
    try:
        block = zlib.decompressobj(_GZIP_STREAM).decompress(file.read(_PLAIN_CHUNK), tarfile.BLOCKSIZE)
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except zlib.error:
        return False
    except tarfile.HeaderError:
        return len(block) < tarfile.BLOCKSIZE or not any(block)  # the latter is an archive without members
    return True


def _version(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _read(file: BinaryIO, size: int, points: SeekPoints | None, start: int, count: int) -> bytes:
    return _read_plain(file, start, count) if points is None else points.read(file, size, start, count)


def _read_plain(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)
