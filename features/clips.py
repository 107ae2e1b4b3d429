"""A clip as this layer knows it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Clip:
    """One stretch of one media file. start and end in seconds; None means the file's own."""

    clip_id: str
    path: Path
    start: float | None = None
    end: float | None = None
