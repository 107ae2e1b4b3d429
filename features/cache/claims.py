"""Which clips other runs have in work, so that two runs on one cache do not do the same work twice.

Correctness never rests on a claim: a clip that two runs extracted is there twice, and read once. A claim is a file with
what is claimed, beside a locked file; the system lets go of the lock when its owner ends, however it ends.
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
    """One clip under one feature's key, as a number."""
    return xxhash.xxh3_64_intdigest(f"{key} {clip.start} {clip.end} {clip.clip_id}".encode())


class Claim:
    """What one run has in work. Ends when it is released, or with its process."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self._path = path
        self._lock = lock

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


class Claims:
    """The claims of a collection. On a file system without locks there are none, and `take` gives all."""

    def __init__(self, cache: Path, collection: str) -> None:
        self.folder = cache / collection / FOLDER

    def acquire(self, marks: Sequence[int]) -> tuple[NDArray[np.bool_], Claim | None]:
        """Claim what nobody else has in work. Returns which of the marks that are (n,), and the claim to release."""
        wanted = np.array(marks, dtype=np.uint64)
        try:
            return self._acquire(wanted)
        except (NotImplementedError, Timeout, OSError):
            return np.ones(len(wanted), dtype=bool), None

    def _acquire(self, wanted: ClaimIds) -> tuple[NDArray[np.bool_], Claim | None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / _BOARD, timeout=_BOARD_SECONDS):
            free = ~np.isin(wanted, self._claimed_ids())
            if not free.any():
                return free, None
            path = self.folder / f"{uuid.uuid4().hex}.claim"
            lock = FileLock(path.with_suffix(".lock"), thread_local=False)
            lock.acquire(timeout=0)
            path.write_bytes(wanted[free].tobytes())
            return free, Claim(path, lock)

    def claimed_ids(self) -> ClaimIds:
        """What living runs have in work now. What dead ones left is cleared away."""
        if not self.folder.is_dir():
            return np.empty(0, np.uint64)
        try:
            with FileLock(self.folder / _BOARD, timeout=_BOARD_SECONDS):
                return self._claimed_ids()
        except (NotImplementedError, Timeout, OSError):
            return np.empty(0, np.uint64)

    def scan(self, clear: bool = False) -> tuple[int, list[Path]]:
        """How many claims living runs have, and the files that dead runs left, which go when `clear` is set. Where
        locks do not work, nothing is known: (0, [])."""
        if not self.folder.is_dir():
            return 0, []
        try:
            with FileLock(self.folder / _BOARD, timeout=_BOARD_SECONDS):
                locks = {*self.folder.glob("*.lock"), *(path.with_suffix(".lock") for path in self._claims())}
                locks -= {self.folder / _BOARD, self.folder / _UPKEEP}
                dead = sorted(lock for lock in locks if not _is_held(lock))
                left = [path for lock in dead for path in (lock.with_suffix(".claim"), lock) if path.exists()]
                if clear:
                    for path in left:
                        path.unlink(missing_ok=True)
                return len(locks) - len(dead), left
        except (NotImplementedError, Timeout, OSError):
            return 0, []

    @contextmanager
    def exclusive_maintenance(self) -> Iterator[None]:
        """While this is open, nobody else takes shards or rows of this collection away. Extraction may go on, it only
        adds. Raises UsageError where somebody else does, and on a file system without locks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _UPKEEP)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(f"somebody else repairs or removes in {self.folder.parent}: wait for it") from error
        except (NotImplementedError, OSError) as error:
            raise UsageError(
                f"{self.folder} cannot be locked ({error}): repair and remove where the file system knows locks"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _claims(self) -> list[Path]:
        return sorted(self.folder.glob("*.claim"))

    def _claimed_ids(self) -> ClaimIds:
        return np.concatenate([np.empty(0, np.uint64), *map(_read, self._living())])

    def _living(self) -> Iterable[Path]:
        for path in self._claims():
            lock = FileLock(path.with_suffix(".lock"), thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                yield path
            else:
                Claim(path, lock).release()


def _is_held(path: Path) -> bool:
    """Whether a living process has the lock at `path`; a file that is not there is not made."""
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
