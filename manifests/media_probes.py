"""Headers of media files, probed in parallel and kept in a store.

FFmpeg may hang or crash on any file, so child processes open them; these import `avfuse.features.media`, and neither
pandas nor torch.
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
"""Files per task: to send one task costs about as much as to probe a small AVI."""

SAVE_SECONDS = 60.0
"""Between two writes of the store."""

STAT_THREADS, STAT_FILES = 16, 500
"""Threads that stat files, and files per task."""

_KEYS = {"path": pa.binary(), "size": pa.int64(), "mtime_ns": pa.int64()}  # a path need not be UTF-8
_STREAMS = ("has_video", "has_audio")
_NUMBERS = ("duration_seconds", "width", "height", "frames_per_second", "sample_rate_hz", "channels")
COLUMNS = ("size", *_STREAMS, *_NUMBERS, "problem")

ABSENT = (-1, 0)
"""Size and modification time of a missing file."""

_REVISION = 1
"""Raised when `probe` gives other results for the same file: stores of another revision are not used."""

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
"""Contained in a problem when the system could not read a file that may be sound."""

_log = logging.getLogger(__name__)


def probe_media(
    paths: Sequence[Path], store: Path, *, jobs: int | None = None, progress: bool = True, seconds: float = 60
) -> pd.DataFrame:
    """Read the headers of media files, or take them from the store.

    A file is probed once, however often its path occurs, and again when its size or modification time has changed. A
    file on which FFmpeg hangs or crashes affects no other.

    Args:
        paths: absolute paths, of existing files or not.
        store: the Parquet file of earlier results; created where missing. It is written every minute, at the end and on
            an interruption, and keeps what others have written to it meanwhile. Missing files are not stored, nor
            problems that may be the machine's: time-outs, dead processes, files that the system could not read.
        jobs: processes; None: one per core. A slow network share can do with more.
        progress: whether to show a progress bar.
        seconds: that one file may take.

    Returns:
        A row per path, in order: size (bytes, -1 for a missing file), has_video, has_audio, duration_seconds, width,
        height (pixels), frames_per_second, sample_rate_hz, channels, and problem, None or one line. Numbers that the
        header lacks are NaN.

    Raises:
        OSError: the store cannot be read or written.
    """
    names = [os.fsencode(path) for path in paths]
    files = dict(zip(names, paths, strict=True))
    states = _states(list(files.values()))
    query = pd.DataFrame({"path": pd.Series(list(files), dtype=object), "size": states[:, 0], "mtime_ns": states[:, 1]})
    known = _read_store(store, warn=True)
    table = _join(query, known)
    missing = query[table["has_video"].isna() & (query["size"] >= 0)]
    if len(missing):
        probed = _probe_files(missing, files, store, jobs or available_cores(), progress, seconds)
        table = _join(query, pa.concat_tables([known, probed]))
    for column in _STREAMS:
        table[column] = table[column].eq(True)
    problem = table["problem"].astype(object).mask(table["size"] < 0, "file not found")
    table["problem"] = problem.where(problem.notna(), None)
    return table[[*COLUMNS]].iloc[pd.Index(query["path"]).get_indexer(names)].reset_index(drop=True)


def file_state(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds; (-1, 0) for a missing file."""
    try:
        status = os.stat(path)
    except OSError:
        return ABSENT
    return status.st_size, status.st_mtime_ns


def _states(paths: Sequence[Path]) -> NDArray[np.int64]:
    """Size and modification time of each file, (n, 2), by many threads: a network share is slow, not busy."""
    parts = [paths[first : first + STAT_FILES] for first in range(0, len(paths), STAT_FILES)]
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        states = [state for part in threads.map(_states_of, parts) for state in part]
    return np.array(states, dtype=np.int64).reshape(-1, 2)


