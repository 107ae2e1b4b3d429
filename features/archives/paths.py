"""Paths into an archive, as if it were a folder: `DIR/vggsound_00.tar.gz/video/ID.mp4`."""

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

_SUFFIX = r"\.(?:tar(?:\.(?:gz|bz2|xz|zst|lz4))?|tgz|tbz2?|txz|tzst)"
_NAMED = re.compile(_SUFFIX + r"\Z", re.IGNORECASE)
_INSIDE = re.compile(_SUFFIX + "/", re.IGNORECASE)


class ArchivePath(NamedTuple):
    """A path into an archive. member: the name inside it; status: the archive's `os.stat`."""

    archive: str
    member: str
    status: os.stat_result


def is_archive(path: str | Path) -> bool:
    """Whether a file is named like an archive, including formats that cannot be read in place."""
    return _NAMED.search(os.fspath(path)) is not None


def split_archive_path(path: str | Path) -> ArchivePath | None:
    """Split a path into archive and member; None for a path into no archive. A folder named `x.tar` is a folder."""
    text = os.fspath(path).replace(os.sep, "/")
    for ending in _INSIDE.finditer(text):
        archive = text[: ending.end() - 1]
        try:
            status = os.stat(archive)
        except (OSError, ValueError):  # the latter for a path with a null character
            return None
        if stat.S_ISREG(status.st_mode):
            return ArchivePath(archive, text[ending.end() :], status)
    return None
