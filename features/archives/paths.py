"""Paths that lead into an archive, as if it were a folder: `DIR/vggsound_00.tar.gz/video/ID.mp4`."""

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

_SUFFIX = r"\.(?:tar(?:\.(?:gz|bz2|xz|zst|lz4))?|tgz|tbz2?|txz|tzst)"
_NAMED = re.compile(_SUFFIX + r"\Z", re.IGNORECASE)
_INSIDE = re.compile(_SUFFIX + "/", re.IGNORECASE)


class Place(NamedTuple):
    """A place in an archive. member: its name there; status: the archive's, as it is now."""

    archive: str
    member: str
    status: os.stat_result


def is_archive(path: str | Path) -> bool:
    """Whether a file is called as archives are, those included that cannot be read in place."""
    return _NAMED.search(os.fspath(path)) is not None


def split(path: str | Path) -> Place | None:
    """Where in an archive a path leads; None for one that leads into none. A folder called `x.tar` is a folder."""
    text = os.fspath(path).replace(os.sep, "/")
    for ending in _INSIDE.finditer(text):
        archive = text[: ending.end() - 1]
        try:
            status = os.stat(archive)
        except (OSError, ValueError):  # the latter for a path with a null character
            return None
        if stat.S_ISREG(status.st_mode):
            return Place(archive, text[ending.end() :], status)
    return None
