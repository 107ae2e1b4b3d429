"""What lies in an archive: found by reading it once, then kept on disk."""

import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NoReturn

from filelock import FileLock, Timeout
from tqdm import tqdm

from avfuse.features.archives import index_store
from avfuse.features.archives.file_object import Chunks
from avfuse.features.archives.index_store import Contents
from avfuse.features.archives.paths import Place, split
from avfuse.features.archives.seek_points import DamagedIndex, SeekPoints, find_seek_points
from avfuse.features.archives.tar_headers import Entry, find_members
from avfuse.features.errors import UsageError

Passed = Callable[[int], object]
"""Gets how many bytes of an archive have been read so far."""

_GZIP = b"\x1f\x8b"
_PACKED = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf": "7z",
}
"""What a file begins with, and what it is packed with, where that is nothing from which a part can be read."""

_MAGIC_BYTES = max(map(len, _PACKED))
_GZIP_STREAM = zlib.MAX_WBITS + 16
_PLAIN_CHUNK = 2**20
_REMEMBERED = 32
_LOCK_SECONDS = 3600.0


class ArchiveIndex:
    """The regular files in an archive as it was when it had this size and modification time.

    problem: why the archive is not whole, None where it is. unkept: why the index could not be kept on disk, so that
    every process has to make it again; None where it could.
    """

    def __init__(self, archive: Path, size: int, mtime_ns: int, contents: Contents, unkept: str | None = None) -> None:
        self.archive = archive
        self.size = size
        self.mtime_ns = mtime_ns
        self.unkept = unkept
        self._contents = contents

    @property
    def problem(self) -> str | None:
        return self._contents.members.problem

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The regular files by name, in the archive's order."""
        return self._contents.members.entries

    @property
    def others(self) -> Mapping[str, str]:
        """Names of members that are no regular files and so are not read, and what they are."""
        return self._contents.members.others

    def bounds(self, position: int) -> tuple[int, int]:
        """The chunk in which a byte of the content is best read."""
        points = self._contents.points
        return (position, position + _PLAIN_CHUNK) if points is None else points.bounds(position)

    def read(self, start: int, count: int) -> bytes:
        """Exactly so many bytes of the archive's content. Raises OSError or ValueError where they cannot be read, or
        the archive is no longer the one that was indexed."""
        with self.archive.open("rb") as file:
            if _version(file) != (self.size, self.mtime_ns):
                raise OSError("the archive was replaced while it was read")
            points = self._contents.points
            try:
                content = _read(file, self.size, points, start, count)
            except DamagedIndex:
                self._make_again(file)
                content = _read(file, self.size, self._contents.points, start, count)
        if len(content) != count:
            raise OSError(f"{len(content)} of {count} bytes are there")
        return content

    def _make_again(self, file: BinaryIO) -> None:
        """What was kept is damaged, or is gone."""
        file.seek(0)
        made = _make(file, self.size, lambda read: None)
        if isinstance(made, str):
            raise OSError(made)
        self._contents, self.unkept = _keep(index_store.place_of(str(self.archive), self.size, self.mtime_ns), made)


_known: dict[tuple[str, int, int], ArchiveIndex | str] = {}
"""The indices used last in this process; of an archive that cannot be used, why. It holds no open files."""


def index(archive: str | Path, on_progress: Passed = lambda count: None) -> ArchiveIndex:
    """The index of an archive, which is read where that has not been done yet: minutes for a large .tar.gz.

    on_progress: gets how many bytes of the archive have been read so far, at the end its size.

    Raises UsageError where there is no such archive, or it is none that can be read in place.
    """
    try:
        status = os.stat(archive)
    except OSError as error:
        raise UsageError(f"{archive} cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{archive} is no archive file")
    return index_of(Place(os.fspath(archive), "", status), on_progress)


def list_members(archive: str | Path, on_progress: Passed = lambda count: None) -> dict[str, int]:
    """Name to size in bytes of the regular files in an archive, in its order. Arguments and errors as in `index`, whose
    result also says what is wrong with an archive that is not whole."""
    return {name: entry.size for name, entry in index(archive, on_progress).entries.items()}


def unread(paths: Iterable[str | Path]) -> dict[str, int]:
    """The archives that paths lead into and that have to be read through before anything is found in them, each with
    its size in bytes."""
    found: dict[str, int] = {}
    for folder in dict.fromkeys(os.path.dirname(path) for path in paths):
        place = split(f"{folder}/")
        if place is not None and (key := _key_of(place)) not in _known and not index_store.place_of(*key).exists():
            found[place.archive] = place.status.st_size
    return found