def _states_of(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """As `_states`. An archive is opened once per folder in it."""
    folders: dict[str, archives.Folder | None] = {}
    states = []
    for path in paths:
        parent, name = os.path.split(path)
        if parent not in folders:
            folders[parent] = archives.folder(parent)
        folder = folders[parent]
        states.append(file_state(path) if folder is None else folder.state(name) or ABSENT)
    return states


def _join(query: pd.DataFrame, known: pa.Table) -> pd.DataFrame:
    """The known probes of files in their present state; NaN where there is none."""
    return query.merge(known.to_pandas(), how="left", on=[*_KEYS])


def _probe_files(
    missing: pd.DataFrame, files: dict[bytes, Path], store: Path, jobs: int, progress: bool, seconds: float
) -> pa.Table:
    """Probe the files of `missing` (path, size, mtime_ns). Lasting results are in the store however this ends."""
    states = {row.path: row._asdict() for row in missing.itertuples(index=False)}
    paths = [files[name] for name in states]
    batch_files = min(BATCH_FILES, -(-len(paths) // jobs))
    batches = [paths[first : first + batch_files] for first in range(0, len(paths), batch_files)]
    rows: list[dict[str, Any]] = []
    lasting: list[dict[str, Any]] = []
    saved = time.monotonic()
    with (
        _process_pool(min(jobs, len(batches))) as pool,
        tqdm(total=len(paths), unit="file", desc="probe", disable=not progress) as bar,
    ):
        try:
            for path, result in _results(pool, batches, 4 * jobs, seconds):
                rows.append(states[os.fsencode(path)] | _fields(result, seconds))
                if _is_lasting(result):
                    lasting.append(rows[-1])
                bar.update()
                if time.monotonic() - saved > SAVE_SECONDS:
                    _add_to_store(lasting, store)
                    saved = time.monotonic()
        finally:
            _add_to_store(lasting, store)
    return pa.Table.from_pylist(rows, _SCHEMA)


@contextmanager
def _process_pool(count: int) -> Iterator[ProcessPool]:
    """Processes that are spawned: a running fork server could no longer preload what decode workers share."""
    pool = ProcessPool(max_workers=count, context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.stop()
        pool.join()


def _results(
    pool: ProcessPool, batches: Sequence[Sequence[Path]], ahead: int, seconds: float
) -> Iterator[tuple[Path, MediaInfo | Exception]]:
    """The result or the error of `probe` for each file, in any order. The files of a batch that hangs or dies are
    retried one by one. `ahead`: batches submitted at a time."""
    waiting = deque(batches)
    running: dict[Future[Any], Sequence[Path]] = {}
    while waiting or running:
        while waiting and len(running) < ahead:
            batch = waiting.popleft()
            running[pool.map(probe, batch, chunksize=len(batch), timeout=seconds)] = batch
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            batch = running.pop(future)
            try:
                results = list(_batch_results(future.result(), len(batch)))
            except (TimeoutError, ProcessExpired) as lost:
                if len(batch) > 1:
                    waiting.extendleft([path] for path in batch)
                else:
                    yield batch[0], lost
            else:
                yield from zip(batch, results, strict=True)


def _batch_results(results: Iterator[MediaInfo], count: int) -> Iterator[MediaInfo | Exception]:
    """Results and errors of a batch. Raises TimeoutError or ProcessExpired where the batch was lost."""
    for _ in range(count):
        try:
            yield next(results)
        except (TimeoutError, ProcessExpired, BrokenExecutor):
            raise
        except Exception as error:  # noqa: BLE001  (what one file provokes in a library costs that file, not the run)
            yield error


def _fields(result: MediaInfo | Exception, seconds: float) -> dict[str, Any]:
    if isinstance(result, MediaInfo):
        return {name: getattr(result, name) for name in (*_STREAMS, *_NUMBERS)}
    match result:
        case ClipError():
            problem = result.message
        case TimeoutError():
            problem = f"took longer than {seconds:g} s"
        case ProcessExpired():
            problem = "the probing process died"
        case _:
            problem = f"{type(result).__name__}: {result}"
    line = " ".join(problem.split()).encode(errors="replace").decode()
    return {**dict.fromkeys(_STREAMS, False), "problem": line}


def _is_lasting(result: MediaInfo | Exception) -> bool:
    """Whether another probe of the same file would have the same result."""
    if isinstance(result, ClipError):
        return result.message != "file not found" and not any(refusal in result.message for refusal in _REFUSALS)
    return isinstance(result, MediaInfo)


def _read_store(store: Path, warn: bool = False) -> pa.Table:
    """The content of a store: nothing where it is missing, damaged (`warn`: with a warning) or of another revision."""
    nothing = _SCHEMA.empty_table()
    try:
        content = store.read_bytes()
    except FileNotFoundError:
        return nothing
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        if warn:
            _log.warning("%s is damaged, all files are probed again (%s)", store, str(error).partition("\n")[0])
        return nothing
    return table if table.schema.equals(_SCHEMA, check_metadata=True) else nothing


def _add_to_store(rows: Sequence[dict[str, Any]], store: Path) -> None:
    """Add rows to the store as it is now, in place of its rows of the same paths."""
    if not rows:
        return
    added = pa.Table.from_pylist(rows, _SCHEMA)
    kept = _read_store(store)
    kept = kept.filter(pc.invert(pc.is_in(kept["path"], added["path"])))
    store.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(store) as temporary:
        pq.write_table(pa.concat_tables([kept, added]), temporary, write_page_checksum=True)
