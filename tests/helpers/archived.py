"""Content for archives that tests pack, and a look into them."""

import random
from pathlib import Path

from avfuse.features import archives
from avfuse.features.archives import indexing

NOISE = random.Random(0)
FILES = {f"video/{number}.mp4": NOISE.randbytes(20_000 + 7 * number) for number in range(40)}
"""Content that gzip cannot make smaller, as videos are: 800 KB."""


def content_of(archive: Path, name: str) -> bytes:
    member = archives.find(archive / name)
    assert member is not None
    return member.read()


def forget_indices() -> None:
    """Drop the indices that this process remembers, as in a new one."""
    indexing._recent_indices.clear()
