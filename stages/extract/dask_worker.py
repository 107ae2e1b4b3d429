"""The worker of a cluster: one chunk after the other, with the same networks and decode processes."""

import multiprocessing
import threading

from avfuse.features.errors import UsageError
from avfuse.stages.device import choose_device
from avfuse.stages.extract.extractor import ExtractionJob, Extractor, Progress
from avfuse.stages.extract.plan import Chunk

_one_at_a_time = threading.Lock()
_extractors: dict[tuple[ExtractionJob, str, int], Extractor] = {}


def extract_chunk(extraction: ExtractionJob, chunk: Chunk, device: str, workers: int) -> Progress:
    """Process and commit one chunk.

    Args:
        extraction: the features, and where they go.
        chunk: the clips.
        device: of this process, as `choose_device` takes it.
        workers: decode processes.

    Raises:
        UsageError: this process may have no children, or lacks the device.
    """
    if multiprocessing.current_process().daemon:
        raise UsageError(
            "the cluster's workers are daemonic and cannot start decode processes: start them with avfuse cluster, or "
            "with DASK_DISTRIBUTED__WORKER__DAEMON=False in their environment"
        )
    with _one_at_a_time:
        extractor = _extractor(extraction, choose_device(device), workers)
        try:
            steps = list(extractor.run([chunk]))
        except BaseException:
            _close()  # its decode processes may still write clips that nobody waits for
            raise
    return Progress(
        clips=tuple(clip for step in steps for clip in step.clips),
        done_elsewhere=sum(step.done_elsewhere for step in steps),
        postponed=tuple(job for step in steps for job in step.postponed),
        finished=True,
    )


def release_extractor() -> None:
    """Release the networks and end the decode processes."""
    with _one_at_a_time:
        _close()


def _extractor(extraction: ExtractionJob, device: str, workers: int) -> Extractor:
    key = (extraction, device, workers)
    if key not in _extractors:
        _close()
        _extractors[key] = Extractor(*key)
    return _extractors[key]


def _close() -> None:
    while _extractors:
        _, extractor = _extractors.popitem()
        extractor.__exit__(None, None, None)
