"""What a cluster's worker does: one chunk after the other, with networks and decode processes that it keeps."""

import multiprocessing
import threading

from avfuse.features.errors import UsageError
from avfuse.stages.device import choose_device
from avfuse.stages.extract.extractor import ExtractionJob, Extractor, Progress
from avfuse.stages.extract.plan import Chunk

_one_at_a_time = threading.Lock()
_kept: dict[tuple[ExtractionJob, str, int], Extractor] = {}


def extract_chunk(extraction: ExtractionJob, chunk: Chunk, device: str, workers: int) -> Progress:
    """Bring a chunk into the cache. workers: decode processes.

    Raises UsageError where this process may have no children, or missing the device.
    """
    if multiprocessing.current_process().daemon:
        raise UsageError(
            "the cluster's workers are daemonic and cannot start decode processes: start them with avfuse cluster, or "
            "with DASK_DISTRIBUTED__WORKER__DAEMON=False in their environment"
        )
    with _one_at_a_time:
        extractor = _extractor(extraction, choose_device(device), workers)
        try:
            every = list(extractor.run([chunk]))
        except BaseException:
            _close()  # its decode processes are still at work on what nobody waits for, in slots that are theirs
            raise
    return Progress(
        seen=tuple(clip for news in every for clip in news.seen),
        done_elsewhere=sum(news.done_elsewhere for news in every),
        postponed=tuple(job for news in every for job in news.postponed),
        finished=True,
    )


def release_extractor() -> None:
    """Let go of networks and decode processes."""
    with _one_at_a_time:
        _close()


def _extractor(extraction: ExtractionJob, device: str, workers: int) -> Extractor:
    wanted = (extraction, device, workers)
    if wanted not in _kept:
        _close()
        _kept[wanted] = Extractor(*wanted)
    return _kept[wanted]


def _close() -> None:
    while _kept:
        _, extractor = _kept.popitem()
        extractor.__exit__(None, None, None)
