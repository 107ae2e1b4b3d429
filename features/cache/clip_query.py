"""The clips of a cache lookup as columns, with the current state of their media files."""

import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.features import archives
from avfuse.features.cache.fingerprint import MISSING, digest
from avfuse.features.clips import Clip


class ClipQuery:
    """Clips with distinct ids. Their media files are checked once, on first use, for all features."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self.clips = clips
        self.start = _seconds([clip.start for clip in clips])
        self.end = _seconds([clip.end for clip in clips])
        self._digests: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.clips)

    @cached_property
    def ids(self) -> pd.Index:
        """The ids as UTF-8 bytes, as in shards."""
        return pd.Index([clip.clip_id.encode() for clip in self.clips], dtype=object)

    def positions(self, clip_ids: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """The index of each id among these clips; -1 for one that is not among them."""
        return self.ids.get_indexer(clip_ids.astype(object))  # type: ignore[no-any-return]

    @cached_property
    def media(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Size and modification time of each clip's media file; size -1 if it is missing."""
        archives.index_all(clip.path for clip in self.clips)
        known: dict[str, tuple[int, int]] = {}
        folders: dict[str, bool | archives.Folder | None] = {}
        states = []
        for clip in self.clips:
            path = str(clip.path)
            state = known.get(path)
            if state is None:
                state = known[path] = _state(path, folders)
            states.append(state)
        columns = np.array(states, dtype=np.int64).reshape(-1, 2)
        return columns[:, 0], columns[:, 1]

    def digest(self, position: int) -> bytes:
        """The digest of the current media file of the clip at `position`."""
        if position not in self._digests:
            self._digests[position] = digest(self.clips[position].path, int(self.media[0][position]))
        return self._digests[position]


def _state(path: str, folders: dict[str, bool | archives.Folder | None]) -> tuple[int, int]:
    """Size and modification time of one file. Missing folders and archives are looked up once, not once per file: a
    cache may have been copied without its media."""
    parent, name = os.path.split(path)
    if parent not in folders:
        folders[parent] = os.path.isdir(parent or os.curdir) or archives.folder(parent)
    folder = folders[parent]
    if isinstance(folder, archives.Folder):
        return folder.state(name) or (MISSING.size, MISSING.mtime_ns)
    if folder:
        try:
            status = os.stat(path)
        except OSError:
            pass
        else:
            return status.st_size, status.st_mtime_ns
    return MISSING.size, MISSING.mtime_ns


def _seconds(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
