"""`avfuse.load`: the cached rows of a feature as one array."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.features.cache.store import DONE, FeatureStore, Rows, equal_or_nan, find_spec, gather, retry_if_removed
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.spec import FeatureSpec
from avfuse.moved_modules import renamed


@dataclass(frozen=True)
class FeatureTable:
    """The cached rows of one feature, sorted by clip id."""

    spec: FeatureSpec  #: the feature
    data: NDArray[np.generic]  #: `(n, *shape)`
    encoded_ids: NDArray[np.bytes_]  #: (n,), clip ids as UTF-8 bytes

    @cached_property
    def clip_ids(self) -> list[str]:
        """The n clip ids."""
        return [clip_id.decode() for clip_id in self.encoded_ids.tolist()]


def load(
    dataset: str, feature_name: str, cache: str | Path = "cache", clips: Sequence[Clip] | None = None
) -> FeatureTable:
    """Load the cached rows of one feature of a data set's collection, verified: all of them, or those of some clips.

    Args:
        dataset: the collection's name, for example `demo`.
        feature_name: for example `lite:frames`; `name@key` picks one of several variants.
        cache: the cache folder.
        clips: load only these clips' rows, where they are cached for this interval and media file. Without `clips`,
            media files are not checked, and the later of two media files of one clip id counts.

    Raises:
        UsageError: no feature of that name is cached, or several variants are; a shard is damaged; or, without
            `clips`, a clip is cached for several intervals.
    """
    store = FeatureStore(Path(cache), dataset, find_spec(Path(cache), dataset, feature_name))
    if clips is not None:
        loaded = store.load(sorted(clips, key=lambda clip: clip.clip_id.encode()))
        ids = np.array(sorted(clip.clip_id.encode() for clip in clips), dtype=bytes)
        return FeatureTable(store.spec, loaded.data[loaded.present], ids[loaded.present])
    return retry_if_removed(lambda: _load_all(store, dataset, feature_name))


def _load_all(store: FeatureStore, dataset: str, feature_name: str) -> FeatureTable:
    shards = sorted(store.shards(), key=lambda shard: shard.clip_id[:1].tobytes())
    rows = Rows.of(shards)
    group = np.where(rows.outcome == DONE, _ranks(rows.clip_id), -1)
    if len(shards) and group.max(initial=-1) < len(group) - 1:
        _check_one_interval(rows, group, dataset, feature_name)
    best = rows.best_rows(group)
    data = gather(shards, rows.shard[best], rows.row[best], store.spec)
    return FeatureTable(store.spec, data, rows.clip_id[best])


def _ranks(ids: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """The rank of each id among the distinct ones. Chunks of a sorted manifest are sorted already."""
    if (ids[1:] > ids[:-1]).all():
        return np.arange(len(ids))
    return pd.factorize(ids.astype(object), sort=True)[0]  # type: ignore[no-any-return]


def _check_one_interval(rows: Rows, group: NDArray[np.int64], dataset: str, feature_name: str) -> None:
    """Raises UsageError for a clip id with several intervals, between which only the data set's clips can choose."""
    done = np.flatnonzero(group >= 0)
    first = np.zeros(group.max(initial=-1) + 1, dtype=np.int64)
    first[group[done][::-1]] = done[::-1]
    same = first[group[done]]
    for column in (rows.start, rows.end):
        differs = ~equal_or_nan(column[done], column[same])
        if differs.any():
            clip_id = rows.clip_id[done[differs][0]].decode()
            raise UsageError(
                f"'{feature_name}' of {dataset} is cached for several intervals under one id, for example '{clip_id}': "
                "name the clips that you mean (avfuse.load(..., clips=[...])), or remove rows that no data set uses "
                f"(avfuse features remove --dataset {dataset} --unreachable)"
            )


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Table": "FeatureTable"})
