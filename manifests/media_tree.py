"""Media files below a folder, by which official lists find their clips."""

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
    """One media file."""

    path: str
    """Relative to the root, through its archive where it lies in one."""
    size: int
    """Size in bytes."""

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
        """Archives and names that could not be read, known once `files` is."""
        if not self.root.is_dir():
            raise UsageError(f"ROOT={root} is not a folder: name the folder that holds the clips")

    @cached_property
    def files(self) -> list[MediaEntry]:
        """Videos first, then sound files, then empty files; within each, plain files before those in archives. The
        first file of a name is the one to use."""
        plain, archives = [], []
        root_length = len(os.path.join(self.root, ""))
        for path, size in _walk(self.root, set()):
            relative = path[root_length:]
            if is_archive(path):
                archives.append(relative)
            elif _suffix(path) in MEDIA_SUFFIXES:
                plain.append(MediaEntry(relative, size))
        files = sorted(plain, key=lambda file: file.path) + list(self._in_archives(sorted(archives)))
        readable = [file for file in files if _is_text(file.path)]
        if len(readable) < len(files):
            self.problems.append(f"{len(files) - len(readable)} files have names that are not UTF-8: rename them")
        return sorted(readable, key=lambda file: (file.size == 0, _suffix(file.path) in SOUND_SUFFIXES))

    def _in_archives(self, archives: list[str]) -> Iterator[MediaEntry]:
        """The media files in archives, given by relative paths. A large .tar.gz takes minutes the first time."""
        index_all(self.root / relative / "x" for relative in archives)
        for relative in archives:
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
        """Bytes by path."""
        return {file.path: file.size for file in self.files}

    def by_stem(self, *, ignore_case: bool = False) -> dict[str, str]:
        """Paths by file name without suffix."""
        paths: dict[str, str] = {}
        for file in self.files:
            paths.setdefault(file.stem.casefold() if ignore_case else file.stem, file.path)
        return paths

    def by_video(self, ids: pd.Series, starts: pd.Series) -> tuple[pd.Series, int]:
        """Find the files of excerpts of YouTube videos.

        Args:
            ids: YouTube ids.
            starts: whole seconds into the videos.

        Returns:
            Paths, None where there is no file: of files named `ID_START` or `ID_START_END` whatever their zeros, else
            of `ID` alone if no other excerpt of that video is in `ids`; and how many were found by their id alone.
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
        excerpts = list(zip(ids.tolist(), starts.astype(int).tolist(), strict=True))
        counts = Counter(video for video, _ in excerpts)
        paths = [exact.get(key) or (alone.get(key[0]) if counts[key[0]] == 1 else None) for key in excerpts]
        by_id = sum(path is not None and key not in exact for key, path in zip(excerpts, paths, strict=True))
        return pd.Series(paths, index=ids.index, dtype=object), by_id


def _walk(folder: Path | str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Path and size of every file below a folder; a folder that links lead back to is entered once."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, seen)
            elif entry.is_file():
                yield entry.path, entry.stat().st_size


def _is_text(path: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in path)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
