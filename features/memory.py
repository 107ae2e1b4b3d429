"""How the process treats memory that it has freed."""

import ctypes
import sys
from functools import lru_cache

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


@lru_cache
def keep_large_buffers() -> None:
    """Let glibc reuse the memory of tensors instead of returning it to the system each time: faulting the pages in
    again costs more than the arithmetic on some machines. Other C libraries have no such call and need none."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_TRIM_THRESHOLD, 2**30)
