"""Telling whether a media file is still the one a feature was computed from."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from avfuse.features import archives
from avfuse.features.digest import edge_digest
from avfuse.features.errors import ClipError


@dataclass(frozen=True)
class Fingerprint:
    """Size, modification time, and a hash of the first and last 64 KiB. The time of a file in an archive is the
    archive's. A file that is not there, or that the system does not let us look at, has size -1."""

    size: int
    mtime_ns: int
    digest: bytes  # 16 bytes


UNREADABLE = bytes(16)
"""The digest of a file that is there and cannot be read."""

MISSING = Fingerprint(size=-1, mtime_ns=0, digest=UNREADABLE)


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of the file now at `path`; of one that cannot be read, size and time alone."""
    try:
        status = os.stat(path)
    except OSError:
        member = archives.stat_member(path)
        return MISSING if member is None else Fingerprint(member.size, member.mtime_ns, digest(path, member.size))
    return Fingerprint(status.st_size, status.st_mtime_ns, digest(path, status.st_size))


def digest(path: Path, size: int) -> bytes:
    """The hash of a file's first and last 64 KiB; UNREADABLE where it cannot be read."""
    try:
        with path.open("rb") as file:
            return edge_digest(partial(_read, file), size)
    except OSError:
        return _digest_of_member(path)


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


def _digest_of_member(path: Path) -> bytes:
    try:
        member = archives.find(path)
        return UNREADABLE if member is None else member.digest
    except ClipError:
        return UNREADABLE
