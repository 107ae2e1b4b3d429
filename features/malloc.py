"""Settings of glibc's allocator for freed memory."""

import ctypes
import sys
from functools import cache

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


@cache
def keep_large_buffers() -> None:
    """Let glibc reuse the memory of tensors instead of returning it to the system each time: faulting the pages in
    again costs more than the arithmetic on some machines. Other C libraries have no such call and need none."""
    libc = _libc()
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_TRIM_THRESHOLD, 2**30)


def release_buffers() -> None:
    """Return freed memory that was kept for reuse to the system."""
    libc = _libc()
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
