"""Features too large for memory, in batches: shard after shard, each read whole and verified on the way.

Which clip comes when is decided before anything is read, from the clips, the seed and the epoch alone. Clips are read a
window at a time, a few shards' worth; with shuffling, shards go into windows at random and a window's clips come out of
it at random. One thread reads the next window while batches are made of the present one. Between two calls nothing is
open, so a stream can be forked and pickled at any time; what it holds is paths and tables.
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
"""Shards that later windows need too may take a fourth of a window's bytes."""

Positions = NDArray[np.int64]
Rows = NDArray[np.generic]
Source = FeatureStore | tuple[Path, str, FeatureSpec]
"""A feature's store, or the (cache, collection, spec) of one."""


@dataclass(frozen=True)
class FeatureBatch:
    """Some clips' features. By feature: data `(B, *shape)`, NaN (0 in whole numbers) where `present` (B,) is False.
    index (B,): where the clips stand in the stream's list."""

    data: dict[str, Rows]
    present: dict[str, NDArray[np.bool_]]
    index: Positions


class FeatureStream:
    """Several features of a list of clips, batch after batch. The cache is looked at once, here; shards that are added
    later are not seen.

    A reader holds at most `memory_bytes`: two windows, one in use and one being read, and for each feature a few shards
    of which clips are still to come. Every shard is read once an epoch where all features' shards are cut alike, as
    those of one extraction are, or where clips that are not shuffled stand in the order of the shards. Else a shard is
    read again where its clips are too far apart; at worst, with clips in quite another order, once for every window.
    """

    def __init__(
        self,
        features: Mapping[str, Source],
        clips: Sequence[Clip],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        """Look up where the features lie.

        Args:
            features: what to stream, under names of your own.
            clips: with distinct ids. Those that have none of the features never come.
            batch_size: clips in a batch; only a reader's last one may have fewer.
            seed: of the order, together with the epoch.
            shuffle: at random, or in the clips' own order exactly.
            drop_last: leave out a last batch that would have fewer clips. Each of several readers leaves out its own.
            window_bytes: how much is shuffled, and read ahead, at a time. A window holds one shard's clips at least.

        Raises UsageError: a shard's tables are damaged, no clip has any of the features, or a size is below 1.
        """
        if batch_size < 1 or window_bytes < 1:
            raise UsageError(f"batches of {batch_size} clips, windows of {window_bytes} bytes: both must be at least 1")
        asked = ClipQuery(clips)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self._features = {name: _find(source, asked) for name, source in features.items()}
        if not any(feature.present.any() for feature in self._features.values()):
            names = ", ".join(feature.spec.name for feature in self._features.values()) or "none is named"
            raise UsageError(
                f"none of the {len(clips)} clips has any of the features asked for ({names}): run make extract"
            )
        self._window_bytes = window_bytes
        self._bytes_per_clip = sum(feature.spec.bytes_per_clip for feature in self._features.values())
        largest_first = sorted(self._features.values(), key=lambda feature: -feature.spec.bytes_per_clip)
        self._units = _units(largest_first, shuffle)

    @property
    def specs(self) -> dict[str, FeatureSpec]:
        return {name: feature.spec for name, feature in self._features.items()}

    @property
    def present(self) -> dict[str, NDArray[np.bool_]]:
        """By feature, which of the clips (n,) have it."""
        return {name: feature.present for name, feature in self._features.items()}

    @cached_property
    def positions(self) -> Positions:
        """Which clips come, as positions in their list, ascending."""
        return np.sort(np.concatenate(self._units))

    @property
    def memory_bytes(self) -> int:
        """The most that one reader holds at a time, up to a scratch block: the batch it is making included, and the one
        it has given."""
        window = max(self._clips_per_window, *map(len, self._units))
        shards = sum(
            (feature.kept_shards(self._kept_bytes) + 1) * feature.shard_bytes for feature in self._features.values()
        )
        return 2 * (window + self.batch_size) * self._bytes_per_clip + shards

    def order(self, epoch: int = 0, part: int = 0, parts: int = 1) -> Positions:
        """The clips in the order in which `batches` gives them, a last batch that is dropped included."""
        windows = self._windows(epoch, part, parts)
        return np.concatenate([np.empty(0, np.int64), *(window.positions[window.order] for window in windows)])

    def batches(self, epoch: int = 0, part: int = 0, parts: int = 1) -> Iterator[FeatureBatch]:
        """One epoch, or one of several readers' share of it. All shares together are every clip, once.

        Ends its thread when it is closed early, within the time one shard takes to read.

        Args:
            epoch: another epoch is another order, the same for any number of readers.
            part, parts: this reader's number, from 0, and how many there are. Shards are dealt in turn.

        Raises DamagedShard, and UsageError for a shard that cannot be read any more.
        """
        windows = self._windows(epoch, part, parts)
        left = sum(len(window.order) for window in windows)
        if self.drop_last:
            left -= left % self.batch_size
        if not left:
            return
        batch, filled = self._empty_batch(min(left, self.batch_size)), 0
        with closing(self._read_ahead(windows)) as loaded:
            for window, rows in loaded:
                used = 0
                while used < len(window.order):
                    some = window.order[used : used + len(batch.index) - filled]
                    self._fill(batch, slice(filled, filled + len(some)), window, rows, some)
                    filled, used = filled + len(some), used + len(some)
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
        random = np.random.default_rng([self.seed, epoch])
        dealt = random.permutation(len(self._units)) if self.shuffle else np.arange(len(self._units))
        within = random.spawn(parts)[part]
        windows = []
        for units in _packed([self._units[number] for number in dealt[part::parts]], self._clips_per_window):
            positions = np.concatenate(units)
            order = within.permutation(len(positions)) if self.shuffle else np.arange(len(positions))
            windows.append(_Window(positions, order))
        return windows

    @property
    def _clips_per_window(self) -> int:
        return self._window_bytes // self._bytes_per_clip

    def _read_ahead(self, windows: "Sequence[_Window]") -> "Generator[tuple[_Window, dict[str, Rows]], None, None]":
        """Each window with its rows, in the order of its positions. They are good until the next is asked for."""
        if not windows:
            return
        longest = max(len(window.positions) for window in windows)
        readers = {name: _Reader(feature, windows, self._kept_bytes) for name, feature in self._features.items()}
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
        self, batch: FeatureBatch, place: slice, window: "_Window", rows: Mapping[str, Rows], some: Positions
    ) -> None:
        index = window.positions[some]
        batch.index[place] = index
        for name, feature in self._features.items():
            batch.present[name][place] = feature.present[index]
            # With mode="raise" numpy would fill an array of its own first.
            np.take(rows[name], some, axis=0, out=batch.data[name][place], mode="clip")


