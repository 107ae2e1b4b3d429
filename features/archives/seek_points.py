"""Seek points of a gzip file: positions from which it can be unpacked without what comes before them.

`indexed_gzip` finds them and reads from them. All points of a large archive take tens of megabytes, but a read needs
one: that one is handed to `indexed_gzip` as a small index of its own.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import xxhash
from indexed_gzip import IndexedGzipFile, ZranError
from numpy.typing import NDArray

SPACING = 8 * 2**20
"""Bytes of content between seek points: reading costs unpacking half of it on average, a point costs WINDOW bytes."""

WINDOW = 32 * 2**10
"""Bytes of content before a point that gzip may refer back to, and so are stored with it."""

_HEADER = struct.Struct("=5sBBQQIII")  # magic, version, flags, packed size, content size, spacing, window, points
_MAGIC, _VERSION = b"GZIDX", 1
_POINT = np.dtype([("packed", np.uint64), ("content", np.uint64), ("bits", np.uint8), ("has_window", np.uint8)])
_COLUMNS = ("packed", "content", "bits", "windows")
_FAR = 2**62
_STEP = 512
_NO_BUFFER = 512  # reads larger than it go past it; each read begins anew at a seek point, so that small ones are dear


class DamagedIndex(Exception):
    """The stored index of an archive is damaged or gone."""


@dataclass(frozen=True)
class SeekPoints:
    """Seek points of a gzip file in rising order. end: bytes of its content that can be read.

    packed, content: int64 (P,), a point's place in the file and in its content. bits: uint8 (P,), how many bits of the
    byte before belong to it. windows: int64 (P,), which window it has, -1 for none. hashes: uint64 (W,), of the
    windows. read_window: a window's bytes by its number; raises DamagedIndex where they are gone.
    """

    packed: NDArray[np.int64]
    content: NDArray[np.int64]
    bits: NDArray[np.uint8]
    windows: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    read_window: Callable[[int], bytes]
    end: int

    def bounds(self, position: int) -> tuple[int, int]:
        """Start and end of the chunk between two points around a position: reading all of it unpacks nothing twice."""
        first = int(np.searchsorted(self.content, position, "right")) - 1
        start = int(self.content[first]) if first >= 0 else 0
        # Points lie close together where a file was packed in many small streams.
        after = int(np.searchsorted(self.content, max(position + 1, start + SPACING // 2)))
        return start, int(self.content[after]) if after < len(self.content) else self.end

    def read(self, file: BinaryIO, packed_size: int, start: int, count: int) -> bytes:
        """Read `count` bytes of content from an open gzip file of `packed_size` bytes.

        Raises OSError or ValueError where it cannot be unpacked, DamagedIndex.
        """
        if not 0 <= start <= start + count <= self.end:
            raise ValueError(f"bytes {start} to {start + count} of {self.end}")
        if not count:
            return b""
        with IndexedGzipFile(fileobj=_NoDescriptor(file), auto_build=False, buffer_size=_NO_BUFFER) as unpacked:
            unpacked.import_index(fileobj=io.BytesIO(self._excerpt(start, packed_size)))
            try:
                content: bytes = unpacked.raw.pread(count, start)
            except ZranError as error:
                raise error.__cause__ or error from None  # what reading the file itself raised comes as a cause
        return content

    def _excerpt(self, position: int, packed_size: int) -> bytes:
        """An `indexed_gzip` index of the point before a position and one far behind, which covers what lies between."""
        index = int(np.searchsorted(self.content, position, "right")) - 1
        number = int(self.windows[index])
        points = np.zeros(2, dtype=_POINT)
        points[0] = (self.packed[index], self.content[index], self.bits[index], number >= 0)
        points[1] = (_FAR, _FAR, 0, 0)
        header = _HEADER.pack(_MAGIC, _VERSION, 0, packed_size, 0, SPACING, WINDOW, len(points))
        return header + points.tobytes() + (self.window(number) if number >= 0 else b"")

    def window(self, number: int) -> bytes:
        """Bytes of a window. Raises DamagedIndex when they do not match their hash."""
        window = self.read_window(number)
        if len(window) != WINDOW or xxhash.xxh3_64_intdigest(window) != int(self.hashes[number]):
            raise DamagedIndex(f"window {number}")
        return window


def find_seek_points(
    file: BinaryIO, packed_size: int, passed: Callable[[int], object]
) -> tuple[SeekPoints, str | None]:
    """Unpack an open gzip file of `packed_size` bytes from its start to its first damage, and say what that is.

    passed: called with the number of bytes read so far. The content of a file cut short just ends. Raises OSError when
    the file cannot be read.
    """
    problem = None
    bare = _NoDescriptor(file, passed)
    with IndexedGzipFile(fileobj=bare, spacing=SPACING, window_size=WINDOW, buffer_size=_NO_BUFFER) as unpacked:
        try:
            unpacked.build_full_index()
        except ZranError as error:
            if error.__cause__ is not None:
                raise error.__cause__ from None
            wrong_sum = "CRC" in str(error)
            problem = "some of it is damaged: its checksum is wrong" if wrong_sum else "its gzip data is damaged"
        exported = io.BytesIO()
        unpacked.export_index(fileobj=exported)
    points = _parse(exported.getvalue())
    if problem is None:  # the last point is the end
        return replace(points, **{name: getattr(points, name)[:-1] for name in _COLUMNS}), None
    return replace(points, end=_count_readable(points, file, packed_size)), problem


def _parse(exported: bytes) -> SeekPoints:
    """Parse the index that `indexed_gzip` wrote."""
    magic, version, _, _, _, _, window, count = _HEADER.unpack_from(exported)
    if (magic, version, window) != (_MAGIC, _VERSION, WINDOW):
        raise RuntimeError(f"indexed_gzip writes another format than is known here: {magic!r} {version} {window}")
    points = np.frombuffer(exported, _POINT, count, _HEADER.size)
    windows = np.frombuffer(exported, np.uint8, offset=_HEADER.size + points.nbytes).reshape(-1, WINDOW)
    has_window = points["has_window"].astype(bool)
    content = points["content"].astype(np.int64)
    return SeekPoints(
        packed=points["packed"].astype(np.int64),
        content=content,
        bits=points["bits"].copy(),
        windows=np.where(has_window, np.cumsum(has_window) - 1, -1),
        hashes=np.array([xxhash.xxh3_64_intdigest(window.tobytes()) for window in windows], dtype=np.uint64),
        read_window=lambda number: windows[number].tobytes(),
        end=int(content[-1]) if count else 0,
    )


def _count_readable(points: SeekPoints, file: BinaryIO, packed_size: int) -> int:
    """Count the readable bytes of content where damage follows the last point, by bisection."""
    if not len(points.content):
        return 0
    start = int(points.content[-1])
    everything = replace(points, end=_FAR)

    def reads(count: int) -> bool:
        try:
            return len(everything.read(file, packed_size, start, count)) == count
        except ZranError:
            return False

    readable, unreadable = 0, _STEP
    while reads(unreadable):
        readable, unreadable = unreadable, 2 * unreadable
    while unreadable - readable > 1:
        middle = (readable + unreadable) // 2
        readable, unreadable = (middle, unreadable) if reads(middle) else (readable, middle)
    return start + readable


class _NoDescriptor:
    """A file object without a descriptor: `indexed_gzip` would duplicate one and never close it."""

    def __init__(self, file: BinaryIO, passed: Callable[[int], object] = lambda count: None) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file
        self._passed = passed

    def read(self, count: int) -> bytes:
        content = self._file.read(count)
        self._passed(self._file.tell())
        return content
