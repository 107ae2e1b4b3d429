"""What the headers of media files say: asked of many files side by side, and remembered.

FFmpeg may hang or crash on any file, so only processes of their own open files; they import `avfuse.features.media`,
and neither pandas nor torch.
"""

import errno
import logging
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ThreadPoolExecutor, TimeoutError, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from avfuse.features import archives
from avfuse.features.atomic import atomic_write
from avfuse.features.errors import ClipError
from avfuse.features.media import MediaInfo, probe
from avfuse.threads import available_cores

BATCH_FILES = 16
"""Files a process is given at a time: handing over costs about as much as looking into a small AVI."""

SAVE_SECONDS = 60.0

STAT_THREADS, STAT_FILES = 16, 500
"""How many threads look at sizes and times, and at how many files at a time."""

_KEYS = {"path": pa.binary(), "size": pa.int64(), "mtime_ns": pa.int64()}  # a path need not be UTF-8
_STREAMS = ("has_video", "has_audio")
_NUMBERS = ("duration_seconds", "width", "height", "frames_per_second", "sample_rate_hz", "channels")
COLUMNS = ("size", *_STREAMS, *_NUMBERS, "problem")

ABSENT = (-1, 0)
"""Size and modification time of a file that is not there."""

_REVISION = 1
"""Raised when `probe` says other things of the same file: what is in a store is asked again."""

_SCHEMA = pa.schema(
    {**_KEYS, **dict.fromkeys(_STREAMS, pa.bool_()), **dict.fromkeys(_NUMBERS, pa.float64()), "problem": pa.string()},
    metadata={"avfuse": f"probes {_REVISION}"},
)