class _Window(NamedTuple):
    """Clips that are read together: positions (m,) as their rows lie in memory, and the order (m,) they come in."""

    positions: Positions
    order: Positions


@dataclass(frozen=True)
class _Feature:
    """Where one feature's rows lie: for each clip (n,) the shard's number and the row in it, -1 where it has none."""

    spec: FeatureSpec
    shards: tuple[Shard, ...]
    shard: NDArray[np.int32]
    row: NDArray[np.int32]

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        return self.shard >= 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.spec.dtype)

    @cached_property
    def longest_shard(self) -> int:
        """Rows of the longest shard that is read."""
        return max((len(self.shards[number].clip_id) for number in np.unique(self.shard[self.present])), default=0)

    @property
    def shard_bytes(self) -> int:
        return self.longest_shard * self.spec.bytes_per_clip

    def kept_shards(self, kept_bytes: int) -> int:
        return max(1, kept_bytes // max(1, self.shard_bytes))


class _Reader:
    """Reads one feature's rows, window after window. A shard that later windows need too is kept, as far as there is
    room; the one that was used longest ago goes first."""

    def __init__(self, feature: _Feature, windows: Sequence[_Window], kept_bytes: int) -> None:
        self._feature = feature
        self._room = feature.kept_shards(kept_bytes)
        asked = feature.shard[np.concatenate([window.positions for window in windows])]
        self._left = np.bincount(asked[asked >= 0], minlength=len(feature.shards))
        self._kept: dict[int, Rows] = {}
        self._spare: list[Rows] = []

    def read(self, positions: Positions, out: Rows, stopped: threading.Event) -> None:
        """The rows of these clips into `out` (m, *shape). Gives up, with `out` half filled, when `stopped` is set."""
        shard, row = self._feature.shard[positions], self._feature.row[positions]
        out[shard < 0] = 0 if self._feature.spec.dtype == "uint8" else np.nan
        # What is kept comes first, or it would make way for what is read now.
        for number, at in sorted(_by_shard(shard), key=lambda found: found[0] not in self._kept):
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
        """All rows of a shard. They are good until the next call."""
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
                f"{shard.path} was there and cannot be read any more ({error.strerror}): "
                "begin again, and extract again what was removed"
            ) from error


def _find(source: Source, asked: ClipQuery) -> _Feature:
    store = source if isinstance(source, FeatureStore) else FeatureStore(*source)
    found = store.lookup(asked)
    done = found.outcome == DONE
    return _Feature(store.spec, found.shards, np.where(done, found.shard, -1), np.where(done, found.row, -1))


def _units(largest_first: Sequence[_Feature], shuffle: bool) -> list[Positions]:
    """The clips that have a feature, cut where another shard begins. To be shuffled, all clips of a shard are together,
    as they lie in it; else they are in their own order."""
    group = _groups(largest_first)
    positions = np.flatnonzero(group >= 0)
    if shuffle:
        positions = positions[np.lexsort((largest_first[0].row[positions], group[positions]))]
    return np.split(positions, np.flatnonzero(np.diff(group[positions])) + 1)


def _groups(largest_first: Sequence[_Feature]) -> Positions:
    """Which clips are read together, (n,): those of one shard of the largest feature. A clip without it goes with the
    clips it shares a smaller feature's shard with. -1 for a clip that has no feature."""
    group = np.full(len(largest_first[0].shard), -1)
    for feature in largest_first:
        at_home = np.flatnonzero(feature.present & (group >= 0))
        homeless = np.flatnonzero(feature.present & (group < 0))
        home = group.max(initial=-1) + 1 + np.arange(len(feature.shards))
        home[feature.shard[at_home]] = group[at_home]
        group[homeless] = home[feature.shard[homeless]]
    return group


def _packed(units: Sequence[Positions], clips: int) -> Iterator[list[Positions]]:
    """Units, one after another, that have at most so many clips together; one that has more stands alone."""
    pack: list[Positions] = []
    packed = 0
    for unit in units:
        if pack and packed + len(unit) > clips:
            yield pack
            pack, packed = [], 0
        pack.append(unit)
        packed += len(unit)
    if pack:
        yield pack


def _by_shard(shard: NDArray[np.int32]) -> Iterator[tuple[int, Positions]]:
    """Every shard that is there, with where, ascending."""
    places = np.argsort(shard, kind="stable")[np.count_nonzero(shard < 0) :]
    for at in np.split(places, np.flatnonzero(np.diff(shard[places])) + 1) if len(places) else []:
        yield int(shard[at[0]]), at


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Batch": "FeatureBatch"})
