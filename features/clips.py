"""Clips as stage one sees them: without labels."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Clip:
    """An interval of one media file. start, end: in seconds; None for the file's own."""

    clip_id: str
    path: Path
    start: float | None = None
    end: float | None = None
