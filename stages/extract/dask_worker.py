"""What a cluster's worker does: one chunk after the other, with networks and decode processes that it keeps."""

import multiprocessing
import threading

from avfuse.features.errors import UsageError
from avfuse.stages.device import choose_device
from avfuse.stages.extract.extractor import Extractor, Progress, Work
from avfuse.stages.extract.plan import Chunk

_one_at_a_time = threading.Lock()
_kept: dict[tuple[Work, str, int], Extractor] = {}


def work_on(work: Work, chunk: Chunk, device: str, workers: int) -> Progress:
    """Bring a chunk into the cache. workers: decode processes.

    Raises UsageError where this process may have no children, or lacks the device.
    """
    if multiprocessing.current_process().daemon:
        raise UsageError(
            "the cluster's workers are daemonic and cannot start decode processes: start them with avfuse cluster, or "
            "with DASK_DISTRIBUTED__WORKER__DAEMON=False in their environment"
        )
    with _one_at_a_time:
        extractor = _extractor(work, choose_device(device), workers)
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


def forget() -> None:
    """Let go of networks and decode processes."""
    with _one_at_a_time:
        _close()


def _extractor(work: Work, device: str, workers: int) -> Extractor:
    wanted = (work, device, workers)
    if wanted not in _kept:
        _close()
        _kept[wanted] = Extractor(*wanted)
    return _kept[wanted]


def _close() -> None:
    while _kept:
        _, extractor = _kept.popitem()
        extractor.__exit__(None, None, None)