_REFUSALS = tuple(
    f"({os.strerror(code)})"
    for code in (
        *(errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    )
)
"""What a problem contains when the system would not give a file; the file itself may be sound."""

_log = logging.getLogger(__name__)


def probe_media(
    paths: Sequence[Path], store: Path, *, jobs: int | None = None, progress: bool = True, seconds: float = 60
) -> pd.DataFrame:
    """What each file's header says, asked now or before.

    A file is asked once, however often its path occurs, and again when its size or modification time has changed. One
    on which FFmpeg hangs or crashes costs time and no other file.

    Args:
        paths: absolute paths, there or not.
        store: the Parquet file that remembers; made where there is none. It is written every minute, at the end, and
            when the call is interrupted, and keeps what others have written to it meanwhile. Not remembered are
            files that are not there, and problems that may have been the machine's: files that took too long or killed
            their process, or that the system would not give.
        jobs: processes; None is one per core. A share that answers slowly can do with more.
        progress: whether to show a bar while files are asked.
        seconds: how long a file may take.

    Returns:
        A row per path, in order: size (bytes, -1 where no such file is), has_video, has_audio, duration_seconds,
        width, height (pixels), frames_per_second, sample_rate_hz, channels, and problem, None or one line. Numbers
        that the header does not say are NaN.

    Raises:
        OSError: the store cannot be read or written, for want of rights or space.
    """
    names = [os.fsencode(path) for path in paths]
    files = dict(zip(names, paths, strict=True))
    states = _states(list(files.values()))
    asked = pd.DataFrame({"path": pd.Series(list(files), dtype=object), "size": states[:, 0], "mtime_ns": states[:, 1]})
    known = _read(store, tell=True)
    table = _joined(asked, known)
    missing = asked[table["has_video"].isna() & (asked["size"] >= 0)]
    if len(missing):
        found = _ask(missing, files, store, jobs or available_cores(), progress, seconds)
        table = _joined(asked, pa.concat_tables([known, found]))
    for column in _STREAMS:
        table[column] = table[column].eq(True)
    problem = table["problem"].astype(object).mask(table["size"] < 0, "file not found")
    table["problem"] = problem.where(problem.notna(), None)
    return table[[*COLUMNS]].iloc[pd.Index(asked["path"]).get_indexer(names)].reset_index(drop=True)


def state_of(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds; (-1, 0) where there is no file to look at."""
    try:
        status = os.stat(path)
    except OSError:
        return ABSENT
    return status.st_size, status.st_mtime_ns


def _states(paths: Sequence[Path]) -> NDArray[np.int64]:
    """Size and modification time of each file, (n, 2). A share answers many questions at a time."""
    parts = [paths[first : first + STAT_FILES] for first in range(0, len(paths), STAT_FILES)]
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        states = [state for found in threads.map(_states_of, parts) for state in found]
    return np.array(states, dtype=np.int64).reshape(-1, 2)


def _states_of(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """An archive is looked at once for each of its folders."""
    folders: dict[str, archives.Folder | None] = {}
    states = []
    for path in paths:
        parent, name = os.path.split(path)
        if parent not in folders:
            folders[parent] = archives.folder(parent)
        folder = folders[parent]
        states.append(state_of(path) if folder is None else folder.state(name) or ABSENT)
    return states


def _joined(asked: pd.DataFrame, known: pa.Table) -> pd.DataFrame:
    """What is known of the files asked for, in their present state; NaN where nothing is."""
    return asked.merge(known.to_pandas(), how="left", on=[*_KEYS])


def _ask(
    missing: pd.DataFrame, files: dict[bytes, Path], store: Path, jobs: int, progress: bool, seconds: float
) -> pa.Table:
    """Ask the files of `missing` (path, size, mtime_ns). What can be remembered is in the store, however this ends."""
    states = {row.path: row._asdict() for row in missing.itertuples(index=False)}
    paths = [files[name] for name in states]
    batch_files = min(BATCH_FILES, -(-len(paths) // jobs))
    batches = [paths[first : first + batch_files] for first in range(0, len(paths), batch_files)]
    rows: list[dict[str, Any]] = []
    lasting: list[dict[str, Any]] = []
    saved = time.monotonic()
    with (
        _processes(min(jobs, len(batches))) as pool,
        tqdm(total=len(paths), unit="file", desc="probe", disable=not progress) as bar,
    ):
        try:
            for path, answer in _answers(pool, batches, 4 * jobs, seconds):
                rows.append(states[os.fsencode(path)] | _fields(answer, seconds))
                if _is_lasting(answer):
                    lasting.append(rows[-1])
                bar.update()
                if time.monotonic() - saved > SAVE_SECONDS:
                    _remember(lasting, store)
                    saved = time.monotonic()
        finally:
            _remember(lasting, store)
    return pa.Table.from_pylist(rows, _SCHEMA)


@contextmanager
def _processes(count: int) -> Iterator[ProcessPool]:
    """They are spawned: a fork server, once it runs, could no longer load what decode workers share."""
    pool = ProcessPool(max_workers=count, context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.stop()
        pool.join()


def _answers(
    pool: ProcessPool, batches: Sequence[Sequence[Path]], ahead: int, seconds: float
) -> Iterator[tuple[Path, MediaInfo | Exception]]:
    """What `probe` gives or raises for each file, as it comes. The files of a batch that hangs or dies are tried again
    one by one. `ahead`: batches handed over at a time."""
    waiting = deque(batches)
    running: dict[Future[Any], Sequence[Path]] = {}
    while waiting or running:
        while waiting and len(running) < ahead:
            batch = waiting.popleft()
            running[pool.map(probe, batch, chunksize=len(batch), timeout=seconds)] = batch
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            batch = running.pop(future)
            try:
                answers = list(_each(future.result(), len(batch)))
            except (TimeoutError, ProcessExpired) as lost:
                if len(batch) > 1:
                    waiting.extendleft([path] for path in batch)
                else:
                    yield batch[0], lost
            else:
                yield from zip(batch, answers, strict=True)


def _each(results: Iterator[MediaInfo], count: int) -> Iterator[MediaInfo | Exception]:
    """A batch's answers. Raises TimeoutError or ProcessExpired where the batch was lost."""
    for _ in range(count):
        try:
            yield next(results)
        except (TimeoutError, ProcessExpired, BrokenExecutor):
            raise
        except Exception as error:  # noqa: BLE001  (what one file provokes in a library costs that file, not the run)
            yield error


def _fields(answer: MediaInfo | Exception, seconds: float) -> dict[str, Any]:
    if isinstance(answer, MediaInfo):
        return {name: getattr(answer, name) for name in (*_STREAMS, *_NUMBERS)}
    match answer:
        case ClipError():
            problem = answer.message
        case TimeoutError():
            problem = f"took longer than {seconds:g} s"
        case ProcessExpired():
            problem = "the probing process died"
        case _:
            problem = f"{type(answer).__name__}: {answer}"
    line = " ".join(problem.split()).encode(errors="replace").decode()
    return {**dict.fromkeys(_STREAMS, False), "problem": line}


def _is_lasting(answer: MediaInfo | Exception) -> bool:
    """Whether a file would answer the same another time."""
    if isinstance(answer, ClipError):
        return answer.message != "file not found" and not any(refusal in answer.message for refusal in _REFUSALS)
    return isinstance(answer, MediaInfo)


def _read(store: Path, tell: bool = False) -> pa.Table:
    """What a store remembers: nothing where it is not there, is damaged (`tell`: with a warning), or of another
    revision."""
    nothing = _SCHEMA.empty_table()
    try:
        content = store.read_bytes()
    except FileNotFoundError:
        return nothing
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        if tell:
            _log.warning("%s is damaged, all files are probed again (%s)", store, str(error).partition("\n")[0])
        return nothing
    return table if table.schema.equals(_SCHEMA, check_metadata=True) else nothing


def _remember(rows: Sequence[dict[str, Any]], store: Path) -> None:
    """Add rows to what is in the store by now, in place of what it has of the same paths."""
    if not rows:
        return
    added = pa.Table.from_pylist(rows, _SCHEMA)
    kept = _read(store)
    kept = kept.filter(pc.invert(pc.is_in(kept["path"], added["path"])))
    store.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(store) as temporary:
        pq.write_table(pa.concat_tables([kept, added]), temporary, write_page_checksum=True)
