"""Telling whether a media file is still the one a feature was computed from."""

import os
from dataclasses import dataclass
from pathlib import Path

import xxhash

_EDGE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Fingerprint:
    """Size, modification time, and a hash of the first and last 64 KiB. A file that is not there, or that the system
    does not let us look at, has size -1."""

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
        return MISSING
    return Fingerprint(status.st_size, status.st_mtime_ns, digest(path, status.st_size))


def digest(path: Path, size: int) -> bytes:
    """The hash of a file's first and last 64 KiB; UNREADABLE where it cannot be read."""
    state = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            state.update(file.read(_EDGE_BYTES))
            if size > 2 * _EDGE_BYTES:
                file.seek(size - _EDGE_BYTES)
            state.update(file.read(_EDGE_BYTES))
    except OSError:
        return UNREADABLE
    return state.digest()
