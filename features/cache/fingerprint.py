"""Telling whether a media file is still the one a feature was computed from."""

from dataclasses import dataclass
from pathlib import Path

import xxhash

_EDGE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Fingerprint:
    """Size, modification time, and a hash of the first and last 64 KiB. A missing file has size -1."""

    size: int
    mtime_ns: int
    digest: bytes  # 16 bytes

    @property
    def is_missing(self) -> bool:
        return self.size < 0

    def matches(self, path: Path) -> bool:
        """Whether the file now at `path` is this one. Its content is read only when size or time has changed."""
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return self.is_missing
        if status.st_size != self.size:
            return False
        if status.st_mtime_ns == self.mtime_ns:
            return True
        try:
            return _digest(path, status.st_size) == self.digest
        except OSError:
            return False


_UNREADABLE = bytes(16)
MISSING = Fingerprint(size=-1, mtime_ns=0, digest=_UNREADABLE)


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of the file now at `path`; of one that cannot be read, size and time alone."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    try:
        digest = _digest(path, status.st_size)
    except OSError:
        digest = _UNREADABLE
    return Fingerprint(size=status.st_size, mtime_ns=status.st_mtime_ns, digest=digest)


def _digest(path: Path, size: int) -> bytes:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        state.update(file.read(_EDGE_BYTES))
        if size > 2 * _EDGE_BYTES:
            file.seek(size - _EDGE_BYTES)
        state.update(file.read(_EDGE_BYTES))
    return state.digest()
