"""Batches of features that are larger than memory. Shards are read whole, and verified.

The order of clips depends only on the clips, the seed and the epoch. Clips are read in windows of a few shards: with
shuffling, shards are assigned to windows at random, and a window's clips are shuffled. One thread reads the next window
while batches are made of the current one. No file stays open between calls, so a stream can be forked and pickled.
"""

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avfuse.features.cache.clip_query import ClipQuery
from avfuse.features.cache.shard_reader import Shard, read_rows
from avfuse.features.cache.store import DONE, FeatureStore
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.spec import FeatureSpec
from avfuse.moved_modules import renamed

WINDOW_BYTES = 512 * 2**20

_KEPT_SHARE = 4
"""Shards that later windows need again may use a quarter of a window's bytes."""

Positions = NDArray[np.int64]
Rows = NDArray[np.generic]
Source = FeatureStore | tuple[Path, str, FeatureSpec]
"""A feature's store, or the (cache, collection, spec) of one."""


@dataclass(frozen=True)
class FeatureBatch:
    """A batch of B clips."""

    data: dict[str, Rows]  #: by feature, `(B, *shape)`, NaN (0 in integers) where the feature is missing
    present: dict[str, NDArray[np.bool_]]  #: by feature, (B,), the clips that have it
    index: Positions  #: (B,), positions in the stream's list of clips


