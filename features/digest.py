"""The hash that identifies a media file's content: of its first and last 64 KiB."""

from collections.abc import Callable

import xxhash

EDGE_BYTES = 64 * 1024


def edge_digest(read: Callable[[int, int], bytes], size: int) -> bytes:
    """Hash a file to 16 bytes.

    read: (position, count) -> that many bytes, fewer at the end. size: of the file, in bytes."""
    state = xxhash.xxh3_128(read(0, EDGE_BYTES))
    state.update(read(max(EDGE_BYTES, size - EDGE_BYTES), EDGE_BYTES))
    return state.digest()
