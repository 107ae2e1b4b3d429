"""Retries: a chunk whose process died is processed again, here, until the clip that kills processes is found.

A clip that failed in an earlier run is planned again once: `plan.MAX_ATTEMPTS`.
"""

from dataclasses import dataclass

from avfuse.features.cache import ChunkResult, Failure, fingerprint
from avfuse.features.errors import UsageError
from avfuse.stages.extract.extractor import ExtractionJob, ProcessedClip, Progress
from avfuse.stages.extract.plan import Chunk, ClipJob

ATTEMPTS_BEFORE_BISECTION = 2
"""A chunk whose process died is retried so often; then its halves are, until the clip that kills is alone."""

MAX_CONSECUTIVE_FAILURES = 3
"""Clips lost to dead processes without a chunk finished in between: beyond these it is not the clips."""


@dataclass
class ChunkAttempt:
    """A chunk, and how many processes have died over it."""

    chunk: Chunk
    deaths: int = 0


class CrashBisector:
    """Finds the clip that kills processes: retries a chunk, then its halves, until that clip is alone and failed."""

    def __init__(self, extraction: ExtractionJob) -> None:
        self._extraction = extraction
        self._consecutive_failures = 0

    def finished(self) -> None:
        """Note that a process finished a chunk."""
        self._consecutive_failures = 0

    def next_attempts(self, attempt: ChunkAttempt, reason: str) -> tuple[list[ChunkAttempt], Progress | None]:
        """The attempts that follow after a process died over a chunk; or none, and the progress of its only clip, whose
        failure is recorded.

        Raises UsageError when one clip after the other is lost.
        """
        chunk, deaths = attempt.chunk, attempt.deaths + 1
        if deaths < ATTEMPTS_BEFORE_BISECTION:
            return [ChunkAttempt(chunk, deaths)], None
        if len(chunk) > 1:
            half = len(chunk) // 2
            return [ChunkAttempt(part, ATTEMPTS_BEFORE_BISECTION - 1) for part in (chunk[:half], chunk[half:])], None
        self._consecutive_failures += 1
        if self._consecutive_failures > MAX_CONSECUTIVE_FAILURES:
            raise UsageError(
                f"{reason}, whatever the clip: committed features are kept; find the cause (memory, driver), then "
                "start the run again"
            )
        record_failure(self._extraction, chunk[0], reason)
        return [], Progress((ProcessedClip(chunk[0].clip.clip_id, (), True),), finished=True)


def record_failure(extraction: ExtractionJob, job: ClipJob, reason: str) -> None:
    """Commit a failure for every missing feature of a clip."""
    stores = extraction.stores()
    for position, attempts in zip(job.missing, job.attempts, strict=True):
        failed = [(job.clip, fingerprint(job.clip.path), Failure("worker", reason, attempts + 1))]
        stores[position].commit(ChunkResult(stores[position].spec, failed=failed))
