"""Fingerprints of media files, which tell whether a file is still the one that a feature was computed from."""

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
    """The identity of a media file."""

    size: int  #: in bytes; -1 for a file that is missing or may not be accessed
    mtime_ns: int  #: modification time; of a file in an archive, the archive's
    digest: bytes  #: 16 bytes, xxh3_128 of the first and last 64 KiB


UNREADABLE = bytes(16)
"""The digest of a file that cannot be read."""

MISSING = Fingerprint(size=-1, mtime_ns=0, digest=UNREADABLE)


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of the file now at `path`; for one that cannot be read, size and time only."""
    try:
        status = os.stat(path)
    except OSError:
        member = archives.stat_member(path)
        return MISSING if member is None else Fingerprint(member.size, member.mtime_ns, digest(path, member.size))
    return Fingerprint(status.st_size, status.st_mtime_ns, digest(path, status.st_size))


def digest(path: Path, size: int) -> bytes:
    """The hash of a file's first and last 64 KiB; UNREADABLE if it cannot be read."""
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
