"""Files in archives, read in place: nothing is ever unpacked to disk."""

import io
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from avfuse.features.archives.file_object import ChunkCache, ReadAtFile
from avfuse.features.archives.indexing import ArchiveIndex, get_index
from avfuse.features.archives.paths import split_archive_path
from avfuse.features.archives.tar_headers import digest_at
from avfuse.features.errors import ClipError, UsageError

WHOLE_BYTES = 32 * 2**20
"""A member up to this size is read whole when it is opened; a larger one keeps its last few chunks in memory."""


class Member:
    """A regular file in an archive; opening it again reuses what it holds in memory."""

    def __init__(self, index: ArchiveIndex, name: str) -> None:
        """Raises ClipError where there is no such file."""
        entry = index.entries.get(name)
        if entry is None:
            what = f"is {index.others[name]}, which is not followed" if name in index.others else "is not there"
            problem = f" ({index.problem})" if index.problem else ""
            raise ClipError("open", f"'{name}' {what} in {index.archive}{problem}")
        self.size = entry.size
        self.mtime_ns = index.mtime_ns
        self._index = index
        self._name = name
        self._offset = entry.offset
        self._digest = entry.digest

    @property
    def digest(self) -> bytes:
        """Its `edge_digest`. Raises ClipError where it cannot be read."""
        return self._digest or digest_at(self._content, self._offset, self.size)

    def read(self) -> bytes:
        """Read all of it. Raises ClipError when it cannot be read."""
        return self._content(self._offset, self.size)

    def open(self) -> "io.BytesIO | ReadAtFile":
        """Return a file object that needs no closing, named with the member's suffix.

        Raises ClipError when it cannot be read; so does reading from it.
        """
        suffix = PurePosixPath(self._name).suffix
        name = f"clip{suffix if suffix.isascii() else ''}"
        if self.size > WHOLE_BYTES:
            return ReadAtFile(lambda start, count: self._chunks.read_at(self._offset + start, count), self.size, name)
        file = _NamedBytesIO(self._whole)
        file.name = name
        return file

    @cached_property
    def _whole(self) -> bytes:
        return self.read()

    @cached_property
    def _chunks(self) -> ChunkCache:
        return ChunkCache(self._content, self._bounds)

    def _bounds(self, position: int) -> tuple[int, int]:
        start, end = self._index.bounds(position)
        return max(start, self._offset), min(end, self._offset + self.size)

    def _content(self, start: int, count: int) -> bytes:
        try:
            return self._index.read(start, count)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ClipError("open", f"'{self._name}' in {self._index.archive} cannot be read ({reason})") from error


class Folder(NamedTuple):
    """A folder in an archive. prefix: what its members' names begin with."""

    archive: ArchiveIndex
    prefix: str

    def state(self, name: str) -> tuple[int, int] | None:
        """Size of a member and modification time of the archive; None for a missing member."""
        entry = self.archive.entries.get(self.prefix + name)
        return None if entry is None else (entry.size, self.archive.mtime_ns)


def find(path: str | Path) -> Member | None:
    """The member of an archive that a path names; None for a path that leads into no archive.

    Raises ClipError where the archive holds no such file, or cannot be read.
    """
    place = split_archive_path(path)
    if place is None:
        return None
    try:
        return Member(get_index(place), place.member)
    except UsageError as error:
        raise ClipError("open", str(error)) from error


def stat_member(path: str | Path) -> Member | None:
    """As `find`, but None where there is no such file."""
    try:
        return find(path)
    except ClipError:
        return None


def folder(path: str | Path) -> Folder | None:
    """The folder, there or not, that a path names in an archive; None where it leads into none that can be read."""
    place = split_archive_path(f"{path}/")
    if place is None:
        return None
    try:
        return Folder(get_index(place), place.member)
    except UsageError:
        return None


class _NamedBytesIO(io.BytesIO):
    name: str
