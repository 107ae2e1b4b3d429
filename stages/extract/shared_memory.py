"""Shared memory named after its process, so that what a killed process left can be removed."""

import os
import uuid
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

FOLDER = Path("/dev/shm")
_PREFIX = "avfuse"


def create(size: int) -> SharedMemory:
    """New shared memory of `size` bytes, named after this process where names are files (Linux)."""
    if not FOLDER.is_dir():
        return SharedMemory(create=True, size=size)
    return SharedMemory(f"{_PREFIX}-{_namespace()}-{os.getpid()}-{uuid.uuid4().hex[:12]}", create=True, size=size)


def remove_stale() -> int:
    """Remove the shared memory of dead processes, which were killed before they could (Linux). Returns how many
    pieces."""
    removed = 0
    for path in FOLDER.glob(f"{_PREFIX}-{_namespace()}-*") if FOLDER.is_dir() else ():
        process = path.name.split("-")[2]
        if process.isdecimal() and not _is_alive(int(process)):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def _namespace() -> int:
    """Namespace of process ids: containers may share this memory and not their process ids."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
