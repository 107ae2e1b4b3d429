"""Files that appear whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(target: Path, *, prefix: str = ".", suffix: str = ".tmp", durable: bool = False) -> Iterator[Path]:
    """Yield a path beside `target` to write to; it is renamed to `target` at the end, or removed on an error.

    Args:
        target: the file to write; one already there is replaced.
        prefix: how the temporary name begins; everything that lists files overlooks names that begin with a dot.
        suffix: how the temporary name ends. `.tmp` is what `verify` removes from the cache.
        durable: flush the file to disk before it is renamed, and its folder afterwards.
    """
    temporary = target.with_name(f"{prefix}{uuid.uuid4().hex}{suffix}")
    try:
        yield temporary
        if durable:
            _flush(temporary)
        temporary.replace(target)
        if durable:
            _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
