"""File objects over what can be read at any position."""

import io
from collections.abc import Callable

ReadAt = Callable[[int, int], bytes]
"""Gives exactly so many bytes from a position on."""

KEPT_CHUNKS = 4
"""So many chunks are kept: a reader of one file goes to and fro between its pictures, its sound and its tables."""


class Cursor:
    """A file object for reading, as FFmpeg and tarfile want one. Nothing in it needs closing."""

    def __init__(self, read_at: ReadAt, size: int, name: str = "") -> None:
        self.name = name
        self._read_at = read_at
        self._size = size
        self._position = 0

    def read(self, count: int = -1) -> bytes:
        left = max(self._size - self._position, 0)
        count = left if count < 0 else min(count, left)
        content = self._read_at(self._position, count) if count else b""
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            offset += self._size
        if offset < 0:
            raise ValueError(f"seek to {offset}")
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


class Chunks:
    """Reads in chunks and keeps the last few. bounds: the chunk, from and to, in which a position lies."""

    def __init__(self, read_at: ReadAt, bounds: Callable[[int], tuple[int, int]]) -> None:
        self._load = read_at
        self._bounds = bounds
        self._kept: list[tuple[int, bytes]] = []

    def read_at(self, position: int, count: int) -> bytes:
        pieces = []
        while count:
            start, content = self._chunk(position)
            piece = content[position - start : position - start + count]
            pieces.append(piece)
            position += len(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _chunk(self, position: int) -> tuple[int, bytes]:
        found = next((each for each in self._kept if each[0] <= position < each[0] + len(each[1])), None)
        if found is None:
            start, end = self._bounds(position)
            found = start, self._load(start, end - start)
        else:
            self._kept.remove(found)
        self._kept = [*self._kept[1 - KEPT_CHUNKS :], found]
        return found
