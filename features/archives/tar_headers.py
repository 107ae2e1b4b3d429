"""Members of a tar archive, read from their headers."""

import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from avfuse.features.archives.file_object import ReadAt, ReadAtFile
from avfuse.features.digest import edge_digest

MAX_HEADER_BYTES = 16 * 2**20
"""A header that claims to be larger is damage or a trap: it would be read into memory."""

_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError)
"""Raised by tarfile for malformed headers."""


class TarEntry(NamedTuple):
    """Offset of a member in the archive's content, its size, and its `edge_digest` where known."""

    offset: int
    size: int
    digest: bytes | None


@dataclass
class Members:
    """Members of an archive. entries: regular files by name, in its order. others: name -> kind of every other member.
    problem: why the archive is incomplete; None where it is whole."""

    entries: dict[str, TarEntry] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


def find_members(
    read_at: ReadAt, end: int, passed: Callable[[int], object], *, digests: bool = False
) -> Members | None:
    """Read all headers of a tar archive up to the first damage; None when it is not a tar archive.

    Of members with one name the last counts.

    Args:
        read_at: reads the archive's content.
        end: number of readable bytes of it.
        passed: called with the offset of every header.
        digests: compute the `edge_digest` of every regular file on the way.
    """

    def read(position: int, count: int) -> bytes:
        if count > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {count} bytes")
        return read_at(position, count)

    file = ReadAtFile(read, end)
    try:
        tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
    except _ERRORS:
        return None
    members = Members()
    position = -1
    while True:
        try:
            info = tar.next()
        except _ERRORS:
            members.problem = _cut_short(end) if tar.offset >= end else _damaged(tar.offset)
            return members
        if info is None:
            members.problem = _end_of(file, tar.offset, end)
            return members
        if info.offset < position or info.size < 0:
            members.problem = _damaged(info.offset)
            return members
        if info.isreg() and not info.issparse() and info.offset_data + info.size > end:
            members.problem = _cut_short(end)
            return members
        position = info.offset + 1
        passed(info.offset)
        _add_member(info, members, read_at if digests else None)
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all


def _add_member(info: tarfile.TarInfo, members: Members, read_at: ReadAt | None) -> None:
    name = normalise_name(info.name)
    if name is None or info.isdir():
        return
    members.entries.pop(name, None)
    members.others.pop(name, None)
    if info.isreg() and not info.issparse():
        offset, size = info.offset_data, info.size
        digest = digest_at(read_at, offset, size) if read_at is not None else None
        members.entries[name] = TarEntry(offset, size, digest)
    elif info.issym() or info.islnk():
        members.others[name] = "a link"
    else:
        members.others[name] = "a sparse file" if info.issparse() else "a device or a pipe"


def digest_at(read_at: ReadAt, offset: int, size: int) -> bytes:
    """`edge_digest` of `size` bytes of an archive's content from `offset` on."""
    return edge_digest(lambda position, count: read_at(offset + position, max(0, min(count, size - position))), size)


def normalise_name(name: str) -> str | None:
    """A member's name without `./` and a leading `/`; None for a name that no path below the archive can have."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts or "\0" in name or not parts else "/".join(parts)


def _end_of(file: ReadAtFile, offset: int, end: int) -> str | None:
    """Problem of an archive at the end of its members: cut short or damaged; None for a proper end mark."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return _cut_short(end)
    return _damaged(offset) if any(block) else None


def _cut_short(end: int) -> str:
    return f"it ends after {end} bytes, without the mark that ends an archive: it was cut short"


def _damaged(offset: int) -> str:
    return f"it is damaged at byte {offset}: what follows cannot be found"
