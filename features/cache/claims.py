"""Claims on clips, so that runs side by side on one cache do not do the same work twice.

Correctness does not depend on them: a clip that two runs extracted is stored twice, and read once. A claim is a file
with ids of clips beside a locked file; the operating system releases the lock when its owner ends.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xxhash
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError

FOLDER = ".claims"
_BOARD, _UPKEEP = "board.lock", "upkeep.lock"
_BOARD_SECONDS = 60.0

ClaimIds = NDArray[np.uint64]


def claim_id(key: str, clip: Clip) -> int:
    """The id of a claim: a hash of a clip and a feature's key."""
    return xxhash.xxh3_64_intdigest(f"{key} {clip.start} {clip.end} {clip.clip_id}".encode())


class Claim:
    """The clips that one run has claimed, until it is released or its process ends."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self._path = path
        self._lock = lock

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


class Claims:
    """The claims of a collection. On a file system without locks there are none, and `acquire` grants every clip."""

    def __init__(self, cache: Path, collection: str) -> None:
        self.folder = cache / collection / FOLDER

    def acquire(self, claim_ids: Sequence[int]) -> tuple[NDArray[np.bool_], Claim | None]:
        """Claim those that no other run has. Returns which they are (n,), and the claim to release."""
        requested = np.array(claim_ids, dtype=np.uint64)
        try:
            return self._acquire(requested)
        except (NotImplementedError, Timeout, OSError):
            return np.ones(len(requested), dtype=bool), None

    def _acquire(self, requested: ClaimIds) -> tuple[NDArray[np.bool_], Claim | None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / _BOARD, timeout=_BOARD_SECONDS):
            free = ~np.isin(requested, self._claimed_ids())
            if not free.any():
                return free, None
            path = self.folder / f"{uuid.uuid4().hex}.claim"
            lock = FileLock(path.with_suffix(".lock"), thread_local=False)
            lock.acquire(timeout=0)
            path.write_bytes(requested[free].tobytes())
            return free, Claim(path, lock)

    def claimed_ids(self) -> ClaimIds:
        """The ids that running processes have claimed. Files that ended ones left are removed."""
        if not self.folder.is_dir():
            return np.empty(0, np.uint64)
        try:
            with FileLock(self.folder / _BOARD, timeout=_BOARD_SECONDS):
                return self._claimed_ids()
        except (NotImplementedError, Timeout, OSError):
            return np.empty(0, np.uint64)

    def scan(self, clear: bool = False) -> tuple[int, list[Path]]:
        """The number of live claims, and the files that ended runs left, which `clear` removes. (0, []) on a file
        system without locks."""
        if not self.folder.is_dir():
            return 0, []
        try:
            with FileLock(self.folder / _BOARD, timeout=_BOARD_SECONDS):
                locks = {*self.folder.glob("*.lock"), *(path.with_suffix(".lock") for path in self._claims())}
                locks -= {self.folder / _BOARD, self.folder / _UPKEEP}
                stale = sorted(lock for lock in locks if not _is_held(lock))
                leftovers = [path for lock in stale for path in (lock.with_suffix(".claim"), lock) if path.exists()]
                if clear:
                    for path in leftovers:
                        path.unlink(missing_ok=True)
                return len(locks) - len(stale), leftovers
        except (NotImplementedError, Timeout, OSError):
            return 0, []

    @contextmanager
    def exclusive_maintenance(self) -> Iterator[None]:
        """The exclusive right to remove shards or rows of this collection; extraction, which only adds, may run.

        Raises UsageError if another process holds it, and on a file system without locks.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _UPKEEP)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(f"another process repairs or removes in {self.folder.parent}: wait for it") from error
        except (NotImplementedError, OSError) as error:
            raise UsageError(
                f"{self.folder} cannot be locked ({error}): repair and remove on a file system that supports locks"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _claims(self) -> list[Path]:
        return sorted(self.folder.glob("*.claim"))

    def _claimed_ids(self) -> ClaimIds:
        return np.concatenate([np.empty(0, np.uint64), *map(_read, self._live_claims())])

    def _live_claims(self) -> Iterable[Path]:
        """The claims of running processes. Those of ended ones are removed."""
        for path in self._claims():
            lock = FileLock(path.with_suffix(".lock"), thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                yield path
            else:
                Claim(path, lock).release()


def _is_held(path: Path) -> bool:
    """Whether a process holds the lock at `path`. Never creates the file."""
    if not path.exists():
        return False
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _read(path: Path) -> ClaimIds:
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # released meanwhile
        return np.empty(0, np.uint64)
    return np.frombuffer(content[: len(content) // 8 * 8], np.uint64)
