"""`avfuse.load`: the cached rows of a feature as one array."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avfuse.features.cache.store import DONE, FeatureStore, Rows, equal, find_spec, gather, retry_if_removed
from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.features.spec import FeatureSpec
from avfuse.moved_modules import renamed


@dataclass(frozen=True)
class FeatureTable:
    """Every cached row of one feature: data `(n, *shape)`, sorted by clip id."""

    spec: FeatureSpec
    data: NDArray[np.generic]
    encoded_ids: NDArray[np.bytes_]

    @cached_property
    def clip_ids(self) -> list[str]:
        return [clip_id.decode() for clip_id in self.encoded_ids.tolist()]


def load(
    dataset: str, feature_name: str, cache: str | Path = "cache", clips: Sequence[Clip] | None = None
) -> FeatureTable:
    """All cached rows of one feature of a data set's collection, or those of some clips, read and verified.

    Args:
        dataset: the collection's name, for example `demo`.
        feature_name: for example `lite:frames`; `name@key` picks one of several variants.
        cache: the cache folder.
        clips: these clips' rows alone, where they are cached for this interval and this media file. Without them media
            files are not looked at, and of two files that stood under one id the later one counts.

    Raises:
        UsageError: nothing of that name is cached, several variants are, a shard is damaged, or, without `clips`, a
            clip is cached for several intervals.
    """
    store = FeatureStore(Path(cache), dataset, find_spec(Path(cache), dataset, feature_name))
    if clips is not None:
        loaded = store.load(sorted(clips, key=lambda clip: clip.clip_id.encode()))
        ids = np.array(sorted(clip.clip_id.encode() for clip in clips), dtype=bytes)
        return FeatureTable(store.spec, loaded.data[loaded.present], ids[loaded.present])
    return retry_if_removed(lambda: _every_row(store, dataset, feature_name))


def _every_row(store: FeatureStore, dataset: str, feature_name: str) -> FeatureTable:
    shards = sorted(store.shards(), key=lambda shard: shard.clip_id[:1].tobytes())
    rows = Rows.of(shards)
    code = _ranks(rows.clip_id)
    code = np.where(rows.outcome == DONE, code, -1)
    if len(shards) and code.max(initial=-1) < len(code) - 1:
        _check_one_interval(rows, code, dataset, feature_name)
    best = rows.best_rows(code)
    data = gather(shards, rows.shard[best], rows.row[best], store.spec)
    return FeatureTable(store.spec, data, rows.clip_id[best])


def _ranks(ids: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """The place of each id among the distinct ones, sorted. Chunks of a sorted manifest are sorted already."""
    if (ids[1:] > ids[:-1]).all():
        return np.arange(len(ids))
    return pd.factorize(ids.astype(object), sort=True)[0]  # type: ignore[no-any-return]


def _check_one_interval(rows: Rows, code: NDArray[np.int64], dataset: str, feature_name: str) -> None:
    """Which of two intervals under one id is meant, only the data set's clips can tell."""
    counted = np.flatnonzero(code >= 0)
    first = np.zeros(code.max(initial=-1) + 1, dtype=np.int64)
    first[code[counted][::-1]] = counted[::-1]
    same = first[code[counted]]
    for column in (rows.start, rows.end):
        differs = ~equal(column[counted], column[same])
        if differs.any():
            clip_id = rows.clip_id[counted[differs][0]].decode()
            raise UsageError(
                f"'{feature_name}' of {dataset} is cached for several intervals under one id, '{clip_id}' for one: "
                "name the clips that are meant (avfuse.load(..., clips=[...])), or remove what no data set uses "
                f"(avfuse features remove --dataset {dataset} --unreachable)"
            )


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Table": "FeatureTable"})
