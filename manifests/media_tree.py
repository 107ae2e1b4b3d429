"""The media files below a folder, by name: how official lists find their clips."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from avfuse.features.archives import index, index_all, is_archive
from avfuse.features.errors import UsageError
from avfuse.features.media import MEDIA_SUFFIXES

SOUND_SUFFIXES = frozenset([".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac"])

_VIDEO_ID = re.compile(r"(?P<id>.{11})(?:_(?P<start>\d+))?(?:_\d+)?", re.DOTALL)


@dataclass(frozen=True)
class MediaEntry:
    """One media file: its path relative to the root, through its archive where it lies in one; its size in bytes."""

    path: str
    size: int

    @property
    def stem(self) -> str:
        return os.path.splitext(os.path.basename(self.path))[0]


class MediaTree:
    """All media files below a root, in tar archives too, in the order of their paths. Links to folders are followed.

    Raises UsageError when the root is not a folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.problems: list[str] = []
        """What could not be looked into, or only in part, once `files` were asked for."""
        if not self.root.is_dir():
            raise UsageError(f"ROOT={root} is not a folder: name the folder that holds the clips")

    @cached_property
    def files(self) -> list[MediaEntry]:
        """Empty files stand behind all others, before them sound files, and what lies in archives behind plain files of
        the same kind: the first file of a name is the one to use."""
        plain, archives = [], []
        below = len(os.path.join(self.root, ""))
        for path, size in _files(self.root, set()):
            relative = path[below:]
            if is_archive(path):
                archives.append(relative)
            elif _suffix(path) in MEDIA_SUFFIXES:
                plain.append(MediaEntry(relative, size))
        found = sorted(plain, key=lambda file: file.path) + list(self._in_archives(sorted(archives)))
        named = [file for file in found if _is_text(file.path)]
        if len(named) < len(found):
            self.problems.append(f"{len(found) - len(named)} files have names that are not UTF-8: rename them")
        return sorted(named, key=lambda file: (file.size == 0, _suffix(file.path) in SOUND_SUFFIXES))

    def _in_archives(self, found: list[str]) -> Iterator[MediaEntry]:
        """A large .tar.gz takes minutes the first time."""
        index_all(self.root / relative / "x" for relative in found)
        for relative in found:
            try:
                archive = index(self.root / relative)
            except UsageError as error:
                self.problems.append(str(error))
                continue
            self.problems += [
                f"{relative}: {text}" for text in (archive.problem, archive.unsaved_reason) if text is not None
            ]
            for name in sorted(archive.entries):
                if _suffix(name) in MEDIA_SUFFIXES and not os.path.basename(name).startswith("."):
                    yield MediaEntry(f"{relative}/{name}", archive.entries[name].size)

    @cached_property
    def sizes(self) -> dict[str, int]:
        return {file.path: file.size for file in self.files}

    def by_stem(self, *, ignore_case: bool = False) -> dict[str, str]:
        """Path by name without suffix."""
        paths: dict[str, str] = {}
        for file in self.files:
            paths.setdefault(file.stem.casefold() if ignore_case else file.stem, file.path)
        return paths

    def by_video(self, ids: pd.Series, starts: pd.Series) -> tuple[pd.Series, int]:
        """Paths of excerpts of YouTube videos, None where there is none.

        Args:
            ids: YouTube ids. starts: whole seconds into the video.

        Returns:
            The paths, of files named `ID_START` or `ID_START_END` whatever their zeros, else `ID` alone where only one
            excerpt of that video is asked for; and how many were found by their id alone.
        """
        exact: dict[tuple[str, int], str] = {}
        alone: dict[str, str] = {}
        for file in self.files:
            matched = _VIDEO_ID.fullmatch(file.stem)
            if matched is None:
                continue
            if matched["start"] is None:
                alone.setdefault(matched["id"], file.path)
            else:
                exact.setdefault((matched["id"], int(matched["start"])), file.path)
        asked = list(zip(ids.tolist(), starts.astype(int).tolist(), strict=True))
        times = Counter(video for video, _ in asked)
        paths = [exact.get(key) or (alone.get(key[0]) if times[key[0]] == 1 else None) for key in asked]
        by_id = sum(path is not None and key not in exact for key, path in zip(asked, paths, strict=True))
        return pd.Series(paths, index=ids.index, dtype=object), by_id


def _files(folder: Path | str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Every file below a folder with its size; folders that links lead to in circles are entered once."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(entry.path, seen)
            elif entry.is_file():
                yield entry.path, entry.stat().st_size


def _is_text(path: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in path)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