def read_through(paths: Iterable[str | Path]) -> None:
    """Find out what lies where in archives that paths lead into and that nobody has looked into yet, with a bar where
    it takes long. One that cannot be read costs its clips, and says why when they are opened."""
    sizes = unread(paths)
    with tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, desc="archives", disable=not sizes, delay=1) as bar:
        done = 0
        for archive, size in sizes.items():
            with suppress(UsageError):
                index(archive, partial(_show, bar, done))
            done += size
            _show(bar, done, 0)


def _show(bar: "tqdm[NoReturn]", before: int, now: int) -> None:
    bar.update(before + now - bar.n)


def index_of(place: Place, on_progress: Passed = lambda count: None) -> ArchiveIndex:
    """As `index`, of an archive that was looked at just now."""
    key = _key_of(place)
    found = _known.pop(key, None)
    if found is None:
        found = _find(*key, on_progress)
    _known[key] = found
    while len(_known) > _REMEMBERED:
        _known.pop(next(iter(_known)), None)
    if isinstance(found, str):
        raise UsageError(found)
    on_progress(found.size)
    return found


def _key_of(place: Place) -> tuple[str, int, int]:
    return os.path.abspath(place.archive), place.status.st_size, place.status.st_mtime_ns


def _find(archive: str, size: int, mtime_ns: int, on_progress: Passed) -> ArchiveIndex | str:
    """From disk, or made and kept there; or why there can be none. Raises UsageError where it cannot be read now."""
    path, place, unkept = Path(archive), index_store.place_of(archive, size, mtime_ns), None
    contents = index_store.read(place)
    if contents is None:
        with _alone(place):
            contents = index_store.read(place)  # another process may have made it meanwhile
            if contents is None:
                try:
                    with path.open("rb") as file:
                        made = _make(file, size, on_progress)
                        changed = _version(file) != (size, mtime_ns)
                except OSError as error:
                    raise UsageError(f"{archive} cannot be read ({error.strerror or error})") from error
                if changed:
                    raise UsageError(f"{archive} changed while it was read: wait until it is complete")
                if isinstance(made, str):
                    return f"{archive} {made}"
                contents, unkept = _keep(place, made)
    return ArchiveIndex(path, size, mtime_ns, contents, unkept)


def _keep(place: Path, made: Contents) -> tuple[Contents, str | None]:
    """What was made, read back from disk without its windows in memory; or itself, and why it cannot be kept."""
    try:
        index_store.write(place, made)
    except OSError as error:
        reason = f"cannot keep {place} ({error.strerror}): name a folder that can be written to (AVFUSE_ARCHIVES)"
    else:
        reason = f"{place} does not keep what is written to it: name another folder (AVFUSE_ARCHIVES)"
    contents = index_store.read(place)
    return (made, reason) if contents is None else (contents, None)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One process makes an index while others wait for it. Where locks do not work each makes its own, and all are
    equal."""
    lock, held = FileLock(place.with_suffix(".lock")), False
    with suppress(NotImplementedError, Timeout, OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_LOCK_SECONDS)
        held = True
    try:
        yield
    finally:
        if held:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)


def _make(file: BinaryIO, size: int, on_progress: Passed) -> Contents | str:
    """Read an open archive through; or say what it is instead of one. Raises OSError."""
    begins = file.read(_MAGIC_BYTES)
    for magic, name in _PACKED.items():
        if begins.startswith(magic):
            return f"is packed with {name} and cannot be read in place: unpack it, or pack it as .tar or .tar.gz"
    if not begins:
        return "is empty (0 bytes)"
    make = _make_gzip if begins.startswith(_GZIP) else _make_plain
    return make(file, size, on_progress) or "is no tar archive, or is damaged from its beginning"


def _make_plain(file: BinaryIO, size: int, on_progress: Passed) -> Contents | None:
    members = find_members(partial(_read_plain, file), size, on_progress)
    return Contents(members, None) if members is not None else None


def _make_gzip(file: BinaryIO, size: int, on_progress: Passed) -> Contents | None:
    """Through the file twice: for the seek points, then for the headers and digests."""
    if not _holds_tar(file):
        return None
    file.seek(0)
    points, problem = find_seek_points(file, size, lambda read: on_progress(read // 2))
    chunks = Chunks(lambda start, count: points.read(file, size, start, count), points.bounds)
    members = find_members(
        chunks.read_at,
        points.end,
        lambda place: on_progress(size // 2 + size * place // (2 * points.end)),
        digests=True,
    )
    if members is None:
        return None
    members.problem = problem or members.problem
    return Contents(members, points)


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
