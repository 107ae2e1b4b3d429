"""Shared memory that says whose it is, so that what a killed process left can be given back."""

import os
import uuid
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

FOLDER = Path("/dev/shm")
_PREFIX = "avfuse"


def create(size: int) -> SharedMemory:
    """New shared memory of `size` bytes, under the name of this process where names are files (Linux)."""
    if not FOLDER.is_dir():
        return SharedMemory(create=True, size=size)
    return SharedMemory(f"{_PREFIX}-{_namespace()}-{os.getpid()}-{uuid.uuid4().hex[:12]}", create=True, size=size)


def remove_stale() -> int:
    """Remove what processes left here that were killed with all that would have tidied up after them (Linux). Returns
    how many pieces."""
    given_back = 0
    for path in FOLDER.glob(f"{_PREFIX}-{_namespace()}-*") if FOLDER.is_dir() else ():
        process = path.name.split("-")[2]
        if process.isdecimal() and not _lives(int(process)):
            path.unlink(missing_ok=True)
            given_back += 1
    return given_back


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def _namespace() -> int:
    """Process numbers mean something within one namespace alone; containers may share this memory and not those."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