class FeatureStream:
    """Batches of several features of a list of clips. The cache is searched once; shards added later are not used.

    A reader holds at most `memory_bytes`: two windows, one in use and one being read, and per feature a few shards that
    later windows need. Each shard is read once per epoch if all features have the same clips per shard, as after one
    extraction, or if unshuffled clips are in the order of the shards. Otherwise shards may be read again, at worst once
    per window.
    """

    def __init__(
        self,
        features: Mapping[str, Source],
        clips: Sequence[Clip],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        """Locate the rows of the features.

        Args:
            features: what to stream, under names of your choice.
            clips: with distinct ids. Clips without any of the features are skipped.
            batch_size: clips per batch; a reader's last one may have fewer.
            seed: of the order, together with the epoch.
            shuffle: random order, or exactly the order of the clips.
            window_bytes: the size of a window, in which clips are shuffled and read ahead; at least one shard.

        Raises UsageError if a shard's tables are damaged, no clip has any of the features, or a size is below 1.
        """
        if batch_size < 1 or window_bytes < 1:
            raise UsageError(f"batches of {batch_size} clips, windows of {window_bytes} bytes: both must be at least 1")
        query = ClipQuery(clips)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self._features = {name: _locate_rows(source, query) for name, source in features.items()}
        if not any(feature.present.any() for feature in self._features.values()):
            names = ", ".join(feature.spec.name for feature in self._features.values()) or "none is named"
            raise UsageError(f"none of the {len(clips)} clips has any of the features ({names}): run make extract")
        self._window_bytes = window_bytes
        self._bytes_per_clip = sum(feature.spec.bytes_per_clip for feature in self._features.values())
        largest_first = sorted(self._features.values(), key=lambda feature: -feature.spec.bytes_per_clip)
        self._shard_groups = _split_by_shard(largest_first, shuffle)

    @property
    def specs(self) -> dict[str, FeatureSpec]:
        return {name: feature.spec for name, feature in self._features.items()}

    @property
    def present(self) -> dict[str, NDArray[np.bool_]]:
        """Mask (n,) of the clips that have a feature, by feature."""
        return {name: feature.present for name, feature in self._features.items()}

    @cached_property
    def positions(self) -> Positions:
        """The positions of the clips that are streamed, ascending."""
        return np.sort(np.concatenate(self._shard_groups))

    @property
    def memory_bytes(self) -> int:
        """An upper bound on the memory of one reader, up to a scratch block, with the batch in the making and the one
        in use."""
        window = max(self._clips_per_window, *map(len, self._shard_groups))
        shards = sum(
            (feature.kept_shards(self._kept_bytes) + 1) * feature.shard_bytes for feature in self._features.values()
        )
        return 2 * (window + self.batch_size) * self._bytes_per_clip + shards

    def order(self, epoch: int = 0, part: int = 0, parts: int = 1) -> Positions:
        """The positions of the clips in the order of `batches`, with a dropped last batch."""
        windows = self._windows(epoch, part, parts)
        return np.concatenate([np.empty(0, np.int64), *(window.positions[window.order] for window in windows)])

    def batches(self, epoch: int = 0, part: int = 0, parts: int = 1) -> Iterator[FeatureBatch]:
        """Iterate over one epoch, or over one reader's share of it. The shares cover every clip once.

        When closed early, it ends its thread within the time of reading one shard.

        Args:
            epoch: its number, which decides the order.
            part: this reader's number, from 0.
            parts: the number of readers, among which shards are distributed.

        Raises DamagedShard, and UsageError for a shard that can no longer be read.
        """
        windows = self._windows(epoch, part, parts)
        left = sum(len(window.order) for window in windows)
        if not left:
            return
        batch, filled = self._empty_batch(min(left, self.batch_size)), 0
        with closing(self._read_ahead(windows)) as loaded:
            for window, rows in loaded:
                used = 0
                while used < len(window.order):
                    order = window.order[used : used + len(batch.index) - filled]
                    self._fill(batch, slice(filled, filled + len(order)), window, rows, order)
                    filled, used = filled + len(order), used + len(order)
                    if filled == len(batch.index):
                        yield batch
                        left -= filled
                        if not left:
                            return
                        batch, filled = self._empty_batch(min(left, self.batch_size)), 0

    @property
    def _kept_bytes(self) -> int:
        return self._window_bytes // _KEPT_SHARE // len(self._features)

    def _windows(self, epoch: int, part: int, parts: int) -> "list[_Window]":
        if not 0 <= part < parts:
            raise ValueError(f"part {part} of {parts}: parts are counted from 0")
        groups = self._shard_groups
        rng = np.random.default_rng([self.seed, epoch])
        numbers = rng.permutation(len(groups)) if self.shuffle else np.arange(len(groups))
        window_rng = rng.spawn(parts)[part]
        windows = []
        for window in _pack_windows([groups[number] for number in numbers[part::parts]], self._clips_per_window):
            positions = np.concatenate(window)
            order = window_rng.permutation(len(positions)) if self.shuffle else np.arange(len(positions))
            windows.append(_Window(positions, order))
        return windows

    @property
    def _clips_per_window(self) -> int:
        return self._window_bytes // self._bytes_per_clip

    def _read_ahead(self, windows: "Sequence[_Window]") -> "Generator[tuple[_Window, dict[str, Rows]], None, None]":
        """Each window with its rows, in the order of its positions. The rows are valid until the next window."""
        if not windows:
            return
        longest = max(len(window.positions) for window in windows)
        readers = {name: _ShardCache(feature, windows, self._kept_bytes) for name, feature in self._features.items()}
        buffers = [
            {name: np.empty((longest, *feature.spec.shape), feature.dtype) for name, feature in self._features.items()}
            for _ in windows[:2]
        ]
        stopped = threading.Event()

        def read(number: int) -> dict[str, Rows]:
            positions = windows[number].positions
            rows = {name: buffer[: len(positions)] for name, buffer in buffers[number % 2].items()}
            for name, reader in readers.items():
                reader.read(positions, rows[name], stopped)
            return rows

        with ThreadPoolExecutor(1, thread_name_prefix="feature-stream") as thread:
            try:
                ahead = thread.submit(read, 0)
                for number, window in enumerate(windows):
                    rows = ahead.result()
                    if number + 1 < len(windows):
                        ahead = thread.submit(read, number + 1)
                    yield window, rows
            finally:
                stopped.set()

    def _empty_batch(self, size: int) -> FeatureBatch:
        data = {name: np.empty((size, *feature.spec.shape), feature.dtype) for name, feature in self._features.items()}
        present = {name: np.empty(size, np.bool_) for name in self._features}
        return FeatureBatch(data, present, np.empty(size, np.int64))

    def _fill(
        self, batch: FeatureBatch, place: slice, window: "_Window", rows: Mapping[str, Rows], order: Positions
    ) -> None:
        index = window.positions[order]
        batch.index[place] = index
        for name, feature in self._features.items():
            batch.present[name][place] = feature.present[index]
            # mode="raise" would make numpy buffer the output.
            np.take(rows[name], order, axis=0, out=batch.data[name][place], mode="clip")


class _Window(NamedTuple):
    """Clips that are read together."""

    positions: Positions  #: (m,), in the order of their rows in memory
    order: Positions  #: (m,), the order in which they are streamed


@dataclass(frozen=True)
class _RowLocations:
    """The locations of one feature's rows."""

    spec: FeatureSpec
    shards: tuple[Shard, ...]
    shard: NDArray[np.int32]  #: (n,), the shard's number for each clip; -1 for a clip without the feature
    row: NDArray[np.int32]  #: (n,), the row in that shard

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        return self.shard >= 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.spec.dtype)

    @cached_property
    def longest_shard(self) -> int:
        """The number of rows in the longest shard that is read."""
        return max((len(self.shards[number].clip_id) for number in np.unique(self.shard[self.present])), default=0)

    @property
    def shard_bytes(self) -> int:
        return self.longest_shard * self.spec.bytes_per_clip

    def kept_shards(self, kept_bytes: int) -> int:
        return max(1, kept_bytes // max(1, self.shard_bytes))


class _ShardCache:
    """Reads one feature's rows, window by window. Caches shards that later windows need (LRU)."""

    def __init__(self, feature: _RowLocations, windows: Sequence[_Window], kept_bytes: int) -> None:
        self._feature = feature
        self._room = feature.kept_shards(kept_bytes)
        needed = feature.shard[np.concatenate([window.positions for window in windows])]
        self._left = np.bincount(needed[needed >= 0], minlength=len(feature.shards))
        self._kept: dict[int, Rows] = {}
        self._spare: list[Rows] = []

    def read(self, positions: Positions, out: Rows, stopped: threading.Event) -> None:
        """Read the rows of some clips into `out` (m, *shape). Stops, with `out` incomplete, when `stopped` is set."""
        shard, row = self._feature.shard[positions], self._feature.row[positions]
        out[shard < 0] = 0 if self._feature.spec.dtype == "uint8" else np.nan
        # Cached shards come first, before reads evict them.
        for number, at in sorted(_positions_by_shard(shard), key=lambda entry: entry[0] not in self._kept):
            if stopped.is_set():
                return
            self._left[number] -= len(at)
            first, last = at[0], at[-1] + 1
            whole = len(at) == last - first == len(self._feature.shards[number].clip_id)
            if whole and (np.diff(row[at]) == 1).all():
                self._read_rows(number, out[first:last])
                continue
            rows = self._rows_of(number)
            for place, source in zip(at.tolist(), row[at].tolist(), strict=True):
                out[place] = rows[source]

    def _rows_of(self, number: int) -> Rows:
        """All rows of a shard, valid until the next call."""
        rows = self._kept.pop(number, None)
        if rows is None:
            rows = self._spare.pop() if self._spare else self._new()
            self._read_rows(number, rows[: len(self._feature.shards[number].clip_id)])
        if self._left[number]:
            self._kept[number] = rows
            if len(self._kept) > self._room:
                self._spare.append(self._kept.pop(next(iter(self._kept))))
        else:
            self._spare.append(rows)
        return rows

    def _new(self) -> Rows:
        return np.empty((self._feature.longest_shard, *self._feature.spec.shape), self._feature.dtype)

    def _read_rows(self, number: int, out: Rows) -> None:
        shard = self._feature.shards[number]
        try:
            read_rows(shard, self._feature.spec, out)
        except OSError as error:
            raise UsageError(
                f"{shard.path} can no longer be read ({error.strerror}): start again, and extract what was removed"
            ) from error


def _locate_rows(source: Source, query: ClipQuery) -> _RowLocations:
    store = source if isinstance(source, FeatureStore) else FeatureStore(*source)
    result = store.lookup(query)
    done = result.outcome == DONE
    return _RowLocations(store.spec, result.shards, np.where(done, result.shard, -1), np.where(done, result.row, -1))


def _split_by_shard(largest_first: Sequence[_RowLocations], shuffle: bool) -> list[Positions]:
    """The positions of clips that have a feature, split by shard. For shuffling, all clips of a shard are one group, in
    its order; otherwise clips keep their order, and a group ends where the shard changes."""
    group = _group_by_shard(largest_first)
    positions = np.flatnonzero(group >= 0)
    if shuffle:
        positions = positions[np.lexsort((largest_first[0].row[positions], group[positions]))]
    return np.split(positions, np.flatnonzero(np.diff(group[positions])) + 1)


def _group_by_shard(largest_first: Sequence[_RowLocations]) -> Positions:
    """The group (n,) of each clip: its shard of the largest feature. A clip without that feature joins the clips of its
    shard of a smaller one. -1 for clips without any feature."""
    group = np.full(len(largest_first[0].shard), -1)
    for feature in largest_first:
        grouped = np.flatnonzero(feature.present & (group >= 0))
        ungrouped = np.flatnonzero(feature.present & (group < 0))
        group_of_shard = group.max(initial=-1) + 1 + np.arange(len(feature.shards))
        group_of_shard[feature.shard[grouped]] = group[grouped]
        group[ungrouped] = group_of_shard[feature.shard[ungrouped]]
    return group


def _pack_windows(groups: Sequence[Positions], clips: int) -> Iterator[list[Positions]]:
    """Consecutive groups of at most `clips` clips together; a larger group is a window of its own."""
    window: list[Positions] = []
    size = 0
    for group in groups:
        if window and size + len(group) > clips:
            yield window
            window, size = [], 0
        window.append(group)
        size += len(group)
    if window:
        yield window


def _positions_by_shard(shard: NDArray[np.int32]) -> Iterator[tuple[int, Positions]]:
    """Each shard number but -1, with its positions, ascending."""
    order = np.argsort(shard, kind="stable")[np.count_nonzero(shard < 0) :]
    for at in np.split(order, np.flatnonzero(np.diff(shard[order])) + 1) if len(order) else []:
        yield int(shard[at[0]]), at


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Batch": "FeatureBatch"})
