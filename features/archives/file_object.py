"""File objects over sources that can be read at any position."""

import io
from collections.abc import Callable

ReadAt = Callable[[int, int], bytes]
"""(position, count) -> exactly `count` bytes."""

CACHED_CHUNKS = 4
"""Chunks held in memory: a reader alternates between a file's video, audio and index."""


class ReadAtFile:
    """A read-only file object for FFmpeg and tarfile; it needs no closing."""

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


class ChunkCache:
    """Reads in chunks and keeps the last few. bounds: position -> start and end of its chunk."""

    def __init__(self, read_at: ReadAt, bounds: Callable[[int], tuple[int, int]]) -> None:
        self._load = read_at
        self._bounds = bounds
        self._chunks: list[tuple[int, bytes]] = []

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
        chunk = next(((start, data) for start, data in self._chunks if start <= position < start + len(data)), None)
        if chunk is None:
            start, end = self._bounds(position)
            chunk = start, self._load(start, end - start)
        else:
            self._chunks.remove(chunk)
        self._chunks = [*self._chunks[1 - CACHED_CHUNKS :], chunk]
        return chunk
